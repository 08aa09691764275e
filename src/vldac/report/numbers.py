"""Numbers for a reader: rates, quantities and times with as many digits as they deserve."""

from __future__ import annotations

import math

from vldac.evaluate.statistics import Interval


def known(interval: Interval) -> bool:
    return not math.isnan(interval.estimate)


def percent(rate: float | int | None) -> str:
    """Whole percents, and a decimal where one would hide that the rate is not 0 or 1; "–" if it is not known."""
    if rate is None or not math.isfinite(rate):
        return "–"
    return f"{100 * rate:.0f} %" if 0.02 <= rate <= 0.98 or rate in (0.0, 1.0) else f"{100 * rate:.1f} %"


def number(value: float | int | None, digits: int = 3) -> str:
    """A number with at least `digits` significant digits; "–" if it is not known."""
    if value is None or not math.isfinite(value):
        return "–"
    if value == 0 or abs(value) >= 10**digits:
        return f"{value:,.0f}"
    decimals = digits - 1 - math.floor(math.log10(abs(value)))
    return f"{value:.{digits - 1}e}" if decimals > digits + 3 else f"{value:.{max(0, decimals)}f}"


def rate_with_interval(rate: Interval) -> str:
    """For example "97 % [94, 99]"; an unknown rate is "–"."""
    if not known(rate):
        return "–"
    return f"{percent(rate.estimate)} [{_bound(100 * rate.low, 0)}, {_bound(100 * rate.high, 0)}]"


def score_with_interval(score: Interval) -> str:
    """For example "34.7 % [33.5, 36.0]" of a benchmark's score in percent; an unknown one is "–"."""
    if not known(score):
        return "–"
    return f"{score.estimate:.1f} % [{_bound(score.low, 1)}, {_bound(score.high, 1)}]"


def number_with_interval(value: Interval) -> str:
    """For example "9.1 [8.5, 9.7]", with the decimals that the interval's width allows; unknown is "–"."""
    if not known(value):
        return "–"
    width = value.high - value.low
    decimals = min(4, max(1, -math.floor(math.log10(width)))) if 0 < width < math.inf else 1
    return f"{value.estimate:.{decimals}f} [{_bound(value.low, decimals)}, {_bound(value.high, decimals)}]"


def duration(seconds: float | int | None) -> str:
    """For example "8.4 s", "3 min 20 s", "2 h 05 min"."""
    if seconds is None or not math.isfinite(seconds):
        return "–"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def _bound(value: float, decimals: int) -> str:
    return f"{value:.{decimals}f}" if math.isfinite(value) else "?"
