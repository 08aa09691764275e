"""Thoughts for people: found where there are some, and nothing is ever raised."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vldac.text.answer import thoughts_of


@given(st.text(), st.text(), st.text())
def test_thoughts_come_back_whatever_is_around_them(before, thoughts, action):
    answer = json.dumps({"thoughts": thoughts, "action": action})
    assert thoughts_of(before.replace("{", "(") + answer) == thoughts


@pytest.mark.parametrize(
    "text", ["", "{", '{"thoughts": 1, "action": "a"}', '{"thoughts": "cut', "[" * 100_000, "{" * 5_000]
)
def test_where_there_are_none_it_says_nothing(text):
    assert thoughts_of(text) == ""


def test_the_last_object_counts():
    assert thoughts_of('{"thoughts": "a", "action": "x"} {"thoughts": "b", "action": "x"} {"thoughts": "c') == "b"


@pytest.mark.parametrize(("action", "thoughts"), [("left", "a"), ("fly", "c"), (None, "c"), ("none of them", "c")])
def test_thoughts_are_those_of_the_action_that_was_read(action, thoughts):
    """What follows it may look like an answer, and name an action that the world does not have."""
    said = [("z", "left"), ("a", "left"), ("b", "up"), ("c", "fly")]
    text = " ".join(json.dumps({"thoughts": each, "action": name}) for each, name in said)
    assert thoughts_of(text, action) == thoughts
