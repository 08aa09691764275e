"""From the samples of an evaluation to its figures, `results.json`, and back.

Every figure is in percent, with its standard error, a 95 % interval and the number of items it is made of.
Beside them stand the benchmark's own figures under the official names (`official`), which are computed by its own
code; if the two differ in the overall score, that is said and ours is left out.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from vldac.evaluate import published
from vldac.evaluate.aggregates import LAYOUTS, OVERALL, Layout
from vldac.evaluate.bootstrap import DRAWS, SEED, Estimate, clustered_standard_error, combined, mean
from vldac.evaluate.samples import Record, read_samples
from vldac.metrics import RunFileError, read_json, write_atomically

RESULTS_FILE = "results.json"
CONFIG_FILE = "config.json"
_TOLERANCE = 1e-6  # percent, by which floats add up differently


@dataclass(frozen=True, eq=False)
class Evaluated:
    """An evaluation as it lies in a folder.

    Attributes:
      folder: where.
      results: what `results.json` holds.
      records: its samples by id.
    """

    folder: Path
    results: dict[str, Any]
    records: dict[str, Record]

    @property
    def benchmark(self) -> str:
        return self.results["benchmark"]

    @property
    def model(self) -> str:
        """Its name, for people."""
        return str(self.results["model"].get("name", self.folder.name))


def by_stratum(records: Iterable[Record], layout: Layout) -> dict[str, Float[np.ndarray, " n"]]:
    """The scores of each task (environment), in 0..1, nan where the official scorer leaves an item out."""
    scores: dict[str, list[float]] = {}
    for record in records:
        scores.setdefault(layout.stratum(record.task), []).append(record.score / layout.full)
    return {task: np.array(scores[task], dtype=np.float64) for task in sorted(scores)}


def estimates(records: Iterable[Record], layout: Layout) -> dict[str, Estimate]:
    """All figures in percent by name: the tasks', then those made of several."""
    scores = by_stratum(records, layout)
    found = {task: mean(of_task) for task, of_task in scores.items()}
    counted = [task for task, estimate in found.items() if estimate.items]
    for name, weights in layout.aggregates(counted).items():
        found[name] = combined(scores, weights)
    return {name: estimate.scaled(100.0) for name, estimate in found.items()}


def summarise(
    benchmark: str,
    records: Mapping[str, Record],
    official: Mapping[str, float],
    *,
    model: Mapping[str, Any],
    configuration: Mapping[str, Any],
    partial: Iterable[str] = (),
    not_run: Mapping[str, str] | None = None,
    versions: Mapping[str, str] | None = None,
    seconds: float | None = None,
    notes: Iterable[str] = (),
) -> dict[str, Any]:
    """What `results.json` holds.

    Args:
      benchmark: a key of `LAYOUTS`.
      records: all samples there are.
      official: what the benchmark's own code makes of them.
      model: facts on the model; "name" is shown.
      configuration: of the evaluation, complete.
      partial: why this is not the whole benchmark, a sentence each; nothing if it is.
      not_run: parts of the benchmark that could not be run, and why.
      versions: of the packages.
      seconds: that answering took, this time.
      notes: what else a reader should know.
    """
    layout = LAYOUTS[benchmark]
    figures = estimates(records.values(), layout)
    partial, notes = list(partial), list(notes)
    theirs = official.get(OVERALL, official.get(f"{OVERALL} (partial)"))
    if OVERALL in figures and theirs is not None and abs(figures[OVERALL].estimate - theirs) > _TOLERANCE:
        notes.append(
            f"The overall score has no interval: the official code gives {theirs:.6f}, the tasks' means as this "
            f"project combines them {figures[OVERALL].estimate:.6f}."
        )
        del figures[OVERALL]
    if shared := shared_pictures(records.values(), layout):
        notes.append(shared)
    cut = sum(record.reply.get("finish_reason") == "length" for record in records.values())
    if cut:
        notes.append(
            f"{cut} of {len(records)} answers ran into the limit of tokens and were scored as far as they went."
        )
    left_out = sum(math.isnan(record.score) for record in records.values())
    if left_out:
        notes.append(
            f"{left_out} of {len(records)} answers are left out of the means, as the official scorer does."
        )
    return {
        "benchmark": benchmark,
        "model": dict(model),
        "complete": not partial and not not_run,
        "partial": partial,
        "not_run": dict(not_run or {}),
        "items": len(records),
        "scores": {name: as_json(estimate) for name, estimate in figures.items()},
        "official": {name: _finite(value) for name, value in official.items()},
        "published": [
            {
                "model": one.model,
                "source": one.source,
                "caveat": one.caveat,
                "scores": dict(one.scores),
                "standard_errors": dict(one.standard_errors),
            }
            for one in published.of(benchmark)
        ],
        "notes": notes,
        "statistics": f"95 % intervals; stratified bootstrap of {DRAWS} draws, seed {SEED}",
        "configuration": dict(configuration),
        "versions": dict(versions or {}),
        "seconds": seconds,
    }


