"""BALROG's scores by hand and against the official bookkeeping told step by step, and how words become actions."""

from __future__ import annotations

import math
import statistics
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vldac.evaluate.balrog import (
    ACTIONS,
    AGENTS,
    DEFAULT_ACTION,
    ENVIRONMENTS,
    UNPARSED,
    aggregate,
    parse_action,
    progression,
)

rewards = st.lists(st.sampled_from([-1.0, -0.01, 0.0, 0.5, 0.99, 1.0, 2.0]), max_size=6)


def step(reward=0.0, terminated=False, truncated=False, **more):
    return {"reward": reward, "terminated": terminated, "truncated": truncated, **more}


def test_no_step_is_no_progress():
    assert {environment: progression(environment, []) for environment in ENVIRONMENTS} == dict.fromkeys(
        ENVIRONMENTS, 0
    )


def test_babyai_is_solved_by_any_reward():
    assert progression("babyai", [step(0.0), step(0.3), step(0.0)]) == 1
    assert progression("babyai", [step(0.0), step(-1.0)]) == 0


def test_minihack_is_judged_by_the_last_reward():
    assert progression("minihack", [step(-0.01), step(1.0)]) == 1
    assert progression("minihack", [step(1.0), step(-0.01)]) == 0
    assert progression("minihack", [step(0.99)]) == 0


def test_babaisai_has_to_end_on_a_reward():
    assert progression("babaisai", [step(), step(0.9, terminated=True)]) == 1
    assert progression("babaisai", [step(), step(0.9, truncated=True)]) == 1
    assert progression("babaisai", [step(0.9)]) == 0  # not over
    assert progression("babaisai", [step(0.9), step(0.0, terminated=True)]) == 0


def test_textworld_is_the_part_of_the_score_at_the_end():
    def end(score, max_score, won, **how):
        return [
            step(),
            {**step(**(how or {"terminated": True})), "score": score, "max_score": max_score, "won": won},
        ]

    assert progression("textworld", end(1, 4, False)) == 0.25
    assert progression("textworld", end(1, 4, False, truncated=True)) == 0.25
    assert progression("textworld", end(1, 4, True)) == 1
    assert progression("textworld", end(-1, 4, False)) == 0
    assert progression("textworld", end(3, 4, False, terminated=False)) == 0  # never over: nothing counts
    with pytest.raises(ValueError, match=r"max_score is 0 in step 1; accepted: above 0"):
        progression("textworld", end(0, 0, False))


def test_crafter_counts_the_achievements_of_the_last_step():
    def achieved(**counts):
        return step(achievements=counts)

    steps = [achieved(wake_up=0, collect_wood=1), achieved(wake_up=2, collect_wood=9, place_table=1, eat_cow=0)]
    assert progression("crafter", steps) == 3 / 22
    assert progression("crafter", [step(achievements={str(i): 1 for i in range(22)})]) == 1
    assert progression("crafter", [step(), achieved(wake_up=1)]) == 1 / 22  # earlier steps need none


def at(depth, experience_level):
    return step(depth=depth, experience_level=experience_level)


@pytest.mark.parametrize(
    ("levels", "want"),
    [
        ([(1, 1)], 0.0),
        ([(2, 1)], 0.015392269075361172),
        ([(1, 2)], 0.01847840456172601),
        ([(3, 2)], 0.01847840456172601),  # the better of the two: depth 3 is worth 0.0175
        ([(4, 2)], 0.021221378364235505),
        ([(10, 8), (1, 1)], 0.12558597019922987),  # going up again takes nothing away
        ([(1, 9), (9, 1)], 0.11704996473565571),
        ([(50, 30)], 0.8067964442444019),
        ([(51, 31)], 0.0),  # outside of the table
        ([(-5, 14)], 0.49403949403949404),  # the elemental planes lie above
        ([(0, 0)], 0.0),
    ],
)
def test_nethack_is_the_best_level_reached(levels, want):
    assert progression("nle", [at(*level) for level in levels]) == want


def test_the_table_of_nethack_rises_with_every_level_and_never_reaches_the_win():
    depths = [progression("nle", [at(depth, 1)]) for depth in range(1, 51)]
    levels = [progression("nle", [at(1, level)]) for level in range(1, 31)]
    for column, top in ((depths, 0.8067964442444019), (levels, 0.7804561949196475)):
        assert column == sorted(set(column)) and column[0] == 0 and column[-1] == top
    # Each is won games over games, about a million at most: with a digit mistaken it would be no such ratio.
    for value in depths + levels:
        assert float(Fraction(value).limit_denominator(1_200_000)) == value


@given(st.lists(st.tuples(st.integers(-6, 60), st.integers(0, 35)), max_size=8))
def test_nethack_progress_never_falls_and_is_reached_by_one_step(levels):
    steps = [at(*level) for level in levels]
    so_far = [progression("nle", steps[:i]) for i in range(len(steps) + 1)]
    assert so_far == sorted(so_far)
    assert so_far[-1] == max([0.0] + [progression("nle", [one]) for one in steps])


