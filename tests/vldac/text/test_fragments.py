"""Packing on the device against lists, and demonstrations against the grammars that have to read them."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import normalizers

from vldac.text.fragments import AnswerWriter, FragmentTable
from vldac.text.grammar import ActionGrammar
from vldac.text.tokenizer import load_tokenizer, vocabulary

FRAGMENTS = ([7], [8, 9], [], [1, 2, 3, 4, 5], [6])
PAD = 99
TABLE = FragmentTable.build(FRAGMENTS, pad_id=PAD)
PACK = {capacity: jax.jit(lambda ids, c=capacity: TABLE.pack(ids, c)) for capacity in (1, 7, 30)}


def pack_list(ids: list[int], capacity: int) -> tuple[list[int], int]:
    tokens = [token for i in ids if 0 <= i < len(FRAGMENTS) for token in FRAGMENTS[i]][:capacity]
    return tokens + [PAD] * (capacity - len(tokens)), len(tokens)


@given(st.lists(st.integers(-2, len(FRAGMENTS)), min_size=5, max_size=5), st.sampled_from(sorted(PACK)))
def test_packing_is_concatenation_cut_at_capacity(ids, capacity):
    expected, used = pack_list(ids, capacity)
    tokens, valid, length = PACK[capacity](jnp.array(ids, jnp.int32))
    assert tokens.tolist() == expected
    assert valid.tolist() == [slot < used for slot in range(capacity)]
    assert int(length) == used and tokens.dtype == length.dtype == jnp.int32


def test_packing_many_is_packing_each():
    ids = jnp.array([[0, -1, 1], [3, 3, 3], [-1, -1, -1]], jnp.int32)
    tokens, valid, length = jax.jit(jax.vmap(lambda one: TABLE.pack(one, 7)))(ids)
    assert tokens.tolist() == [pack_list(one, 7)[0] for one in ids.tolist()]
    assert length.tolist() == valid.sum(axis=1).tolist() == [3, 7, 0]


@pytest.mark.parametrize("fragments", [[], [[]], [[], []]])
def test_packing_nothing_gives_nothing(fragments):
    table = FragmentTable.build(fragments, pad_id=PAD)
    for ids in (jnp.zeros(0, jnp.int32), jnp.array([0, -1, 1], jnp.int32)):
        tokens, valid, length = jax.jit(lambda ids: table.pack(ids, 3))(ids)
        assert tokens.tolist() == [PAD] * 3 and not valid.any() and length == 0


PHRASES = (
    "the box is",
    "left",
    'a "quoted" \\ thing',
    "",
    "line\nbreak",
    "é🚪",
    "<|im_end|>",
    '", "action": "turn',
)
ACTIONS = ("turn_left", "turn", "+", 'say "hi"', "<|im_start|>")
SLOTS = 90


@pytest.fixture(scope="module")
def writer(text) -> AnswerWriter:
    return AnswerWriter.build(PHRASES, ACTIONS, text.tokenizer, text.vocabulary, SLOTS)


@pytest.fixture(scope="module")
def demonstrations(writer):
    """Thoughts, short and too long, for random actions: (ids [B, 6], actions [B], tokens [B, N], mask [B, N])."""
    rng = np.random.default_rng(0)
    ids = rng.integers(-1, len(PHRASES), (200, 6)).astype(np.int32)
    ids[:40, 1:] = -1
    actions = rng.integers(len(ACTIONS), size=200).astype(np.int32)
    tokens, mask = jax.jit(jax.vmap(writer.write))(ids, actions)
    return ids, actions, np.asarray(tokens), np.asarray(mask)


def test_demonstrations_are_the_answers_json_would_write(text, demonstrations):
    cut = 0
    for ids, action, tokens, mask in zip(*demonstrations, strict=True):
        used = int(mask.sum())
        assert mask.tolist() == [slot < used for slot in range(SLOTS)]
        assert tokens[used - 1] == text.vocabulary.eos_id
        assert (tokens[used:] == text.vocabulary.pad_id).all()
        answer = json.loads(text.spell(tokens[: used - 1]))
        phrases = [PHRASES[i] for i in ids if i >= 0]
        possible = [" ".join(phrases[:n]) for n in range(len(phrases) + 1)]  # cut between phrases, never within
        assert list(answer) == ["thoughts", "action"] and answer["action"] == ACTIONS[action]
        assert answer["thoughts"] in possible
        assert text.spell(tokens[:used]) == json.dumps(answer, ensure_ascii=False).encode()
        if answer["thoughts"] != possible[-1]:
            cut += 1
            assert used + 40 > SLOTS  # because the next phrase would not have fitted
    assert 0 < cut < 160


@pytest.mark.parametrize("decoding", ["free", "grammar"])
def test_demonstrations_are_read_as_their_action_and_allowed_by_the_mask(decoding, text, demonstrations):
    _, actions, tokens, mask = demonstrations
    grammar = ActionGrammar.build(ACTIONS, text.vocabulary, decoding)

    @jax.jit
    def read(tokens, mask):
        states = grammar.states(tokens, mask)
        allowed = grammar.allowed(states, SLOTS - jnp.arange(SLOTS))
        may = jnp.take_along_axis(allowed, tokens[..., None], axis=-1)[..., 0]
        return grammar.action(states[:, -1]), may

    spoken, may = read(tokens, mask)
    np.testing.assert_array_equal(spoken, actions)
    assert np.asarray(may)[mask].all()


def test_smallest_budget_holds_every_action_without_thoughts(text):
    with pytest.raises(ValueError) as caught:
        AnswerWriter.build(PHRASES, ACTIONS, text.tokenizer, text.vocabulary, 3)
    least = int(str(caught.value).split("accepted: ")[1].split()[0])
    writer = AnswerWriter.build(PHRASES, ACTIONS, text.tokenizer, text.vocabulary, least)
    write = jax.jit(jax.vmap(writer.write, in_axes=(None, 0)))
    answers, masks = write(jnp.array([0, 2], jnp.int32), jnp.arange(len(ACTIONS)))
    for action, (tokens, mask) in enumerate(zip(np.asarray(answers), np.asarray(masks), strict=True)):
        answer = json.loads(text.spell(tokens[mask]))
        assert answer["action"] == ACTIONS[action] and answer["thoughts"] in ("", PHRASES[0])
    assert masks.sum(axis=1).max() == least


def test_text_that_the_tokenizer_alters_is_refused(save, bpe):
    """Qwen's tokenizers compose characters (NFC): a decomposed action could be shown but never be read."""
    composing = type(bpe).from_str(bpe.to_str())
    composing.normalizer = normalizers.NFC()
    loaded = load_tokenizer(save(composing))
    AnswerWriter.build((), ("caf\u00e9",), loaded, vocabulary(loaded), 90)
    with pytest.raises(ValueError, match=r"alters the text .*cafe\u0301"):
        AnswerWriter.build((), ("cafe\u0301",), loaded, vocabulary(loaded), 90)
