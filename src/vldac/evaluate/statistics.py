"""How sure an evaluation is: 95 % intervals of rates and means, and when two of them differ.

* Everything is a closed formula, so the same episodes always give the same interval (no bootstrap draws).
* The intervals cover the luck of the episodes drawn. They know nothing of the training's own luck: another
  training seed is another sample of something else.
* Intervals are plain triples, `[estimate, low, high]`, in JSON; an unknown bound is infinite here and null
  there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.special import stdtrit


class Interval(NamedTuple):
    """An estimate and its confidence interval, in the unit of what was estimated."""

    estimate: float
    low: float
    high: float

    @classmethod
    def of(cls, triple: Any) -> Interval:
        """Reads what JSON gives back: null is an unknown estimate (nan) or bound (infinite).

        Raises:
          ValueError: not a list of three numbers or nulls.
        """
        if triple is None:
            return UNKNOWN
        if isinstance(triple, str) or not isinstance(triple, Sequence) or len(triple) != 3:
            raise ValueError(f"interval is {triple!r}; accepted: [estimate, low, high]")
        estimate, low, high = triple
        return cls(
            math.nan if estimate is None else float(estimate),
            -math.inf if low is None else float(low),
            math.inf if high is None else float(high),
        )


UNKNOWN = Interval(math.nan, -math.inf, math.inf)


def wilson(successes: int, trials: int, confidence: float = 0.95) -> Interval:
    """Wilson's score interval for a proportion.

    Holds its coverage at 0 and 1, where trained and untrained policies are, and never leaves [0, 1]; the
    familiar p +- 1.96 sqrt(p (1 - p) / n) has width 0 there.

    Args:
      successes: how many of the trials succeeded.
      trials: how many there were; 0 gives `UNKNOWN`.
      confidence: of the two-sided interval.

    Raises:
      ValueError: successes outside 0..trials, or a confidence outside (0, 1).

    Source: Wilson, JASA 22 (1927); Newcombe, Statistics in Medicine 17 (1998), method 3.
    """
    _check_confidence(confidence)
    if trials < 0 or not 0 <= successes <= trials:
        raise ValueError(f"successes is {successes} of {trials} trials; accepted: 0 to trials")
    if trials == 0:
        return UNKNOWN
    z2 = NormalDist().inv_cdf((1 + confidence) / 2) ** 2
    rate = successes / trials
    centre = (rate + z2 / (2 * trials)) / (1 + z2 / trials)
    half = math.sqrt(z2 * (rate * (1 - rate) + z2 / (4 * trials)) / trials) / (1 + z2 / trials)
    # At 0 and 1 a bound coincides with the rate; rounding must not put it on the wrong side.
    return Interval(rate, min(rate, max(0.0, centre - half)), max(rate, min(1.0, centre + half)))


def mean_interval(samples: Float[np.ndarray, " n"] | Sequence[float], confidence: float = 0.95) -> Interval:
    """Student's t interval for a mean.

    Exact for normal samples. Returns and steps to the goal are neither normal nor symmetric, but bounded
    by the episode's length, so that a few dozen episodes make their mean nearly so.

    Args:
      samples: float[n], independent and finite: one number an episode. None gives `UNKNOWN`; a single
        one gives infinite bounds, as nothing is known of the spread.
      confidence: of the two-sided interval.

    Raises:
      ValueError: a sample is not finite, or a confidence outside (0, 1).
    """
    _check_confidence(confidence)
    x = np.asarray(samples, dtype=np.float64).ravel()
    if not np.isfinite(x).all():
        raise ValueError("samples hold a number that is not finite; accepted: finite numbers")
    if x.size == 0:
        return UNKNOWN
    mean = float(x.mean())
    if x.size == 1:
        return Interval(mean, -math.inf, math.inf)
    half = float(stdtrit(x.size - 1, (1 + confidence) / 2) * x.std(ddof=1) / math.sqrt(x.size))
    return Interval(mean, mean - half, mean + half)


def difference(a: Interval, b: Interval) -> Interval:
    """The interval of `a - b`, from the intervals of two independent estimates.

    Each side of the difference is as uncertain as the two sides that make it: sqrt of the sum of squares.
    For two Wilson intervals this is Newcombe's recommended interval of a difference of proportions.

    Source: Newcombe, Statistics in Medicine 17 (1998) 873-890, method 10; in general Zou and Donner,
    Statistics in Medicine 27 (2008) ("MOVER").
    """
    delta = a.estimate - b.estimate
    down = math.hypot(a.estimate - a.low, b.high - b.estimate)
    up = math.hypot(a.high - a.estimate, b.estimate - b.low)
    # An estimate that is not known leaves every difference possible.
    return UNKNOWN if math.isnan(delta) else Interval(delta, delta - down, delta + up)


def outside(a: Interval, b: Interval) -> bool:
    """Whether a's interval and b's do not touch: the difference is outside the intervals.

    Stricter than `difference(a, b)` excluding 0, which can hold while the intervals still overlap.
    """
    return a.low > b.high or b.low > a.high


def _check_confidence(confidence: float) -> None:
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence is {confidence}; accepted: between 0 and 1")