@given(rewards, st.data())
@settings(max_examples=100)
def test_the_rules_agree_with_bookkeeping_step_by_step(values, data):
    steps = [
        step(
            reward,
            terminated=data.draw(st.booleans()),
            truncated=data.draw(st.booleans()),
            score=data.draw(st.integers(0, 5)),
            max_score=5,
            won=data.draw(st.booleans()),
            achievements={str(i): data.draw(st.integers(0, 2)) for i in range(4)},
        )
        for reward in values
    ]
    state = dict.fromkeys(["babyai", "minihack", "babaisai", "textworld", "crafter"], 0.0)
    for one in steps:  # each rule as an environment's own running value
        if one["reward"] > 0:
            state["babyai"] = 1.0
        state["minihack"] = 1.0 if one["reward"] >= 1 else 0.0
        state["crafter"] = len([name for name, n in one["achievements"].items() if n]) / 22
        if one["terminated"] or one["truncated"]:
            state["babaisai"] = 1.0 if one["reward"] > 0 else 0.0
            state["textworld"] = 1.0 if one["won"] else one["score"] / 5
    assert {environment: progression(environment, steps) for environment in state} == state


@pytest.mark.parametrize(
    ("environment", "bad", "key"),
    [
        ("babyai", {"terminated": True}, "reward"),
        ("minihack", {}, "reward"),
        ("babaisai", {"reward": 1.0}, "terminated"),
        ("babaisai", {"reward": 1.0, "terminated": False}, "truncated"),
        ("textworld", {"terminated": True, "max_score": 1, "won": False}, "score"),
        ("textworld", {"terminated": True, "max_score": 1, "score": 1}, "won"),
        ("crafter", {"reward": 1.0}, "achievements"),
        ("nle", {"depth": 1}, "experience_level"),
    ],
)
def test_a_step_that_lacks_what_counts_is_refused(environment, bad, key):
    with pytest.raises(ValueError, match=rf"steps\[0\] has .*; {environment} needs '{key}'"):
        progression(environment, [bad])


@pytest.mark.parametrize(
    ("agent", "completion", "parsed"),
    [
        ("naive", "go forward", "go forward"),
        ("naive", "go forward.", "go forward"),
        ("naive", '"go forward"', "go forward"),
        ("naive", "`go forward` 1", "go forward "),  # the space is left, and makes it invalid
        ("naive", "Action: go forward", "Action: go forward"),
        ("naive", "", ""),
        ("few_shot", "**toggle**!", "toggle"),
        ("few_shot", "toggle\n", "toggle\n"),
        ("cot", "I see a door. ACTION: toggle", "toggle"),
        ("cot", "**ACTION:** toggle.", "toggle"),
        ("cot", "ACTION: <toggle>", "toggle"),
        ("cot", "ACTION: drop. No, ACTION: toggle", "toggle"),
        ("cot", "ACTION: toggle\nas the door is shut", "toggle\nas the door is shut"),
        ("cot", "Action: toggle", "Action: toggle"),
        ("cot", " toggle ", "toggle"),
        ("cot", "ACT-ION: toggle", "toggle"),  # characters go before the word is looked for
        ("robust_naive", "<|ACTION|> go forward\n<|END|>", "go forward"),
        ("robust_naive", "<|ACTION|>drop<|END|><|ACTION|>toggle<|END|>", "drop"),
        ("robust_naive", "<|ACTION|>drop", "<|ACTION|>drop"),
        ("robust_naive", " drop ", "drop"),
        ("robust_naive", "<|ACTION|>go\nforward<|END|>", "go\nforward"),
        ("robust_naive", "<|ACTION|>drop.<|END|>", "drop."),
        ("robust_cot", "Hm. <|ACTION|>drop<|END|> done", "drop"),
        ("robust_cot", "drop", UNPARSED),
        ("custom", "PLAN: go on\nACTION: drop ", "drop"),
        ("custom", "action:drop", "drop"),
        ("custom", "ACTION: drop\nACTION: toggle", "drop\nACTION: toggle"),
        ("custom", "drop", ""),
        ("dummy", "drop", "wait"),
    ],
)
def test_how_each_agent_is_read(agent, completion, parsed):
    for environment in ENVIRONMENTS:
        assert parse_action(environment, agent, completion)[0] == parsed
    valid = parsed in {"turn left", "turn right", "go forward", "pick up", "drop", "toggle"}
    assert parse_action("babyai", agent, completion)[1] == (parsed if valid else "go forward")


