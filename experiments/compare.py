"""Holds two evaluations of the same items against each other: `python -m experiments.compare RESULTS_A RESULTS_B`.

    comparison.json    the paired differences with intervals, McNemar's tests, and every item that changed
    comparison.html    the same as a page, and every item with both answers

They are written into RESULTS_B's folder, or where `--to` says. Exit codes: 0 done; 2 the two can not be compared
(nothing was written); 1 anything else.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from experiments import flags
from experiments.evaluate_display import show_comparison
from experiments.program import run_as_program
from vldac.evaluate import results
from vldac.evaluate.comparison import compare
from vldac.evaluate.page import write_comparison_page
from vldac.metrics import RunFileError

PROGRAM = "python -m experiments.compare"
JSON_FILE = "comparison.json"
PAGE_FILE = "comparison.html"


@dataclass(frozen=True)
class Compare:
    """Say how B's answers to the same items differ from A's, and how sure that is."""

    a: Annotated[Path, tyro.conf.Positional]
    """Folder of an evaluation, such as that of the base model."""
    b: Annotated[Path, tyro.conf.Positional]
    """Folder of another one on the same items, such as that of the trained model."""
    to: Path | None = None
    """Folder to write to; None = B's."""

    @property
    def target(self) -> Path:
        return self.to or (self.b if self.b.is_dir() else self.b.parent)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns its exit code."""
    command = flags.read(Compare, PROGRAM, sys.argv[1:] if arguments is None else arguments)
    try:
        a, b = results.load(command.a), results.load(command.b)
        found = compare(a, b)
    except (ValueError, RunFileError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    try:
        results.write_json(command.target / JSON_FILE, found)
        path = write_comparison_page(command.target / PAGE_FILE, found, a, b)
    except RunFileError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    show_comparison(Console(), found, path)
    return 0


if __name__ == "__main__":
    run_as_program(main)
