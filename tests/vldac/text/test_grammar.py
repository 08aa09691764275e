"""The table on the device: against the byte automaton it is folded from, and answers sampled under its mask."""

from __future__ import annotations

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vldac.text.automaton import finder, writer
from vldac.text.grammar import NEVER, ActionGrammar
from vldac.text.tokenizer import Vocabulary, encode, special_id

ACTIONS = ("turn_left", "turn_right", "turn", "+", "go to fridge 1", 'say "é🚪"')
LONGEST = 128  # tokens of the texts read here


@pytest.fixture(scope="module")
def free(text) -> ActionGrammar:
    return ActionGrammar.build(ACTIONS, text.vocabulary, "free")


@pytest.fixture(scope="module")
def strict(text) -> ActionGrammar:
    return ActionGrammar.build(ACTIONS, text.vocabulary, "grammar")


@jax.jit
def final_state(grammar: ActionGrammar, tokens: jax.Array, mask: jax.Array) -> jax.Array:
    """Reads answers [B, N] to their end."""
    last = grammar.states(tokens, mask)[:, -1]
    return jnp.where(mask[:, -1], grammar.advance(last, tokens[:, -1]), last)


def read(grammar: ActionGrammar, answers: list[list[int]]) -> np.ndarray:
    """The actions of token sequences; padded to one shape, 64 at a time, so that one program is compiled."""
    actions = []
    for start in range(0, len(answers), 64):
        tokens, mask = np.zeros((64, LONGEST), np.int32), np.zeros((64, LONGEST), bool)
        for row, answer in enumerate(answers[start : start + 64]):
            tokens[row, : len(answer)], mask[row, : len(answer)] = answer, True
        actions.extend(np.asarray(grammar.action(final_state(grammar, tokens, mask))).tolist())
    return np.array(actions[: len(answers)])


@pytest.mark.parametrize(
    ("answer", "action"),
    [
        ('{"thoughts": "", "action": "turn"}', "turn"),
        ('  {\n\t"thoughts" : "a" ,\r"action":"+" } ', "+"),
        ('I think {"thoughts": "a", "action": "turn_left"}. Done {', "turn_left"),
        # the key inside the thoughts, escaped and not
        (r'{"thoughts": "say \"action\": \"turn\"", "action": "+"}', "+"),
        ('{"thoughts": "say "action": "turn"", "action": "+"}', None),
        (r'{"thoughts": "\\", "action": "turn"}', "turn"),
        (r'{"thoughts": "\", "action": "turn"}', None),
        (r'{"thoughts": "\\\"}", "action": "turn"}', "turn"),
        ('{"thoughts": "}{", "action": "turn"}', "turn"),
        # cut short
        ('{"thoughts": "a", "action": "turn"', None),
        ('{"thoughts": "a", "action": "turn', None),
        ('"thoughts": "a", "action": "turn"}', None),
        # other keys, repeated keys, another order, no string
        ('{"thoughts": "a", "thoughts": "b", "action": "turn"}', None),
        ('{"thoughts": "a", "action": "turn", "action": "+"}', None),
        ('{"thoughts": "a", "action": "turn", "sure": "yes"}', None),
        ('{"action": "turn", "thoughts": "a"}', None),
        ('{"thoughts": "a", "action": 3}', None),
        ('{"thoughts": ["a"], "action": "turn"}', None),
        # unknown actions, other spellings
        ('{"thoughts": "a", "action": "jump"}', None),
        ('{"thoughts": "a", "action": "turn_lef"}', None),
        ('{"thoughts": "a", "action": "Turn"}', None),
        ('{"thoughts": "a", "action": " turn"}', None),
        (r'{"thoughts": "a", "action": "t\u0075rn"}', None),
        (r'{"thoughts": "a", "action": "say \"é🚪\""}', 'say "é🚪"'),
        # several answers: the one that ends last; a bad one takes nothing back
        ('{"thoughts": "a", "action": "turn"} {"thoughts": "b", "action": "+"}', "+"),
        ('{"thoughts": "a", "action": "+"}{"thoughts": "b", "action": "jump"}', "+"),
        # within another object or string
        ('{"answer": {"thoughts": "a", "action": "turn"}}', "turn"),
        ('{"thoughts": "{"thoughts": "a", "action": "turn"}", "action": "+"}', "turn"),
        ('{"thoughts": "{", "action": "{"thoughts": "a", "action": "+"}', "+"),
        ('{{{"thoughts": "a", "action": "turn"}', "turn"),
        # not a JSON string
        ('{"thoughts": "a\nb", "action": "turn"}', None),
        (r'{"thoughts": "\x41", "action": "turn"}', None),
        (r'{"thoughts": "\u00e", "action": "turn"}', None),
        (r'{"thoughts": "\u00e9\n\/", "action": "turn"}', "turn"),
        ("", None),
    ],
)
def test_free_decoding_reads(answer, action, text, free):
    rng = np.random.default_rng(0)
    ways = [encode(text.tokenizer, answer), *(text.cut(answer.encode(), rng) for _ in range(8))]
    assert set(read(free, ways).tolist()) == {ACTIONS.index(action) if action else -1}


