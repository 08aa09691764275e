"""Intervals against published values, scipy, and what an interval promises."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from vldac.evaluate.statistics import UNKNOWN, Interval, difference, mean_interval, outside, wilson

proportions = st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@given(proportions, st.sampled_from([0.8, 0.95, 0.99]))
@settings(max_examples=60, deadline=None)
def test_wilson_is_scipys(proportion, confidence):
    successes, trials = proportion
    want = stats.binomtest(successes, trials).proportion_ci(confidence, method="wilson")
    got = wilson(successes, trials, confidence)
    np.testing.assert_allclose([got.low, got.high], [want.low, want.high], atol=1e-9)
    assert 0 <= got.low <= got.estimate <= got.high <= 1
    assert got.low < got.high  # never certain, not even at 0 of n and n of n


def test_wilson_newcombe_1998_table():
    # Newcombe 1998, table I: 81 of 263 -> .2553 to .3662; 15 of 148 -> .0624 to .1605.
    assert wilson(81, 263)[1:] == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson(15, 148)[1:] == pytest.approx((0.0624, 0.1605), abs=5e-5)


@given(st.lists(st.floats(-100, 100), min_size=2, max_size=40))
@settings(max_examples=40, deadline=None)
def test_mean_interval_is_scipys(samples):
    got = mean_interval(samples)
    scale = stats.sem(samples)
    want = stats.t.interval(0.95, len(samples) - 1, np.mean(samples), scale) if scale else got[1:]
    np.testing.assert_allclose([got.low, got.high], want, atol=1e-7)
    assert got.low <= got.estimate <= got.high


def test_mean_interval_covers_the_mean_as_often_as_it_says():
    rng = np.random.default_rng(0)
    steps = rng.geometric(0.15, size=(2000, 64)).clip(max=50).astype(float)  # skewed, like steps to a goal
    truth = rng.geometric(0.15, size=2_000_000).clip(max=50).mean()
    covered = np.mean([mean_interval(row).low <= truth <= mean_interval(row).high for row in steps])
    assert 0.92 < covered < 0.97


def test_nothing_measured_is_unknown_not_zero():
    assert math.isnan(wilson(0, 0).estimate) and wilson(0, 0)[1:] == (-math.inf, math.inf)
    assert math.isnan(mean_interval([]).estimate)
    assert mean_interval([3.0]) == (3.0, -math.inf, math.inf)
    assert not outside(mean_interval([3.0]), mean_interval([9.0, 9.1])), "one sample proves nothing"
    assert not outside(UNKNOWN, wilson(5, 5))


def test_difference_is_newcombes():
    # Newcombe 1998, table II, method 10: 56/70 against 48/80 -> .2, .0524 to .3339; 9/10 and 3/10 -> .6,
    # .1705 to .8090; 10/10 and 0/20 -> 1, .6791 to 1.
    for (a, n), (b, m), want in [
        ((56, 70), (48, 80), (0.2, 0.0524, 0.3339)),
        ((9, 10), (3, 10), (0.6, 0.1705, 0.8090)),
        ((10, 10), (0, 20), (1.0, 0.6791, 1.0)),
    ]:
        assert difference(wilson(a, n), wilson(b, m)) == pytest.approx(want, abs=5e-5)


@given(proportions, proportions)
@settings(max_examples=60, deadline=None)
def test_outside_is_symmetric_and_stricter_than_the_difference(a, b):
    a, b = wilson(*a), wilson(*b)
    assert outside(a, b) == outside(b, a)
    gap = difference(a, b)
    assert gap.low <= gap.estimate <= gap.high
    if outside(a, b):
        assert gap.low > 0 or gap.high < 0


def test_round_trip_through_json():
    rate = wilson(3, 7)
    assert Interval.of(json.loads(json.dumps(rate))) == rate
    assert Interval.of([4.0, None, None]) == (4.0, -math.inf, math.inf)
    assert Interval.of(None) is UNKNOWN
    assert math.isnan(difference(Interval.of(None), rate).estimate)
    for wrong in ([1, 2], "abc", 3.0):
        with pytest.raises(ValueError, match="estimate, low, high"):
            Interval.of(wrong)


def test_bad_input_names_the_field():
    with pytest.raises(ValueError, match=r"successes is 5 of 4"):
        wilson(5, 4)
    with pytest.raises(ValueError, match=r"confidence is 95"):
        wilson(1, 4, confidence=95.0)
    with pytest.raises(ValueError, match="samples"):
        mean_interval([1.0, math.nan])