@pytest.mark.parametrize(
    ("environment", "valid", "invalid", "default"),
    [
        ("babyai", ["turn left", "pick up"], ["Turn left", "forward", " drop"], "go forward"),
        ("crafter", ["Noop", "Move West", "Make Iron Sword"], ["noop", "Move Left", "Place  Stone"], "Noop"),
        ("babaisai", ["idle", "up", "right", "down", "left"], ["Up", "up up", "wait"], "idle"),
        (
            "minihack",
            ["north", "far southwest", "zap", "apply"],
            ["North", "n", "search for", "wield", "7"],
            "north",
        ),
        (
            "nle",
            ["far east", "wield", "y", "Z", "7", "07", "99", "space"],
            ["travel", "help", "100", "yes", " "],
            "esc",
        ),
    ],
)
def test_an_action_is_valid_to_the_letter_or_replaced(environment, valid, invalid, default):
    for action in valid:
        assert parse_action(environment, "robust_naive", f"<|ACTION|>{action}<|END|>") == (action, action)
    for action in invalid:
        assert parse_action(environment, "few_shot" if action == " drop" else "robust_naive", action)[1] == default


def test_any_text_is_an_action_of_textworld():
    assert parse_action("textworld", "robust_naive", "open the 2nd door!") == ("open the 2nd door!",) * 2
    assert parse_action("textworld", "naive", "open the 2nd door!") == ("open the nd door",) * 2


def test_a_task_may_have_other_actions():
    assert parse_action("minihack", "naive", "zap", actions=["north", "south"]) == ("zap", "north")
    assert parse_action("minihack", "naive", "south", actions=["north", "south"]) == ("south", "south")
    assert parse_action("textworld", "naive", "dance", actions=["look"]) == ("dance", "help")


@given(
    st.sampled_from(ENVIRONMENTS), st.sampled_from(AGENTS), st.text() | st.text(alphabet="ACTION:<|END>drop \n")
)
@settings(max_examples=200)
def test_any_text_is_executed_as_something_valid(environment, agent, completion):
    parsed, executed = parse_action(environment, agent, completion)
    if ACTIONS[environment] is None:
        assert executed == parsed
    else:
        assert executed in ACTIONS[environment]
        assert executed == parsed or (
            executed == DEFAULT_ACTION[environment] and parsed not in ACTIONS[environment]
        )


def test_the_overall_figure_is_the_mean_over_environments():
    got = aggregate({"babyai": [1.0, 0.0, 0.0, 0.0], "crafter": [0.5], "nle": [0.0, 0.2]})
    assert got["environments"] == {
        "babyai": {
            "progression_percentage": 25.0,
            "standard_error": pytest.approx(100 * math.sqrt(0.25 * 0.75 / 4)),
            "episodes_played": 4,
        },
        "crafter": {"progression_percentage": 50.0, "standard_error": 0.0, "episodes_played": 1},
        "nle": {
            "progression_percentage": 10.0,
            "standard_error": pytest.approx(100 * 0.1 / math.sqrt(2)),
            "episodes_played": 2,
        },
    }
    assert got["average_progress"] == pytest.approx((25 + 50 + 10) / 3)  # not the mean of the 7 episodes
    assert got["standard_error"] == pytest.approx(100 * math.sqrt(0.25 * 0.75 / 4 + 0.01 / 2) / 3)


values = st.lists(st.floats(0, 1), min_size=1, max_size=12)


@given(st.dictionaries(st.sampled_from(ENVIRONMENTS), values, min_size=1))
@settings(max_examples=100)
def test_the_aggregate_agrees_with_the_library_of_statistics(progressions):
    got = aggregate(progressions)
    means = {name: statistics.fmean(one) for name, one in progressions.items()}
    errors = {name: statistics.pstdev(one) / math.sqrt(len(one)) for name, one in progressions.items()}
    for name, figures in got["environments"].items():
        assert figures["progression_percentage"] == pytest.approx(100 * means[name], abs=1e-9)
        assert figures["standard_error"] == pytest.approx(100 * errors[name], abs=1e-9)
    assert got["average_progress"] == pytest.approx(100 * statistics.fmean(means.values()), abs=1e-9)
    assert got["standard_error"] == pytest.approx(100 * math.hypot(*errors.values()) / len(means), abs=1e-9)
    assert 0 <= got["average_progress"] <= 100 + 1e-9


def test_what_is_wrong_is_named():
    for call in (
        lambda: progression("minigrid", []),
        lambda: parse_action("minigrid", "naive", "up"),
        lambda: aggregate({"minigrid": [1.0]}),
    ):
        with pytest.raises(ValueError, match=r"environment is 'minigrid'; accepted: babyai, crafter, textworld"):
            call()
    with pytest.raises(ValueError, match=r"agent is 'react'; accepted: naive, few_shot, cot"):
        parse_action("babyai", "react", "up")
    with pytest.raises(ValueError, match=r"progressions is empty"):
        aggregate({})
    for bad in ([], [1.5], [-0.1], [math.nan]):
        with pytest.raises(ValueError, match=r"progressions of nle are .*; accepted: at least one, in 0 to 1"):
            aggregate({"nle": bad})