def test_broken_utf8_is_no_answer_but_may_lie_around_one(text, free):
    good, bad = b'{"thoughts": "\xe2\x86\x91", "action": "turn"}', b'{"thoughts": "\xe2\x86", "action": "turn"}'
    cuts = [text.cut(answer, np.random.default_rng(0)) for answer in (good, bad, b"\xe2\x86" + good + b"\xff")]
    assert read(free, cuts).tolist() == [2, -1, 2]


def random_answers(text, rng: np.random.Generator, number: int) -> list[list[int]]:
    """Token sequences that are half likely to be, to hold, or nearly to hold answers."""
    pieces = [
        b'{"thoughts": "',
        b'", "action": "',
        b'"}',
        b'"',
        b"{",
        b"}",
        b"\\",
        b" ",
        b"turn",
        b"_left",
        b"\xe2",
        b"+",
    ]
    regular = [i for i, token in enumerate(text.vocabulary.bytes_of) if token is not None]
    answers = []
    for _ in range(number):
        thoughts = b"".join(pieces[i] for i in rng.integers(len(pieces), size=rng.integers(3)))
        name = json.dumps(ACTIONS[rng.integers(len(ACTIONS))], ensure_ascii=False).encode()
        answer = text.cut(b'{"thoughts": "' + thoughts + b'", "action": ' + name + b"}", rng)
        if rng.random() < 0.5:
            answer.insert(rng.integers(len(answer) + 1), int(rng.choice(regular)))
        if rng.random() < 0.3:
            answer += text.cut(pieces[rng.integers(len(pieces))], rng)
        answers.append(answer[:LONGEST])
    return answers


@pytest.mark.parametrize("decoding", ["free", "grammar"])
def test_tokens_move_the_table_as_their_bytes_move_the_automaton(decoding, text, free, strict):
    grammar, automaton = (free, finder(ACTIONS)) if decoding == "free" else (strict, writer(ACTIONS))
    answers = random_answers(text, np.random.default_rng(1), 512)
    expected = []
    for answer in answers:
        position, action = automaton.run(text.spell(answer))
        expected.append(-1 if position == automaton.dead else action)
    assert len(set(expected)) == len(ACTIONS) + 1
    np.testing.assert_array_equal(read(grammar, answers), expected)


def test_states_are_those_before_each_token(text, free):
    answers = random_answers(text, np.random.default_rng(2), 64)
    tokens, mask = np.full((64, LONGEST), text.vocabulary.pad_id, np.int32), np.zeros((64, LONGEST), bool)
    for row, answer in enumerate(answers):
        tokens[row, : len(answer)], mask[row, : len(answer)] = answer, True
    states = np.asarray(jax.jit(lambda t, m: free.states(t, m))(tokens, mask))
    advance = jax.jit(lambda s, t: free.advance(s, t))
    state = free.initial(64)
    for n in range(LONGEST):
        np.testing.assert_array_equal(states[:, n], state)
        state = jnp.where(mask[:, n], advance(state, tokens[:, n]), state)
    assert len(np.unique(states)) > 20
    cube = free.states(jnp.asarray(tokens).reshape(8, 8, -1), jnp.asarray(mask).reshape(8, 8, -1))
    np.testing.assert_array_equal(cube.reshape(64, -1), states)


