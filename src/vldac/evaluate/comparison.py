"""Two models on the same items: what differs, and whether that is more than luck.

* Only the same items are compared: of another set the difference would be that of the items.
* Per task and for every official figure the difference with its interval (paired bootstrap); where scores are 0 or
  1 also McNemar's exact test. How many items changed either way is said beside it, because that is what there is.
* With several tasks one interval in twenty excludes 0 by luck alone: p-values are given as they are and by Holm.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from vldac.evaluate.aggregates import LAYOUTS, OVERALL
from vldac.evaluate.bootstrap import DRAWS, SEED, mcnemar, paired_difference
from vldac.evaluate.results import Evaluated, as_json, by_stratum, clustered_note, from_json

_NAMED = 3  # items that an error names
_NO_SETTING = ("folder", "name", "model", "lanes", "max_length", "balrog.processes")


class DifferentItems(ValueError):
    """Two evaluations that can not be compared. `str()` is one line that names what differs."""


def check_same_items(a: Evaluated, b: Evaluated) -> None:
    """Raises DifferentItems unless both answered the same items of the same benchmark."""
    if a.benchmark != b.benchmark:
        raise DifferentItems(
            f"{a.folder} is of {a.benchmark} and {b.folder} of {b.benchmark}; accepted: the same benchmark"
        )
    for one, other in ((a, b), (b, a)):
        extra = [name for name in one.records if name not in other.records]
        if extra:
            raise DifferentItems(
                f"{len(extra)} of {len(one.records)} items of {one.folder} are not in {other.folder}: "
                f"{_few(extra)}; accepted: results on the same items"
            )
    changed = [
        name
        for name, record in a.records.items()
        if (record.task, record.truth) != (b.records[name].task, b.records[name].truth)
    ]
    if changed:
        raise DifferentItems(
            f"{len(changed)} items have another task or truth in {b.folder} than in {a.folder}: {_few(changed)}; "
            f"accepted: results on the same data"
        )


def compare(a: Evaluated, b: Evaluated) -> dict[str, Any]:
    """How b's scores differ from a's, in percent (points).

    Returns:
      "benchmark"; "a" and "b", each "folder", "model", "complete"; "items";
      "scores": of every task and official figure "items", "a", "b", "difference" (as `results.as_json`),
        "better", "worse", "same" (items, of tasks), "p" (McNemar, of tasks of 0 or 1) and "p_holm";
      "changed": [{"id", "task", "a", "b"}], items that are worth more or less, in percent;
      "settings": {name: [a's, b's]} in which the two evaluations differ; "notes": sentences.

    Raises:
      DifferentItems: they are not of the same items.
    """
    check_same_items(a, b)
    layout = LAYOUTS[a.benchmark]
    ids = list(a.records)
    x = by_stratum((a.records[name] for name in ids), layout)
    y = by_stratum((b.records[name] for name in ids), layout)
    scores = {task: _task(x[task], y[task], task) for task in x}
    counted = [task for task in x if not (np.isnan(x[task]).all() or np.isnan(y[task]).all())]
    for name, weights in layout.aggregates(counted).items():
        scores[name] = {
            "a": 100 * sum(weight * float(np.nanmean(x[task])) for task, weight in weights.items()),
            "b": 100 * sum(weight * float(np.nanmean(y[task])) for task, weight in weights.items()),
            "difference": as_json(paired_difference(x, y, weights).scaled(100.0)),
        }
    notes = []
    if weights := layout.aggregates(counted).get(OVERALL):
        differences = {task: y[task] - x[task] for task in weights}
        alone = paired_difference(x, y, weights, draws=1).standard_error
        first = [a.records[name] for name in ids]
        notes.append(clustered_note(first, layout, differences, weights, alone, "overall difference"))
    tested = [task for task, figures in scores.items() if "p" in figures]
    for task, p in zip(tested, holm([scores[task]["p"] for task in tested]), strict=True):
        scores[task]["p_holm"] = p
    settings = _settings(a, b)
    return {
        "benchmark": a.benchmark,
        "a": _side(a),
        "b": _side(b),
        "items": len(ids),
        "scores": scores,
        "changed": [
            {
                "id": name,
                "task": a.records[name].task,
                "a": _percent(a.records[name].score / layout.full),
                "b": _percent(b.records[name].score / layout.full),
            }
            for name in ids
            if not _same(a.records[name].score, b.records[name].score)
        ],
        "settings": settings,
        "notes": [*_notes(a, b, scores, settings), *filter(None, notes)],
        "statistics": f"95 % intervals of paired differences; stratified bootstrap of {DRAWS} draws, seed {SEED}",
    }


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values: below 0.05 where a claim holds with all of them made at once.

    Source: Holm, Scandinavian Journal of Statistics 6 (1979).
    """
    adjusted, least = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        least = max(least, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = least
    return adjusted


def verdict(difference: dict[str, Any]) -> str:
    """ "better", "worse" or "no clear difference", by the interval of a difference."""
    estimate = from_json(difference)
    if estimate.low > 0:
        return "better"
    return "worse" if estimate.high < 0 else "no clear difference"


def _task(x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"], task: str) -> dict[str, Any]:
    # An item that one of the two leaves out is worth nothing that could be more or less.
    both = ~np.isnan(x) & ~np.isnan(y)
    better, worse = int(np.sum(y[both] > x[both])), int(np.sum(y[both] < x[both]))
    figures = {
        "items": int(x.size),
        "a": _percent(float(np.nanmean(x))) if not np.isnan(x).all() else None,
        "b": _percent(float(np.nanmean(y))) if not np.isnan(y).all() else None,
        "difference": as_json(paired_difference({task: x}, {task: y}, {task: 1.0}).scaled(100.0)),
        "better": better,
        "worse": worse,
        "same": int(both.sum()) - better - worse,
    }
    if np.isin(x[both], (0.0, 1.0)).all() and np.isin(y[both], (0.0, 1.0)).all():
        figures["p"] = mcnemar(better, worse)
    return figures


def _notes(a: Evaluated, b: Evaluated, scores: dict[str, Any], settings: dict[str, Any]) -> list[str]:
    notes = []
    tasks = sum("better" in figures for figures in scores.values())
    if tasks > 1:
        share = 100 * (1 - 0.95**tasks)
        notes.append(
            f"Had nothing changed in any of the {tasks} tasks, at least one interval would exclude 0 by luck "
            f"in about {share:.0f} of 100 such tables."
        )
    notes.append("The intervals cover the luck of the items, not that of training: another seed is another model.")
    for one in (a, b):
        if not one.results.get("complete", False):
            notes.append(f"{one.folder} is not the whole benchmark.")
    if settings:
        notes.append(
            f"The two were not asked alike: {', '.join(settings)} differ, which may be all that this shows."
        )
    return notes


def _settings(a: Evaluated, b: Evaluated) -> dict[str, list[Any]]:
    """The settings of the evaluations, not those of speed or place, in which the two differ."""
    x, y = (flat(one.results.get("configuration", {})) for one in (a, b))
    names = [name for name in dict.fromkeys([*x, *y]) if name not in _NO_SETTING]
    return {name: [x.get(name), y.get(name)] for name in names if x.get(name) != y.get(name)}


def flat(value: dict[str, Any], path: str = "") -> dict[str, Any]:
    """{"section.field": value} of nested objects."""
    found = {}
    for name, leaf in value.items():
        found |= flat(leaf, f"{path}{name}.") if isinstance(leaf, dict) else {f"{path}{name}": leaf}
    return found


def _side(one: Evaluated) -> dict[str, Any]:
    return {"folder": str(one.folder), "model": one.model, "complete": bool(one.results.get("complete"))}


def _percent(score: float) -> float | None:
    return None if math.isnan(score) else 100 * score


def _same(x: float, y: float) -> bool:
    return x == y or (math.isnan(x) and math.isnan(y))


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(repr(name) for name in names[:_NAMED]) + more
