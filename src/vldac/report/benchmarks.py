"""The benchmarks that a run's model was measured on: their figures, and where their pages are.

`benchmarks.json` in the run's folder; the evaluations themselves lie elsewhere, see `vldac.evaluate.results`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from vldac.evaluate.statistics import Interval
from vldac.metrics import read_json, write_atomically
from vldac.report.numbers import score_with_interval

BENCHMARKS_FILE = "benchmarks.json"


@dataclass(frozen=True)
class Row:
    """One evaluation, for the report.

    Attributes:
      benchmark: its name.
      overall: the official overall score as "34.7 % [33.5, 36.0]", "–" if there is none.
      items: questions or episodes.
      checkpoint: iteration of the run, None if it is not known.
      complete: whether it was the whole benchmark.
      page: relative address of the page with every sample.
    """

    benchmark: str
    overall: str
    items: int
    checkpoint: int | None
    complete: bool
    page: str


def save_benchmark(run_dir: str | Path, folder: str | Path, results: Mapping[str, Any]) -> None:
    """Notes an evaluation in the run's folder; one from the same folder before is replaced.

    Args:
      run_dir: of the run.
      folder: of the evaluation, with its page `report.html`.
      results: what its `results.json` holds.

    Raises:
      RunFileError: the run's file can not be read or written.
    """
    path = Path(run_dir) / BENCHMARKS_FILE
    where = Path(os.path.relpath(Path(folder).resolve(), Path(run_dir).resolve())).as_posix()
    overall = results["scores"].get("overall", {})
    entry = {
        "benchmark": results["benchmark"],
        "overall": [overall.get(name) for name in ("estimate", "low", "high")],
        "items": results["items"],
        "checkpoint": results["model"].get("checkpoint"),
        "complete": results["complete"],
    }
    entries = read_json(path) | {where: entry}
    write_atomically(path, json.dumps(entries, indent=2, allow_nan=False).encode() + b"\n")


def load_benchmarks(run_dir: str | Path) -> list[Row]:
    """All that were noted, in the order they were.

    Raises:
      RunFileError: the file can not be read.
      ValueError: it is not what `save_benchmark` writes.
    """
    rows = []
    for where, entry in read_json(Path(run_dir) / BENCHMARKS_FILE).items():
        try:
            rows.append(
                Row(
                    benchmark=str(entry["benchmark"]),
                    overall=score_with_interval(Interval.of(entry["overall"])),
                    items=int(entry["items"]),
                    checkpoint=entry["checkpoint"],
                    complete=entry["complete"] is True,
                    # Relative, and no other scheme can be made of it.
                    page=quote(f"{where}/report.html") if not where.startswith("/") else "",
                )
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{BENCHMARKS_FILE}: {where!r} is no evaluation ({error!r})") from error
    return rows