def fewest_tokens(text, automaton) -> dict[int, int]:
    """Breadth first over positions, token by token and byte by byte: the tokens and EOS to a whole answer."""
    into: dict[int, set[int]] = {}
    for position in range(len(automaton.next_position)):
        for token in text.ids:
            at = position
            for byte in token:
                at = int(automaton.next_position[at, byte])
            into.setdefault(at, set()).add(position)
    distance = {int(position): 1 for position in np.flatnonzero(automaton.complete)}
    frontier = list(distance)
    while frontier:
        position = frontier.pop(0)
        for before in into.get(position, set()) - set(distance):
            distance[before] = distance[position] + 1
            frontier.append(before)
    return distance


def test_mask_is_exactly_what_stays_in_the_grammar_and_can_still_end(text, strict):
    """Every position, every token, several budgets, against a search that takes bytes one at a time."""
    automaton = writer(ACTIONS)
    fewest = fewest_tokens(text, automaton)
    positions = len(automaton.next_position)
    assert {q: int(d) for q, d in enumerate(strict.distance) if d < NEVER} == fewest
    after = np.full((positions, text.vocabulary.size), automaton.dead)
    for token, i in text.ids.items():
        at = np.arange(positions)
        for byte in token:
            at = automaton.next_position[at, byte]
        after[:, i] = at
    needed = np.vectorize(lambda q: 1 + fewest.get(q, NEVER))(after)
    eos = text.vocabulary.eos_id
    for left in (1, 2, 5, 12, 31, 40):
        allowed = np.asarray(strict.allowed(jnp.arange(positions), left))
        expected = needed <= left
        distance = np.array([fewest.get(q, NEVER) for q in range(positions)])
        expected[:, eos] = automaton.complete | (distance > left)
        np.testing.assert_array_equal(allowed, expected)
        assert allowed.any(axis=1).all()


def test_answers_sampled_under_the_mask_are_answers(text, strict):
    """Uniform among what is allowed, from the smallest budget up: always JSON, a known action, in time."""
    least, lanes, slots = int(strict.distance[strict.start]), 256, 64
    budgets = jnp.asarray(least + np.arange(lanes) % (slots - least))

    @jax.jit
    def sample(key):
        def step(carry, index):
            state, done = carry
            allowed = strict.allowed(state, budgets - index)
            logits = jnp.where(allowed, 0.0, -jnp.inf)
            token = jax.random.categorical(jax.random.fold_in(key, index), logits)
            after = jnp.where(done, state, strict.advance(state, token))
            return (after, done | (token == text.vocabulary.eos_id)), (token, ~done)

        start = strict.initial(lanes), jnp.zeros(lanes, bool)
        (state, done), (tokens, mask) = jax.lax.scan(step, start, jnp.arange(slots))
        return strict.action(state), done, tokens.T, mask.T

    spoken, thoughts = set(), set()
    for seed in range(4):
        action, done, tokens, mask = map(np.asarray, sample(jax.random.key(seed)))
        assert done.all()
        assert (mask.sum(axis=1) <= budgets).all()
        for lane in range(lanes):
            answer = tokens[lane][mask[lane]]
            assert answer[-1] == text.vocabulary.eos_id
            parsed = json.loads(text.spell(answer).decode("utf-8"))
            assert list(parsed) == ["thoughts", "action"] and parsed["action"] == ACTIONS[action[lane]]
            parsed["thoughts"].encode("utf-8")  # no lone surrogates
            spoken.add(parsed["action"])
            thoughts.add(parsed["thoughts"])
    assert spoken == set(ACTIONS) and len(thoughts) > 2 * lanes


@pytest.mark.parametrize("decoding", ["free", "grammar"])
def test_a_budget_too_small_for_an_answer_is_refused(decoding, text, free, strict):
    grammar = free if decoding == "free" else strict
    least = int(grammar.distance[grammar.start])
    grammar.check_budget(least)
    with pytest.raises(ValueError, match=f"max_tokens is {least - 1}.*{least} or more"):
        grammar.check_budget(least - 1)


