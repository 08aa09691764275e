"""The words follow the intervals: no gain is claimed that is not there, and none that is there is hidden."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vldac.evaluate.statistics import Interval, mean_interval, outside, wilson
from vldac.report.success import details, headline, results, steps_sentence, without


def result(success=None, steps=None, **more):
    summary = {"success_rate": {"w": success or {}}, "steps_to_goal": {"w": steps or {}}, **more}
    return results(summary)[0]


def rate(successes, trials=256):
    return list(wilson(successes, trials))


@given(st.integers(0, 64), st.integers(0, 64))
def test_the_headline_says_rose_or_fell_only_if_the_intervals_do_not_touch(before, after):
    text = headline(result({"before": rate(before, 64), "after": rate(after, 64)}))
    apart = outside(wilson(after, 64), wilson(before, 64))
    assert (" rose " in text) == (apart and after > before)
    assert (" fell " in text) == (apart and after < before)
    assert text.startswith("No ") == (not apart)


def test_headlines():
    assert (
        headline(result({"before": rate(80), "after": rate(248)}))
        == "Success on w rose from 31 % [26, 37] to 97 % [94, 98]"
    )
    assert (
        headline(result({"before": rate(80), "after": rate(92)}))
        == "No clear change: success on w went from 31 % [26, 37] to 36 % [30, 42], and the intervals overlap"
    )
    assert headline(result({"before": rate(80), "after": rate(80)})) == (
        "No gain: success on w stayed at 31 % [26, 37]"
    )
    assert headline(result({"before": rate(80)})) == (
        "Success on w was 31 % [26, 37] before RL; it has not been measured after it"
    )
    assert headline(result({"after": rate(80)})).endswith("after RL; it was not measured before")
    assert headline(result({"expert": rate(80)})) == "Success on w has not been measured yet"


def test_the_change_itself_is_judged():
    def judged(before, after):
        return details(result({"before": rate(before), "after": rate(after)}))[0]

    assert judged(80, 248).startswith("The change is +66 points [+59, +71].") and "do not touch" in judged(80, 248)
    assert "the difference itself excludes zero" in judged(100, 124)  # the intervals overlap all the same
    assert "may be luck" in judged(100, 104) and "−" in judged(104, 100)


def test_expert_and_random_are_named():
    text = " ".join(details(result({"expert": rate(256), "random": rate(59)})))
    assert "expert that sees the whole state reaches 100 % [99, 100]" in text
    assert "random actions 23 % [18, 29]" in text


def test_steps_are_compared_with_the_expert():
    steps = {"before": [20.0, 18.0, 22.0], "after": [9.0, 8.5, 9.5], "expert": [7.5, 7.25, 7.75]}
    assert steps_sentence(result(steps=steps)) == (
        "Episodes that reach the goal take 9.0 [8.5, 9.5] steps after RL and took 20.0 [18.0, 22.0] before it; "
        "the expert takes 7.5 [7.2, 7.8]: the model needs 20 % more steps than the expert."
    )
    assert "no clear difference" in steps_sentence(result(steps={**steps, "expert": [8.8, 8.2, 9.4]}))
    assert "10 % fewer" in steps_sentence(result(steps={**steps, "expert": [10.0, 9.9, 10.1]}))
    assert steps_sentence(result(steps={"before": [3.0, 2.0, 4.0]})) == (
        "Episodes that reach the goal take 3.0 [2.0, 4.0] steps before RL."
    )
    assert steps_sentence(result(steps={"expert": [3.0, 2.0, 4.0]})) == ""
    assert steps_sentence(result(steps={"after": list(mean_interval([])), "expert": [3.0, 2.0, 4.0]})) == ""


def test_rows_are_in_reading_order_and_the_first_world_is_the_trained_one():
    summary = {
        "success_rate": {
            "b/1": {"expert": rate(1), "zebra": rate(2), "random": rate(3)},
            "a/2": {"after": rate(4)},
        },
        "mean_return": {"a/2": {"after": [1.0, 0.5, None]}, "c/3": {}},
        "parse_failure_rate": {"a/2": {"after": 0.5}, "b/1": None},
    }
    found = results(summary)
    assert [(r.world, r.trained, [row.policy for row in r.rows]) for r in found] == [
        ("b/1", True, ["random", "expert", "zebra"]),
        ("a/2", False, ["after"]),
        ("c/3", False, []),
    ]
    assert found[1].row("after").episode_return == Interval(1.0, 0.5, float("inf"))
    assert found[1].row("after").invalid == 0.5 and found[0].row("random").invalid is None
    assert results({}) == []


def test_one_policys_figures_can_be_left_out_and_nothing_else():
    figures = {"before": rate(4), "after": rate(5)}
    summary = {key: {"w": dict(figures)} for key in ("success_rate", "steps_to_goal", "mean_return")}
    summary |= {"parse_failure_rate": {"w": {"before": 0.5, "after": 0.25}}, "iterations": 6}
    left = without(summary, "after")
    (world,) = results(left)
    assert [(row.policy, row.invalid) for row in world.rows] == [("before", 0.5)]
    assert left["iterations"] == 6 and summary["success_rate"]["w"] == figures, "the summary itself stays"
    for malformed in ({"success_rate": [1]}, {"success_rate": {"w": 0.5}}, {}):
        assert without(malformed, "after") == malformed


@pytest.mark.parametrize(
    ("summary", "message"),
    [
        ({"success_rate": [1]}, r"success_rate is \[1\]"),
        ({"success_rate": {"w": 0.5}}, "success_rate of w is 0.5"),
        ({"steps_to_goal": {"w": {"after": [1, 2]}}}, r"steps_to_goal of after on w: interval is \[1, 2\]"),
        ({"mean_return": {"w": {"after": ["a", 1, 2]}}}, "mean_return of after on w: "),
    ],
)
def test_a_malformed_summary_is_named(summary, message):
    with pytest.raises(ValueError, match=message):
        results(summary)
