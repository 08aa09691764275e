"""Records read on the device are those of a plain parser, for random, adversarial and broken answers alike."""

from __future__ import annotations

import json
import re
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from envs_jax import Slot
from envs_jax.world import slot_places, spoken
from tests.chores import Chores
from vldac.text.grammar import ActionGrammar
from vldac.text.speech import speech
from vldac.text.tokenizer import BPE_TOKENIZER, load_tokenizer, vocabulary

LENGTH = 160


class Awkward(Chores):
    """Words that are prefixes of one another and share tokens, escapes, six words, texts like JSON."""

    actions = ("wait", "put {thing} in {place}", "put {thing}", "search[{word}]", 'say "{thing}"', ": ", "action")
    slots: ClassVar = {
        "thing": Slot(("cabinet 1", "cabinet 11", "cabinet", "cab", "é🚪", 'a"b', "in")),
        "place": Slot(("box", "box 1", "box 11", "in box")),
        "word": Slot(("re", "red", "reddish", "left", "dish", "n"), most=6),
    }


WORLD = Awkward()


def all_records(rng, count):
    """Random actions, by their layout written out by hand."""
    records = []
    for _ in range(count):
        kind, record = rng.integers(7), np.full(7, -1)
        record[0] = kind
        if kind in (1, 2, 4):
            record[1] = rng.integers(7)
        if kind == 1:
            record[2] = rng.integers(4)
        if kind == 3:
            words = rng.integers(1, 7)
            record[1 : 1 + words] = rng.integers(0, 6, words)
        records.append(record)
    return records


def plain(text: bytes) -> list[int]:
    """The record of the last answer object, by a regular expression and a JSON parser."""
    found = [-1] * 7
    best = -1
    for begin in (match.start() for match in re.finditer(rb"\{", text)):
        for end in (match.end() for match in re.finditer(rb"\}", text[begin:])):
            try:
                pairs = json.loads(text[begin : begin + end].decode(), object_pairs_hook=list)
            except ValueError:
                continue
            raw = re.search(
                rb'"action"[ \t\n\r]*:[ \t\n\r]*"((?:[^"\\]|\\.)*)"[ \t\n\r]*\}$', text[begin : begin + end]
            )
            if (
                not raw
                or not isinstance(pairs, list)
                or [p[0] for p in pairs if isinstance(p, tuple)]
                != [
                    "thoughts",
                    "action",
                ]
            ):
                continue
            if not all(isinstance(p[1], str) for p in pairs):
                continue
            if raw[1].decode() != json.dumps(pairs[1][1], ensure_ascii=False)[1:-1]:
                continue
            record = parse(pairs[1][1])
            if record and begin + end > best:
                best, found = begin + end, record
    return found


def parse(action: str) -> list[int] | None:
    for number, template in enumerate(WORLD.actions):
        parts = re.split(r"\{(\w+)\}", template)
        pattern = ""
        for i, part in enumerate(parts):
            if i % 2:
                slot = WORLD.slots[part]
                word = "(?:" + "|".join(map(re.escape, sorted(slot.words, key=len, reverse=True))) + ")"
                pattern += f"({word}(?: {word}){{0,{slot.most - 1}}})"
            else:
                pattern += re.escape(part)
        match = re.fullmatch(pattern, action)
        if match:
            record = [number]
            for name, said in zip(parts[1::2], match.groups(), strict=True):
                slot = WORLD.slots[name]
                words = said.split(" ") if slot.most > 1 else [said]
                record += [slot.words.index(word) for word in words] + [-1] * (slot.most - len(words))
            return record + [-1] * (7 - len(record))
    return None


def answer(action: str, rng) -> bytes:
    said = rng.choice(["", "left", 'a "quoted" {', '", "action": "wait"}', "🚪"])
    gap = rng.choice(["", " ", "\n "])
    spelled = json.dumps(action, ensure_ascii=False)
    text = f'{{{gap}"thoughts"{gap}: {json.dumps(said)},{gap}"action": {gap}{spelled}{gap}}}'
    return text.encode()


def broken(text: bytes, rng) -> bytes:
    """A byte more, a byte less, another byte or a piece twice."""
    at = int(rng.integers(len(text)))
    change = rng.integers(4)
    if change == 0:
        return text[:at] + text[at + 1 :]
    if change == 1:
        return text[:at] + bytes([rng.choice(list(b' "{}\\n1r'))]) + text[at:]
    if change == 2:
        return text[:at]
    return text[:at] + text[max(0, at - 9) :]