def test_free_decoding_may_sample_whatever_has_bytes_and_eos(text, free):
    table = text.vocabulary
    allowed = np.asarray(free.allowed(free.initial((3, 2)), 1))
    assert allowed.shape == (3, 2, table.size)
    expected = [token is not None or i == table.eos_id for i, token in enumerate(table.bytes_of)]
    np.testing.assert_array_equal(allowed, np.broadcast_to(expected, allowed.shape))


def test_eos_and_pad_keep_the_state_and_other_special_tokens_break_the_answer(text, free, strict):
    table = text.vocabulary
    answer = encode(text.tokenizer, '{"thoughts": "a", "action": "turn"}')
    image = special_id(text.tokenizer, "<|image_pad|>")
    for grammar in (free, strict):
        assert read(grammar, [[*answer, table.eos_id, table.pad_id], [*answer, table.pad_id]]).tolist() == [2, 2]
        assert read(grammar, [[*answer[:3], image, *answer[3:]]]).tolist() == [-1]
        assert read(grammar, [[*answer[:3], table.size - 1, *answer[3:]]]).tolist() == [-1]
    assert read(free, [[*answer, image]]).tolist() == [2]


def test_table_can_be_constant_or_argument(text, strict):
    state, left = jnp.zeros(2, jnp.int32), jnp.array([40, 33])
    constant = jax.jit(lambda s, n: strict.allowed(s, n))(state, left)
    argument = jax.jit(ActionGrammar.allowed)(strict, state, left)
    np.testing.assert_array_equal(constant, argument)


def test_large_vocabulary_is_folded_as_a_small_one():
    """150 k tokens: slices of text with answers in it, whole answers among them, and noise."""
    rng = np.random.default_rng(0)
    objects = [
        f'{{"thoughts": "{t}", "action": "{a}"}} ' for t in ("", "é\\n", "go") for a in (*ACTIONS[:5], "no")
    ]
    source = "".join(objects[i] for i in rng.integers(len(objects), size=4000)).encode()
    starts, lengths = rng.integers(len(source) - 90, size=300_000), rng.integers(1, 90, size=300_000)
    slices = {source[s : s + n] for s, n in zip(starts.tolist(), lengths.tolist(), strict=True)}
    bytes_of = [None, None, *sorted(slices)[: 150_000 - 256], *(bytes([b]) for b in range(256))]
    table = Vocabulary(
        tuple(bytes_of),
        eos_id=1,
        pad_id=0,
        size=len(bytes_of),
    )
    assert table.size > 100_000
    grammar, automaton = ActionGrammar.build(ACTIONS, table, "free"), finder(ACTIONS)
    answers = rng.integers(2, len(bytes_of), size=(256, 4)).tolist()
    expected = [automaton.run(b"".join(bytes_of[i] for i in answer))[1] for answer in answers]
    np.testing.assert_array_equal(read(grammar, answers), expected)
    assert len(set(expected)) > 4
    # Tokens that no text tells apart share a column, so the table is far from one column a token.
    assert grammar.next_state.shape[1] < 20_000


def test_impossible_grammars_are_refused(text):
    with pytest.raises(ValueError, match="decoding is 'strict'; accepted: 'free', 'grammar'"):
        ActionGrammar.build(ACTIONS, text.vocabulary, "strict")
    bytes_of = tuple(None if token and b"+" in token else token for token in text.vocabulary.bytes_of)
    plusless = dataclasses.replace(text.vocabulary, bytes_of=bytes_of)
    for decoding in ("free", "grammar"):
        with pytest.raises(ValueError, match=r"no tokens to write the answer of action '\+'$"):
            ActionGrammar.build(ACTIONS, plusless, decoding)
    # Every token that closes an answer writes on behind it: an answer can be found, but not written.
    bytes_of = tuple(token and token.replace(b"}", b"}x") for token in text.vocabulary.bytes_of)
    untidy = dataclasses.replace(text.vocabulary, bytes_of=bytes_of)
    ActionGrammar.build(ACTIONS, untidy, "free")
    with pytest.raises(ValueError, match="no tokens to write the answer of action 'turn_left', 'turn_right'"):
        ActionGrammar.build(ACTIONS, untidy, "grammar")