def shared_pictures(records: Iterable[Record], layout: Layout) -> str:
    """A sentence on what it means that items share pictures; "" where none do, or no overall score is made."""
    records = list(records)
    scores = by_stratum(records, layout)
    counted = [task for task, of_task in scores.items() if not np.isnan(of_task).all()]
    weights = layout.aggregates(counted).get(OVERALL)
    if weights is None:
        return ""
    alone = combined(scores, weights, draws=1).standard_error
    return clustered_note(records, layout, scores, weights, alone, "overall score")


def clustered_note(
    records: Sequence[Record],
    layout: Layout,
    scores: Mapping[str, Float[np.ndarray, " n"]],
    weights: Mapping[str, float],
    alone: float,
    figure: str,
) -> str:
    """The standard error of a weighted sum of `scores` with what items are about as the unit, in a sentence.

    Args:
      records: whose scores they are, or the first of the two models' that they are differences of.
      layout: of the benchmark.
      scores, weights: of each task.
      alone: its standard error with each item as the unit.
      figure: what it is, in words.
    """
    groups: dict[str, list[str]] = {}
    for record in records:
        groups.setdefault(layout.stratum(record.task), []).append(record.seen)
    number = len({record.seen for record in records})
    # An episode sees many pictures; that the last ones are alike means nothing.
    alike = number < len(records) and not layout.by_environment
    together = clustered_standard_error(scores, groups, weights) if alike else math.nan
    if math.isnan(together) or math.isnan(alone):
        return ""
    return (
        f"{len(records)} {layout.item_name}s are about {number} videos or pictures. With these as the independent "
        f"unit the {figure} has a standard error of {100 * together:.2f}; the table takes each {layout.item_name} "
        f"as independent, which gives {100 * alone:.2f}."
    )


def as_json(estimate: Estimate) -> dict[str, Any]:
    """An estimate under the names of its fields; null is what is not known."""
    return {name: _finite(value) for name, value in estimate._asdict().items()}


def from_json(value: Mapping[str, Any]) -> Estimate:
    """What `as_json` wrote."""
    unknown = {"estimate": math.nan, "standard_error": math.nan, "low": -math.inf, "high": math.inf, "items": 0}
    return Estimate(**{name: other if value[name] is None else value[name] for name, other in unknown.items()})


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Writes a JSON object, whole or not at all.

    Raises:
      RunFileError: it can not be written.
    """
    text = json.dumps(value, indent=2, allow_nan=False, ensure_ascii=True)
    write_atomically(path, text.encode() + b"\n")


def load(folder: str | Path) -> Evaluated:
    """An evaluation from its folder, or from the path of its `results.json`.

    Raises:
      RunFileError: something is missing or damaged.
    """
    folder = Path(folder)
    folder = folder.parent if folder.name == RESULTS_FILE else folder
    path = folder / RESULTS_FILE
    results = read_json(path)
    if not results:
        raise RunFileError("read", path, "there are no results; experiments.evaluate writes them")
    if results.get("benchmark") not in LAYOUTS or not isinstance(results.get("model"), dict):
        raise RunFileError("read", path, "not the results of an evaluation")
    return Evaluated(folder, results, read_samples(folder))


def _finite(value: float | int | None) -> float | int | None:
    return value if value is not None and math.isfinite(value) else None
