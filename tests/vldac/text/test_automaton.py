"""The byte automata against two slow readers that know nothing of automata: a regular expression, and json."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vldac.text.automaton import encoded_actions, finder, writer

# Prefixes of each other, quotes, backslashes, braces, the format's own words, non-ASCII, control characters.
ACTIONS = (
    "turn_left",
    "turn",
    "+",
    "go to fridge 1",
    'say "hi"',
    "a\\",
    "{",
    "thoughts",
    '","',
    "é🚪",
    "a/b",
    "\n",
)
FINDER, WRITER = finder(ACTIONS), writer(ACTIONS)

WS = rb"[ \t\n\r]*"
STRING = rb'((?:[^"\\\x00-\x1f]|\\["\\/bfnrt]|\\u[0-9a-fA-F]{4})*)'
SPELLED = encoded_actions(ACTIONS)
NAME = b"(" + b"|".join(map(re.escape, SPELLED)) + b")"
STRICT = re.compile(rb'\{"thoughts": "' + STRING + rb'", "action": "' + NAME + rb'"\}')
LOOSE = re.compile(
    WS.join(
        [rb"\{", b'"thoughts"', b":", b'"' + STRING + b'"', b",", b'"action"', b":", b'"' + NAME + b'"', rb"\}"]
    )
)


def by_regex(text: bytes) -> int:
    """The action of the object that ends last."""
    last, action = -1, -1
    for brace in re.finditer(rb"\{", text):
        match = LOOSE.match(text, brace.start())
        if match and match.end() > last and is_utf8(match[1]):
            last, action = match.end(), SPELLED.index(match[2])
    return action


def by_json(text: str) -> int:
    """The same, by Python's parser; its spelling of the action and keys is checked as text."""
    last, action = -1, -1
    for start in (brace.start() for brace in re.finditer(r"\{", text)):
        try:
            pairs, end = json.JSONDecoder(object_pairs_hook=list).raw_decode(text, start)
        except (json.JSONDecodeError, RecursionError):
            continue
        if [key for key, _ in pairs] != ["thoughts", "action"] or not all(isinstance(v, str) for _, v in pairs):
            continue
        name = pairs[1][1]
        first = re.match(r'\{[ \t\n\r]*"thoughts"', text[start:end])
        second = re.search(
            rf'"action"[ \t\n\r]*:[ \t\n\r]*{re.escape(json.dumps(name, ensure_ascii=False))}[ \t\n\r]*\}}\Z',
            text[start:end],
        )
        if first and second and name in ACTIONS and end > last:
            last, action = end, ACTIONS.index(name)
    return action


def is_utf8(text: bytes) -> bool:
    try:
        text.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


PIECES = [
    *rb'{ } " : , \ \" [ "thoughts" "action" "turn" "jump" "} \u00e9 \ud83d \u12 \"action\":'.split(),
    *(b" ", b"\n", b"\x00", b"\xe2\x86", b"\xff", b"\xed\xa0\x80", "é🚪".encode()),
    *(b'{"thoughts": "', b'", "action": "', b'{"thoughts": "a", "action": "turn"}'),
    *(b'{"action": "turn"}', b'{"thoughts": "a", "thoughts": "b", "action": "turn"}'),
    *SPELLED,
]
gaps = st.text(alphabet=" \t\n\r", max_size=2).map(str.encode)
strings = st.lists(st.sampled_from(PIECES) | st.text(max_size=4).map(str.encode), max_size=4).map(b"".join)


@st.composite
def objects(draw) -> bytes:
    """An answer, most often a good one, with whitespace, and at times one byte changed, lost or added."""
    name = draw(st.sampled_from([*SPELLED, b"jump", b"turn_", b""]))
    thoughts = draw(strings | st.text(max_size=8).map(lambda text: json.dumps(text)[1:-1].encode()))
    parts = [b"{", b'"thoughts"', b":", b'"' + thoughts + b'"', b",", b'"action"', b":", b'"' + name + b'"', b"}"]
    text = b"".join(part + draw(gaps) for part in parts)
    if draw(st.integers(0, 3)) == 0:
        at = draw(st.integers(0, len(text)))
        text = text[:at] + draw(st.binary(max_size=1)) + text[at + draw(st.integers(0, 1)) :]
    return text


texts = st.lists(st.sampled_from(PIECES) | objects() | st.binary(max_size=3), max_size=8).map(b"".join)


@settings(max_examples=600)
@given(texts)
def test_finder_finds_what_a_regular_expression_finds(text):
    assert FINDER.run(text)[1] == by_regex(text)


@settings(max_examples=500)
@given(texts)
def test_finder_finds_what_json_finds(text):
    readable = text.decode("utf-8", errors="ignore")
    assert FINDER.run(readable.encode())[1] == by_json(readable)


def is_strict(text: bytes) -> bool:
    match = STRICT.fullmatch(text)
    return bool(match) and is_utf8(match[1]) and not re.search(rb"(?<!\\)(\\\\)*\\u[dD][89a-fA-F]", match[1])


@settings(max_examples=500)
@given(strings, st.sampled_from([*SPELLED, b"jump"]), st.binary(max_size=2))
def test_writer_accepts_the_canonical_object_and_nothing_else(thoughts, name, after):
    text = b'{"thoughts": "' + thoughts + b'", "action": "' + name + b'"}' + after
    position, action = WRITER.run(text)
    assert bool(WRITER.complete[position]) == is_strict(text)
    if is_strict(text):
        assert json.loads(text)["action"] == ACTIONS[action]


@given(texts)
def test_writer_accepts_no_other_text(text):
    assert bool(WRITER.complete[WRITER.run(text)[0]]) == is_strict(text)


@given(
    st.lists(st.text(min_size=1, max_size=6), min_size=1, max_size=6, unique=True), st.text(max_size=6), st.data()
)
def test_any_actions_can_be_spoken_and_are_told_apart(actions, thoughts, data):
    chosen = data.draw(st.integers(0, len(actions) - 1))
    answer = json.dumps({"thoughts": thoughts, "action": actions[chosen]}, ensure_ascii=False).encode()
    assert finder(actions).run(b"{" + answer + b"}")[1] == chosen
    written = writer(actions)
    position, action = written.run(answer)
    assert written.complete[position] and action == chosen


def test_positions_do_not_multiply_with_the_number_of_actions():
    """Actions with a common beginning share it, and a position does not remember the last action."""
    actions = [f"go to {place} {n}" for place in ("fridge", "shelf", "drawer") for n in range(30)]
    letters = sum(map(len, actions))
    assert len(finder(actions).next_position) < 400 < letters


@pytest.mark.parametrize(
    ("actions", "said"),
    [
        ((), "at least one"),
        ("left", "at least one"),
        (("left", ""), "not empty"),
        (("left", "go", "left"), "'left'.* more than once"),
        (("\ud800",), "surrogate"),
    ],
)
def test_impossible_actions_are_named(actions, said):
    with pytest.raises(ValueError, match=said):
        finder(actions)
