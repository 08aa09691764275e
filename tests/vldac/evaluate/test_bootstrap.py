"""Standard errors and intervals of official figures against slow versions, closed forms and what they promise."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from vldac.evaluate.bootstrap import NOTHING, clustered_standard_error, combined, mcnemar, mean, paired_difference
from vldac.evaluate.statistics import wilson

scores = st.lists(st.sampled_from([0.0, 0.25, 0.5, 0.9, 1.0]), min_size=2, max_size=12).map(np.array)


def weighted_mean(strata, weights):
    """The obvious version."""
    total = 0.0
    for task, weight in weights.items():
        kept = [x for x in strata[task] if not math.isnan(x)]
        total += weight * sum(kept) / len(kept)
    return total


@given(scores, scores)
@settings(max_examples=30)
def test_a_figure_is_the_weighted_mean_and_its_standard_error_the_textbooks(x, y):
    got = combined({"x": x, "y": y}, {"x": 0.25, "y": 0.75}, draws=50)
    assert got.estimate == pytest.approx(weighted_mean({"x": x, "y": y}, {"x": 0.25, "y": 0.75}))
    error = math.sqrt((0.25 * stats.sem(x)) ** 2 + (0.75 * stats.sem(y)) ** 2)
    assert got.standard_error == pytest.approx(error, abs=1e-12)
    assert got.items == x.size + y.size and got.low <= got.estimate <= got.high


def test_the_bootstrap_is_all_resamples_there_are():
    # Three items of a task and four of another, two and three drawn: few enough to go through every case.
    strata = {"x": np.array([0.0, 0.2, 1.0]), "y": np.array([0.1, 0.5, 0.6, 1.0])}
    weights = {"x": 0.4, "y": 0.6}
    means = {
        task: [np.mean(drawn) for drawn in itertools.product(x, repeat=x.size - 1)] for task, x in strata.items()
    }
    every = np.array([0.4 * a + 0.6 * b for a in means["x"] for b in means["y"]])
    got = combined(strata, weights, draws=60_000)
    assert [got.low, got.high] == pytest.approx(np.quantile(every, [0.025, 0.975]), abs=0.012)
    # Drawing n - 1 makes its variance that of the textbook, not (n - 1) / n of it.
    assert every.std() == pytest.approx(got.standard_error)


def test_the_same_answers_always_give_the_same_interval():
    x = {"a": np.random.default_rng(3).random(40)}
    assert combined(x, {"a": 1.0}) == combined(x, {"a": 1.0})
    assert combined(x, {"a": 1.0}, seed=1) != combined(x, {"a": 1.0}, seed=2)


def test_intervals_cover_the_truth_as_often_as_they_say():
    rng = np.random.default_rng(0)
    truth, sizes = {"a": 0.3, "b": 0.7, "c": 0.5}, {"a": 60, "b": 40, "c": 80}
    weights = dict.fromkeys(truth, 1 / 3)
    want, covered, covered_difference = np.mean(list(truth.values())), 0, 0
    for _ in range(200):
        x = {task: (rng.random(sizes[task]) < p).astype(float) for task, p in truth.items()}
        # b answers alike but on a tenth of the items, where it is right for sure
        better = {task: np.where(rng.random(v.size) < 0.1, 1.0, v) for task, v in x.items()}
        got = combined(x, weights, draws=400)
        covered += got.low <= want <= got.high
        gap = paired_difference(x, better, weights, draws=400)
        covered_difference += gap.low <= 0.1 * (1 - want) <= gap.high
    assert 0.9 <= covered / 200 <= 0.99
    assert 0.9 <= covered_difference / 200 <= 0.99


def test_what_never_varied_is_not_certain():
    for n in (1, 5, 194):
        zero, one = combined({"a": np.zeros(n)}, {"a": 1.0}), combined({"a": np.ones(n)}, {"a": 1.0})
        assert (zero.low, zero.high) == pytest.approx((0.0, wilson(0, n).high))
        assert (one.low, one.high) == pytest.approx((wilson(n, n).low, 1.0))
        assert mean(np.zeros(n))[2:4] == pytest.approx(wilson(0, n)[1:])
    half = mean(np.full(20, 0.5))
    assert 0.4 < half.low < 0.5 < half.high < 0.6
    same = paired_difference({"a": np.zeros(50)}, {"a": np.zeros(50)}, {"a": 1.0})
    assert same.estimate == 0 and (-same.low, same.high) == pytest.approx((wilson(0, 50).high,) * 2)


def test_mean_is_wilsons_for_right_and_wrong_and_students_for_parts():
    x = np.array([1.0] * 60 + [0.0] * 134)
    assert mean(x)[:1] + mean(x)[2:4] == pytest.approx(wilson(60, 194))
    y = np.array([0.1, 0.4, 0.4, 0.9, 0.3])
    low, high = stats.t.interval(0.95, 4, y.mean(), stats.sem(y))
    assert mean(y)[1:4] == pytest.approx((stats.sem(y), max(0, low), min(1, high)))
    assert math.isnan(mean([0.5]).standard_error) and mean([0.5])[2:4] == pytest.approx((0.103, 0.897), abs=1e-3)


def test_items_left_out_do_not_count():
    x = np.array([1.0, math.nan, 0.0, 1.0])
    assert mean(x) == mean([1.0, 0.0, 1.0])
    assert combined({"a": x}, {"a": 1.0}) == combined({"a": x[[0, 2, 3]]}, {"a": 1.0})
    assert mean([math.nan]) == NOTHING and math.isnan(combined({"a": [math.nan]}, {"a": 1.0}).estimate)
    # left out of one model's mean only
    a, b = {"a": [1.0, math.nan, 0.0, 0.0]}, {"a": [1.0, 1.0, 0.0, math.nan]}
    got = paired_difference(a, b, {"a": 1.0})
    assert got.estimate == pytest.approx(2 / 3 - 1 / 3) and got.items == 4
    assert got.low < got.estimate < got.high


@given(scores, st.randoms(use_true_random=False))
@settings(max_examples=20)
def test_pairing_takes_out_what_both_have_in_common(x, random):
    y = np.clip(x + np.array([random.choice([0.0, 0.0, 0.0, -0.25, 0.1]) for _ in x]), 0, 1)
    got = paired_difference({"a": x}, {"a": y}, {"a": 1.0}, draws=200)
    assert got.estimate == pytest.approx(np.mean(y - x), abs=1e-12)
    assert got.standard_error == pytest.approx(stats.sem(y - x), abs=1e-12)
    back = paired_difference({"a": y}, {"a": x}, {"a": 1.0}, draws=200)
    assert back.estimate == pytest.approx(-got.estimate, abs=1e-12)


def test_items_of_one_video_are_no_independent_evidence():
    rng = np.random.default_rng(0)
    scores = {"a": rng.random(30), "b": rng.random(20)}
    weights = {"a": 0.7, "b": 0.3}
    alone = {task: [f"{task}{i}" for i in range(x.size)] for task, x in scores.items()}
    # Each in a group of its own: the textbook's, but for n - 1 being taken once and not a task.
    got = clustered_standard_error(scores, alone, weights)
    plug_in = sum((weights[task] * x.std()) ** 2 / x.size for task, x in scores.items())
    assert got == pytest.approx(math.sqrt(plug_in * 50 / 49))
    # Every item four times over is no news: the error of the groups stays that of the items alone.
    fourfold = {task: np.repeat(x, 4) for task, x in scores.items()}
    groups = {task: [name for name in names for _ in range(4)] for task, names in alone.items()}
    assert clustered_standard_error(fourfold, groups, weights) == pytest.approx(got)
    assert combined(fourfold, weights, draws=10).standard_error < 0.6 * got
    # A group across tasks, and one that is left out.
    x = {"a": np.array([0.0, 1.0, math.nan]), "b": np.array([0.0, 1.0])}
    across = {"a": ["u", "v", "w"], "b": ["u", "v"]}
    assert clustered_standard_error(x, across, {"a": 0.5, "b": 0.5}) == pytest.approx(math.sqrt(2 * 2 * 0.25**2))
    assert math.isnan(clustered_standard_error(x, {"a": ["u"] * 3, "b": ["u"] * 2}, {"a": 0.5, "b": 0.5}))


def test_the_published_gain_on_route_planning_is_no_evidence():
    # VL-DAC table 3: 60 of 194 before, 63 after. Even if not one answer got worse it is three coins on one side.
    before = np.array([1.0] * 60 + [0.0] * 134)
    after = np.array([1.0] * 63 + [0.0] * 131)
    assert mcnemar(3, 0) == pytest.approx(2 * 0.5**3)
    assert mean(before).standard_error == pytest.approx(0.033, abs=5e-4)
    gap = paired_difference({"r": before}, {"r": after}, {"r": 1.0})
    assert gap.low == 0 < gap.high


@given(st.integers(0, 30), st.integers(0, 30))
@settings(max_examples=50)
def test_mcnemar_is_the_sum_of_the_binomials_tails(better, worse):
    n, few = better + worse, min(better, worse)
    tail = sum(math.comb(n, k) for k in range(few + 1)) / 2**n
    assert mcnemar(better, worse) == pytest.approx(min(1.0, 2 * tail))


def test_bad_input_names_the_field():
    with pytest.raises(ValueError, match=r"scores of a hold 1\.5"):
        combined({"a": [0.0, 1.5]}, {"a": 1.0})
    with pytest.raises(ValueError, match="with a sum of 1"):
        combined({"a": [0.0]}, {"a": 0.5})
    with pytest.raises(ValueError, match="b of a has 1 items; accepted: as many as a, 2"):
        paired_difference({"a": [0.0, 1.0]}, {"a": [0.0]}, {"a": 1.0})
    with pytest.raises(ValueError, match="better, worse are -1, 2"):
        mcnemar(-1, 2)
