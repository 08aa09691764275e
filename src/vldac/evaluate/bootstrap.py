"""How sure a figure is that is made of several tasks' means, for one model and for two on the same items.

* A figure is a weighted sum of tasks' means, as the official ones of all our benchmarks are. Items are drawn
  again within their task, n - 1 of n with replacement: with n a task of three items would look surer than it is
  (Rao and Wu, JASA 83, 1988, for stratified samples). 10,000 draws of a fixed seed: the same answers always give
  the same interval.
* Where all items of a task scored alike, drawing again says "certain". It is not: a value that was not seen in n
  items may still have a probability of z^2 / (n + z^2), which is Wilson's bound for 0 of n. That much is added.
* Two models are compared on the same items, drawn together: what an item is worth to both cancels out.
* It all covers the luck of the items drawn, not that of the training, and takes items as independent.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.stats import binomtest

from vldac.evaluate.statistics import Interval, mean_interval, wilson

DRAWS = 10_000
SEED = 0
_AT_ONCE = 4_000_000  # numbers drawn at a time, 32 MB


class Estimate(NamedTuple):
    """A figure in 0..1, or a difference of two in -1..1.

    Attributes:
      estimate: nan if no item counts.
      standard_error: nan where it is not known, as of a single item.
      low, high: the 95 % interval.
      items: that it is made of.
    """

    estimate: float
    standard_error: float
    low: float
    high: float
    items: int

    def scaled(self, factor: float) -> Estimate:
        """The same in another unit: `scaled(100)` is in percent."""
        return Estimate(*(factor * value for value in self[:4]), self.items)


NOTHING = Estimate(math.nan, math.nan, -math.inf, math.inf, 0)


def mean(scores: Float[np.ndarray, " n"] | Sequence[float], confidence: float = 0.95) -> Estimate:
    """The mean of one task's scores.

    Wilson's interval where all are 0 or 1, Student's within 0..1 where they are not.

    Args:
      scores: float[n] in 0..1; nan is an item that the official scorer leaves out.
      confidence: of the interval.

    Raises:
      ValueError: a score outside 0..1.
    """
    x = _present(_checked("scores", scores))
    if x.size == 0:
        return NOTHING
    if np.isin(x, (0.0, 1.0)).all():
        interval = wilson(int(x.sum()), x.size, confidence)
    elif np.ptp(x) == 0:
        value, missed = float(x[0]), _unseen(x.size, confidence)
        interval = Interval(value, value - missed * value, value + missed * (1 - value))
    else:
        interval = mean_interval(x, confidence)
    return Estimate(float(x.mean()), _standard_error(x), max(0.0, interval.low), min(1.0, interval.high), x.size)


def combined(
    scores: Mapping[str, Float[np.ndarray, " n"] | Sequence[float]],
    weights: Mapping[str, float],
    confidence: float = 0.95,
    draws: int = DRAWS,
    seed: int = SEED,
) -> Estimate:
    """The weighted sum of tasks' means.

    Args:
      scores: of each task that has a weight, float[n] in 0..1, nan being left out.
      weights: of each task, above 0, with a sum of 1.
      confidence: of the interval.
      draws, seed: of the bootstrap.

    Raises:
      ValueError: a score outside 0..1, or weights that do not sum up to 1.
    """
    strata = {task: _checked(f"scores of {task}", scores[task])[None] for task in weights}
    return _combined(strata, weights, (1.0,), (0.0, 1.0), confidence, draws, seed)


def paired_difference(
    a: Mapping[str, Float[np.ndarray, " n"] | Sequence[float]],
    b: Mapping[str, Float[np.ndarray, " n"] | Sequence[float]],
    weights: Mapping[str, float],
    confidence: float = 0.95,
    draws: int = DRAWS,
    seed: int = SEED,
) -> Estimate:
    """How much b's weighted sum of tasks' means is above a's.

    Args:
      a, b: of each task that has a weight, float[n] in 0..1: the same items in the same order. nan is left out of
        the mean of the one it belongs to, as the official scorer does.
      weights, confidence, draws, seed: as of `combined`.

    Returns:
      b - a; its `items` are those that either of the two counts.

    Raises:
      ValueError: as `combined`, or not as many items in b as in a.
    """
    strata = {}
    for task in weights:
        x, y = _checked(f"a of {task}", a[task]), _checked(f"b of {task}", b[task])
        if x.size != y.size:
            raise ValueError(f"b of {task} has {y.size} items; accepted: as many as a, {x.size}")
        strata[task] = np.stack([x, y])
    return _combined(strata, weights, (-1.0, 1.0), (-1.0, 1.0), confidence, draws, seed)


def clustered_standard_error(
    scores: Mapping[str, Float[np.ndarray, " n"]],
    groups: Mapping[str, Sequence[str]],
    weights: Mapping[str, float],
) -> float:
    """The standard error of a weighted sum of tasks' means where items come in groups, such as those on one video.

    Larger than that of `combined` where a group's items tend to be right or wrong together. The weighted
    deviations of a group's items, across tasks, are added up; the groups are what is independent.

    Args:
      scores: of each task that has a weight, float[n], nan being left out. For two models the differences on
        the items that both count.
      groups: of each task the n names of the items' groups.
      weights: of each task.

    Returns:
      nan for fewer than two groups.

    Source: the linearised estimator of cluster sampling, with C / (C - 1); for evaluations of language models
    Miller, "Adding Error Bars to Evals", arXiv 2411.00640.
    """
    sums: dict[str, float] = {}
    for task, weight in weights.items():
        x = np.asarray(scores[task], dtype=np.float64)
        here = ~np.isnan(x)
        deviations = weight * (x - np.nanmean(x)) / here.sum()
        for deviation, group, counts in zip(deviations, groups[task], here, strict=True):
            if counts:
                sums[group] = sums.get(group, 0.0) + float(deviation)
    if len(sums) < 2:
        return math.nan
    return math.sqrt(len(sums) / (len(sums) - 1) * sum(total**2 for total in sums.values()))


def mcnemar(better: int, worse: int) -> float:
    """The exact p-value of McNemar's test: how likely changes fall so unevenly, or more, if both are as likely.

    Args:
      better, worse: items that were wrong and became right, and the other way round. Items that both models answer
        alike say nothing. No change at all gives 1.

    Source: McNemar, Psychometrika 12 (1947), with the binomial in place of chi-squared, two-sided.
    """
    if better < 0 or worse < 0:
        raise ValueError(f"better, worse are {better}, {worse}; accepted: 0 or more")
    return float(binomtest(better, better + worse, 0.5).pvalue) if better + worse else 1.0


def _combined(
    strata: Mapping[str, Float[np.ndarray, "k n"]],
    weights: Mapping[str, float],
    signs: Sequence[float],
    bounds: tuple[float, float],
    confidence: float,
    draws: int,
    seed: int,
) -> Estimate:
    """`signs` say how the k rows of a stratum, its models, are added up; `bounds` what a sum may be."""
    if not math.isclose(sum(weights.values()), 1.0, rel_tol=1e-9) or min(weights.values()) <= 0:
        raise ValueError(f"weights are {dict(weights)}; accepted: above 0, with a sum of 1")
    counted = {task: rows[:, ~np.isnan(rows).all(axis=0)] for task, rows in strata.items()}
    if any(np.isnan(rows).all(axis=1).any() for rows in counted.values()):
        return NOTHING  # a task without a mean leaves the whole without one
    random = np.random.default_rng(seed)
    column = np.asarray(signs)[:, None]
    total, variance, down, up = 0.0, 0.0, 0.0, 0.0
    resampled = np.zeros(draws)
    for task, weight in weights.items():
        rows, n = counted[task], counted[task].shape[1]
        value = float(np.nanmean(rows, axis=1) @ signs)
        total += weight * value
        # Linearised, so that an item which only one model counts weighs what it does in that model's mean.
        counts = np.sum(~np.isnan(rows), axis=1, keepdims=True)
        residuals = np.nan_to_num(column * (rows - np.nanmean(rows, axis=1, keepdims=True))) * (n / counts)
        influence = residuals.sum(axis=0)
        variance += weight**2 * (float(influence.var(ddof=1)) / n if n > 1 else math.nan)
        if n == 1 or np.ptp(influence) < 1e-12:
            missed = _unseen(n, confidence)
            down += (weight * missed * (value - bounds[0])) ** 2
            up += (weight * missed * (bounds[1] - value)) ** 2
            resampled += weight * value
        else:
            resampled += weight * _resampled(rows, signs, draws, random)
    tail = (1 - confidence) / 2
    low, high = np.quantile(resampled, [tail, 1 - tail])
    # Independent parts of a sum: their distances add up by squares, as in `statistics.difference`.
    low = total - math.hypot(max(0.0, total - low), math.sqrt(down))
    high = total + math.hypot(max(0.0, high - total), math.sqrt(up))
    items = sum(rows.shape[1] for rows in counted.values())
    return Estimate(total, math.sqrt(variance), max(bounds[0], float(low)), min(bounds[1], float(high)), items)


def _resampled(
    rows: Float[np.ndarray, "k n"], signs: Sequence[float], draws: int, random: np.random.Generator
) -> Float[np.ndarray, " draws"]:
    """The signed sum of the rows' means, drawn again; a draw without any item of a row keeps that row's mean."""
    n = rows.shape[1]
    present, values = (~np.isnan(rows)).astype(np.float64), np.nan_to_num(rows)
    whole = present.all()
    means = np.nanmean(rows, axis=1)
    out = np.empty(draws)
    step = max(1, _AT_ONCE // n)
    for start in range(0, draws, step):
        stop = min(draws, start + step)
        drawn = random.integers(0, n, (stop - start, n - 1))
        part = np.zeros(stop - start)
        for sign, row, here, average in zip(signs, values, present, means, strict=True):
            if whole:
                part += sign * row[drawn].mean(axis=1)
            else:
                count = here[drawn].sum(axis=1)
                part += sign * np.where(count > 0, row[drawn].sum(axis=1) / np.maximum(count, 1), average)
        out[start:stop] = part
    return out


def _unseen(n: int, confidence: float) -> float:
    """How probable a value may be that none of n items has: Wilson's upper bound for 0 of n."""
    z2 = NormalDist().inv_cdf((1 + confidence) / 2) ** 2
    return z2 / (n + z2)


def _standard_error(x: Float[np.ndarray, " n"]) -> float:
    return float(x.std(ddof=1) / math.sqrt(x.size)) if x.size > 1 else math.nan


def _present(x: Float[np.ndarray, " n"]) -> Float[np.ndarray, " m"]:
    return x[~np.isnan(x)]


def _checked(field: str, scores: Float[np.ndarray, " n"] | Sequence[float]) -> Float[np.ndarray, " n"]:
    x = np.asarray(scores, dtype=np.float64).ravel()
    outside = _present(x)
    outside = outside[(outside < 0) | (outside > 1)]
    if outside.size:
        raise ValueError(f"{field} hold {outside[0]:g}; accepted: 0 to 1, or nan for what is left out")
    return x
