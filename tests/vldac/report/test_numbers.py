"""Numbers as a reader sees them."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vldac.evaluate.statistics import UNKNOWN, Interval
from vldac.report.numbers import duration, number, number_with_interval, percent, rate_with_interval


@pytest.mark.parametrize(
    ("rate", "text"),
    [
        (0.0, "0 %"),
        (1.0, "100 %"),
        (0.315, "32 %"),
        (0.98, "98 %"),
        (0.996, "99.6 %"),
        (0.004, "0.4 %"),
        (math.nan, "–"),
        (None, "–"),
    ],
)
def test_percent(rate, text):
    assert percent(rate) == text


@given(st.integers(1, 999), st.integers(1, 999))
def test_a_rate_that_is_neither_0_nor_1_never_looks_like_it(successes, more):
    assert percent(successes / (successes + more)) not in ("0 %", "100 %")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.00123456, "0.00123"),
        (1.0, "1.00"),
        (-12.345, "-12.3"),
        (123.4, "123"),
        (9876.5, "9,876"),
        (1e-7, "1.00e-07"),
        (math.inf, "–"),
        (None, "–"),
    ],
)
def test_number(value, text):
    assert number(value) == text


@given(st.floats(1e-300, 1e15) | st.floats(-1e15, -1e-300))
def test_number_keeps_three_digits(value):
    assert float(number(value).replace(",", "")) == pytest.approx(value, rel=6e-3)


def test_intervals_show_as_many_decimals_as_their_width_deserves():
    assert rate_with_interval(Interval(0.969, 0.94, 0.984)) == "97 % [94, 98]"
    assert number_with_interval(Interval(9.512, 9.04, 9.98)) == "9.5 [9.0, 10.0]"
    assert number_with_interval(Interval(123.4, 110.4, 140.2)) == "123.4 [110.4, 140.2]"
    assert number_with_interval(Interval(0.8932, 0.8801, 0.9063)) == "0.89 [0.88, 0.91]"
    assert number_with_interval(Interval(3.0, 3.0, 3.0)) == "3.0 [3.0, 3.0]"
    assert number_with_interval(Interval(3.0, -math.inf, math.inf)) == "3.0 [?, ?]"
    assert rate_with_interval(UNKNOWN) == number_with_interval(UNKNOWN) == "–"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"),
        (59.94, "59.9 s"),
        (59.96, "1 min 00 s"),
        (3599.6, "1 h 00 min"),
        (7384, "2 h 03 min"),
        (None, "–"),
    ],
)
def test_duration(seconds, text):
    assert duration(seconds) == text
