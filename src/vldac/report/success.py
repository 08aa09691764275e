"""What came out of a run, in rows and in words.

* Words follow the intervals: "rose" only where they do not touch, and plainly where nothing was gained.
* Every policy is measured by the same episodes, so that the rows of a world can be compared.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vldac.evaluate.statistics import UNKNOWN, Interval, difference, outside
from vldac.report.numbers import known, number_with_interval, rate_with_interval

POLICIES = {
    "random": "random actions",
    "before": "model before RL",
    "after": "model after RL",
    "expert": "scripted expert",
}
FIGURES = ("success_rate", "steps_to_goal", "mean_return")  # of a summary, with intervals
INVALID = "parse_failure_rate"


@dataclass(frozen=True)
class Row:
    """One policy on one world; `UNKNOWN` where nothing was measured.

    Attributes:
      policy: a key of `POLICIES`, or another name that the summary holds.
      label: the policy in words.
      success: share of the episodes that reach the goal.
      steps: mean steps to the goal, of the episodes that reach it.
      episode_return: mean undiscounted return.
      invalid: share of answers that name no action; None where nobody answers, or nobody counted.
    """

    policy: str
    label: str
    success: Interval
    steps: Interval
    episode_return: Interval
    invalid: float | None = None


@dataclass(frozen=True)
class WorldResult:
    """All policies that were evaluated on one world, in the order of `POLICIES`."""

    world: str
    trained: bool
    rows: tuple[Row, ...]

    def row(self, policy: str) -> Row:
        """The row of a policy; all `UNKNOWN` if it was not evaluated."""
        unknown = Row(policy, POLICIES.get(policy, policy), UNKNOWN, UNKNOWN, UNKNOWN)
        return next((row for row in self.rows if row.policy == policy), unknown)


def results(summary: Mapping[str, Any]) -> list[WorldResult]:
    """The evaluations of a summary (see `vldac.metrics.write_summary`), the world trained on first.

    Raises:
      ValueError: an interval is malformed; the message names it.
    """
    measured = {key: _tables(summary, key) for key in FIGURES}
    worlds = list(dict.fromkeys(world for table in measured.values() for world in table))
    found = []
    for index, world in enumerate(worlds):
        policies = {policy for table in measured.values() for policy in table.get(world, {})}
        ordered = [p for p in POLICIES if p in policies] + sorted(policies - POLICIES.keys())
        rows = tuple(
            Row(
                p,
                POLICIES.get(p, p),
                *(table.get(world, {}).get(p, UNKNOWN) for table in measured.values()),
                _invalid(summary, world, p),
            )
            for p in ordered
        )
        found.append(WorldResult(world, index == 0, rows))
    return found


def without(summary: Mapping[str, Any], policy: str) -> dict[str, Any]:
    """The same summary with no figures of this policy. What is malformed stays, for `results` to name."""
    rest = {}
    for key in (*FIGURES, INVALID):
        if isinstance(table := summary.get(key), Mapping):
            rest[key] = {
                world: {p: figure for p, figure in policies.items() if p != policy}
                if isinstance(policies, Mapping)
                else policies
                for world, policies in table.items()
            }
    return {**summary, **rest}


def headline(result: WorldResult) -> str:
    """One sentence: did success on this world change? It names both rates and says how sure that is."""
    before, after = result.row("before").success, result.row("after").success
    where = f"Success on {result.world}"
    if not known(after):
        if not known(before):
            return f"{where} has not been measured yet"
        return f"{where} was {rate_with_interval(before)} before RL; it has not been measured after it"
    if not known(before):
        return f"{where} is {rate_with_interval(after)} after RL; it was not measured before"
    numbers = f"from {rate_with_interval(before)} to {rate_with_interval(after)}"
    if outside(after, before):
        return f"{where} {'rose' if after.estimate > before.estimate else 'fell'} {numbers}"
    if after.estimate == before.estimate:
        return f"No gain: success on {result.world} stayed at {rate_with_interval(after)}"
    return f"No clear change: success on {result.world} went {numbers}, and the intervals overlap"


def details(result: WorldResult) -> list[str]:
    """Sentences on the same world: the change, what others reach, and how directly the goal is reached."""
    sentences = []
    before, after, expert = (result.row(policy) for policy in ("before", "after", "expert"))
    if known(before.success) and known(after.success):
        change = difference(after.success, before.success)
        points = f"{_signed(100 * change.estimate, 0)} points [{_signed(100 * change.low, 0)}, "
        points += f"{_signed(100 * change.high, 0)}]"
        sentences.append(f"The change is {points}. {_judgement(before.success, after.success)}")
    references = []
    if known(expert.success):
        references.append(
            f"a scripted expert that sees the whole state reaches {rate_with_interval(expert.success)}"
        )
    if known(result.row("random").success):
        references.append(f"uniformly random actions {rate_with_interval(result.row('random').success)}")
    if references:
        sentences.append(f"For comparison: {', '.join(references)}.")
    if steps := steps_sentence(result):
        sentences.append(steps)
    return sentences


def steps_sentence(result: WorldResult) -> str:
    """How many steps the model needs to the goal beside the expert; "" if that was not measured.

    Success saturates: whoever turns until the goal is seen gets there, too, only later.
    """
    before, after, expert = (result.row(policy).steps for policy in ("before", "after", "expert"))
    mine, when = (after, "after RL") if known(after) else (before, "before RL")
    if not known(mine):
        return ""
    sentence = f"Episodes that reach the goal take {number_with_interval(mine)} steps {when}"
    if known(after) and known(before):
        sentence += f" and took {number_with_interval(before)} before it"
    if not known(expert):
        return f"{sentence}."
    sentence += f"; the expert takes {number_with_interval(expert)}"
    if expert.estimate <= 0:
        return f"{sentence}."
    more = mine.estimate / expert.estimate - 1
    if not outside(mine, expert):
        return f"{sentence}: no clear difference from the expert."
    than = f"{100 * abs(more):.0f} % {'more' if more > 0 else 'fewer'} steps than the expert"
    return f"{sentence}: the model needs {than}."


def _judgement(before: Interval, after: Interval) -> str:
    if outside(after, before):
        return "The 95 % intervals do not touch, so luck in the evaluation episodes does not explain it."
    if outside(difference(after, before), Interval(0.0, 0.0, 0.0)):
        return (
            "The 95 % intervals overlap, although the difference itself excludes zero: "
            "weak evidence; more episodes or another seed would tell."
        )
    return "The 95 % intervals overlap: this may be luck in the evaluation episodes."


def _invalid(summary: Mapping[str, Any], world: str, policy: str) -> float | None:
    rates = summary.get(INVALID)
    of_world = rates.get(world) if isinstance(rates, Mapping) else None
    rate = of_world.get(policy) if isinstance(of_world, Mapping) else None
    return float(rate) if isinstance(rate, int | float) else None


def _tables(summary: Mapping[str, Any], key: str) -> dict[str, dict[str, Interval]]:
    tables: dict[str, dict[str, Interval]] = {}
    found = summary.get(key) or {}
    if not isinstance(found, Mapping):
        raise ValueError(f"{key} is {found!r}; accepted: {{world: {{policy: [estimate, low, high]}}}}")
    for world, policies in found.items():
        if not isinstance(policies, Mapping):
            raise ValueError(f"{key} of {world} is {policies!r}; accepted: {{policy: [estimate, low, high]}}")
        for policy, triple in policies.items():
            try:
                tables.setdefault(world, {})[policy] = Interval.of(triple)
            except (ValueError, TypeError) as error:
                raise ValueError(f"{key} of {policy} on {world}: {error}") from error
        tables.setdefault(world, {})
    return tables


def _signed(value: float, decimals: int) -> str:
    return f"{value:+.{decimals}f}".replace("-", "−") if math.isfinite(value) else "?"