@pytest.fixture(scope="module")
def texts():
    rng = np.random.default_rng(0)
    found = []
    for record in all_records(rng, 60):
        text = answer(spoken(WORLD, record), rng)
        other = answer(spoken(WORLD, all_records(rng, 1)[0]), rng)
        found += [text, broken(text, rng), text + other, other + broken(text, rng), text + b'"wait"}', b"{" + text]
    for action in ("put cabinet 111", "search[red  re]", "search[re red re red re red re]", "search[]", "put box"):
        found.append(answer(action, rng))
    return [text for text in found if len(text) < LENGTH]


def test_records_are_those_of_a_plain_parser(text, texts):
    grammar = ActionGrammar.build(WORLD.actions, text.vocabulary, "free", WORLD.slots)
    rng = np.random.default_rng(1)
    rows = [text.cut(said, rng) for said in texts]
    tokens = np.full((len(rows), LENGTH), text.vocabulary.eos_id, np.int32)
    for row, cut in zip(tokens, rows, strict=True):
        row[: len(cut)] = cut
    mask = np.arange(LENGTH) <= np.array([len(cut) for cut in rows])[:, None]
    read = np.asarray(jax.jit(grammar.record)(jnp.asarray(tokens), jnp.asarray(mask)))
    due = [plain(said) for said in texts]
    assert sum(record[0] >= 0 for record in due) > len(due) // 2
    for said, ours, theirs in zip(texts, read.tolist(), due, strict=True):
        assert ours == theirs, said


def test_what_is_sampled_under_the_mask_names_an_action(text):
    grammar = ActionGrammar.build(WORLD.actions, text.vocabulary, "grammar", WORLD.slots)
    batch, length = 64, 90

    def token(carry, left):
        state, done, key = carry
        key, draw = jax.random.split(key)
        allowed = grammar.allowed(state, left)
        drawn = jax.random.categorical(draw, jnp.where(allowed, 0.0, -jnp.inf)).astype(jnp.int32)
        drawn = jnp.where(done, grammar.eos_id, drawn)
        return (grammar.advance(state, drawn), done | (drawn == grammar.eos_id), key), (drawn, ~done)

    start = grammar.initial(batch), jnp.zeros(batch, bool), jax.random.key(0)
    (_, done, _), (tokens, mask) = jax.lax.scan(token, start, length - jnp.arange(length))
    records = np.asarray(grammar.record(tokens.T, mask.T))
    assert done.all()
    for row, real, record in zip(np.asarray(tokens.T), np.asarray(mask.T), records, strict=True):
        said = text.spell(row[real])
        assert record.tolist() == plain(said) and record[0] >= 0, said


@pytest.mark.parametrize(
    ("actions", "slots"),
    [
        (("a {x}", "a b"), {"x": Slot(("b",))}),
        (("{x}",), {"x": Slot(("a", "b", "a b"), most=2)}),
        (("{x} {x}",), {"x": Slot(("a", "a a"))}),
    ],
)
def test_actions_that_are_spoken_alike_are_refused(actions, slots):
    with pytest.raises(ValueError, match="spoken alike"):
        speech(actions, slots)


def test_the_table_of_a_large_world_is_bounded():
    """A few hundred names in a dozen templates, and six words of several hundred."""
    rng = np.random.default_rng(0)
    syllables = ["ba", "ke", "lo", "mi", "nu", "ra", "se", "ti", "vo", "zu"]
    words = sorted({"".join(rng.choice(syllables, rng.integers(2, 4))) for _ in range(420)})
    names = tuple(f"{word} {i}" for word in words[:50] for i in (1, 2, 3))
    slots = {"object": Slot(names), "receptacle": Slot(names[::-1]), "word": Slot(tuple(words), most=6)}
    verbs = ("heat", "cool", "clean", "slice", "take", "move", "put", "open", "close", "use")
    actions = (*(f"{verb} {{object}} with {{receptacle}}" for verb in verbs), "look", "search[{word}]")
    tokens = vocabulary(load_tokenizer(BPE_TOKENIZER))
    grammar = ActionGrammar.build(actions, tokens, "grammar", slots)
    assert grammar.next_state.nbytes < 16e6, grammar.next_state.shape
    assert sum(leaf.nbytes for leaf in jax.tree.leaves(grammar.reader)) < 16e6
    assert slot_places(type("World", (Chores,), {"actions": actions, "slots": slots})()) == 6
