"""The conversation's messages, written out by hand, and against a slow telling of the rules."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vldac.evaluate.balrog.history import History, alternate_roles
from vldac.evaluate.balrog.observation import Observation
from vldac.generate.request import Message

PICTURE = np.zeros((2, 3, 3), np.uint8)


def told(messages):
    """[(role, text, pictures)]"""
    return [
        (message.role, message.text, sum(isinstance(part, np.ndarray) for part in message.parts))
        for message in messages
    ]


def test_the_first_prompt():
    history = History("Play!")
    history.observe(Observation("a wall 1 step forward", "HP: 3"))
    assert told(history.messages("Action:")) == [
        ("user", "Play!", 0),
        ("user", "Current Observation:\nHP: 3\na wall 1 step forward\n\nAction:", 0),
    ]


def test_past_observations_lose_the_short_term_text_and_the_request():
    history = History("Play!")
    history.observe(Observation("one", "HP: 3"))
    history.messages("Action:")
    history.act("up")
    history.observe(Observation("two"))
    assert told(history.messages("Action:")) == [
        ("user", "Play!", 0),
        ("user", "Observation:\none", 0),
        ("assistant", "up", 0),
        ("user", "Current Observation:\ntwo\n\nAction:", 0),
    ]


def test_the_picture_follows_the_text_and_only_the_last_ones_are_shown():
    history = History("Play!", max_text_history=16, max_image_history=1)
    history.observe(Observation("one", image=PICTURE))
    history.act("up")
    history.observe(Observation("two", image=PICTURE))
    messages = history.messages("Action:")
    assert told(messages) == [
        ("user", "Play!", 0),
        ("user", "Observation:\none", 0),
        ("assistant", "up", 0),
        ("user", "Current Observation:\ntwo\nImage observation provided.\n\nAction:", 1),
    ]
    assert messages[-1].parts[1] is PICTURE


def test_a_text_history_shorter_than_the_pictures():
    history = History("Play!", max_text_history=1, max_image_history=2)
    for text in ("one", "two"):
        history.observe(Observation(text, image=PICTURE))
        history.act(text.upper())
    history.observe(Observation("three", image=PICTURE))
    # Four events are kept: the first observation and its action are gone, and so is the first of the rest.
    assert told(history.messages("Action:")) == [
        ("user", "Play!", 0),
        ("assistant", "ONE", 0),
        ("user", "Observation:\nImage observation provided.", 1),
        ("assistant", "TWO", 0),
        ("user", "Current Observation:\nthree\nImage observation provided.\n\nAction:", 1),
    ]


def test_reasoning_takes_the_place_of_the_last_actions_alone():
    history = History("Play!", max_cot_history=1)
    for text in ("one", "two"):
        history.observe(Observation(text))
        history.act(text.upper(), f"I see {text}.")
    history.observe(Observation("three"))
    assert told(history.messages("?"))[2::2] == [
        ("assistant", "ONE", 0),
        ("assistant", "Previous plan:\nI see two.", 0),
    ]


def test_an_empty_action_is_no_event():
    history = History("Play!")
    history.observe(Observation("one"))
    history.act("")
    history.observe(Observation("two"))
    assert [text for _, text, _ in told(history.messages("?"))] == [
        "Play!",
        "Observation:\none",
        "Current Observation:\ntwo\n\n?",
    ]


@given(st.lists(st.booleans(), min_size=1, max_size=20), st.integers(1, 4), st.integers(0, 4), st.integers(0, 3))
def test_the_limits_hold_on_any_history(said, texts, images, plans):
    """`said`: whether each step said an action."""
    history = History("Play!", texts, images, plans)
    events = []
    for step, spoke in enumerate(said):
        history.observe(Observation(f"seen {step}", image=PICTURE))
        events.append(("seen", step))
        last = told(history.messages("?"))
        if spoke:
            history.act(f"done {step}", f"why {step}")
            events.append(("done", step))
    while events[-1][0] == "done":  # as they were at the last prompt
        events.pop()
    events = events[-2 * max(texts, images) :]
    seen = [step for kind, step in events if kind == "seen"]
    done = [step for kind, step in events if kind == "done"]
    assert len(last) == 1 + len(events)
    for (kind, step), (role, text, pictures) in zip(events, last[1:], strict=True):
        assert role == ("user" if kind == "seen" else "assistant")
        if kind == "seen":
            assert (f"seen {step}" in text) == (step in seen[-texts:])
            assert pictures == (step in seen[max(0, len(seen) - images) :])
        else:
            planned = plans > 0 and step in done[-plans:]
            assert text == (f"Previous plan:\nwhy {step}" if planned else f"done {step}")


def test_prompts_share_their_past():
    history = History("Play!")
    for step in range(3):
        history.observe(Observation(f"seen {step}"))
        history.act("up")
    history.observe(Observation("now"))
    before = history.messages("?")
    history.act("up")
    history.observe(Observation("later"))
    after = history.messages("?")
    assert all(one is other for one, other in zip(before[1:6:2], after[1:6:2], strict=True))


def test_roles_that_alternate():
    user, assistant = Message("user", ("a", PICTURE)), Message("assistant", ("b",))
    merged = alternate_roles((user, user, assistant, user))
    assert [message.role for message in merged] == ["user", "assistant", "user"]
    assert merged[0].text == "a\na"
    assert merged[1:] == (assistant, user)


@pytest.mark.parametrize("roles", [(), ("user",), ("user", "assistant")])
def test_nothing_to_merge(roles):
    messages = tuple(Message(role, ("x",)) for role in roles)
    assert alternate_roles(messages) == messages
