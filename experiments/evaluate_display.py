"""What `experiments.evaluate` and `experiments.compare` show in a terminal: progress, and tables of figures."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Table
from rich.text import Text

from vldac.evaluate import words
from vldac.evaluate.aggregates import LAYOUTS, OVERALL, Layout
from vldac.evaluate.results import from_json
from vldac.evaluate.samples import Record
from vldac.report.numbers import duration

_SECONDS = 10.0  # between two lines where there is no terminal


class Progress:
    """Counts answers: a bar in a terminal, a line every few seconds elsewhere. A context manager.

    Args:
      console: where to.
      total: answers there will be.
      layout: of the benchmark.
    """

    def __init__(self, console: Console, total: int, layout: Layout):
        self._console, self._total, self._layout = console, total, layout
        self._done = self._counted = 0
        self._sum = 0.0
        self._began = self._said = time.monotonic()
        self._bar: Bar | None = None
        if console.is_terminal and not console.is_jupyter:
            self._bar = Bar(
                TextColumn(f"{layout.item_name}s"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[score]}"),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                console=console,
            )
            self._task = self._bar.add_task("", total=total, score="")

    def add(self, record: Record) -> None:
        """Counts one answer. May be called by any thread."""
        self._done += 1
        if not math.isnan(record.score):
            self._counted += 1
            self._sum += record.score / self._layout.full
        score = f"mean {100 * self._sum / self._counted:.1f} %" if self._counted else ""
        if self._bar is not None:
            self._bar.update(self._task, completed=self._done, score=score)
        elif time.monotonic() - self._said >= _SECONDS or self._done == self._total:
            self._said = time.monotonic()
            self._line(score)

    def __enter__(self) -> Progress:
        if self._bar is not None:
            self._bar.start()
        else:
            self._line("asking")
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def _line(self, score: str) -> None:
        elapsed = time.monotonic() - self._began
        text = f"{self._layout.item_name}s {self._done}/{self._total}  {score}  elapsed {duration(elapsed)}"
        self._console.print(Text(text), soft_wrap=True, highlight=False)


def show_results(console: Console, results: Mapping[str, Any], path: str | Path) -> None:
    """Prints the figures, what others have published, what to know, and where the page is."""
    layout = LAYOUTS[results["benchmark"]]
    console.print()
    console.print(Text(f"{words.headline(results)}.", style="bold"), highlight=False)
    table = Table(title="95 % intervals in brackets", title_justify="left", title_style="dim")
    for name, justify in ((layout.task_name, "left"), ("score", "right"), ("SE", "right"), ("n", "right")):
        table.add_column(name, justify=justify, no_wrap=True)
    for name, figure in results["scores"].items():
        row = (name, words.with_interval(figure), words.error(figure), str(figure["items"]))
        table.add_row(*map(Text, row), style="bold" if name == OVERALL else "")
    console.print(table, highlight=False)
    if results["published"]:
        _show_published(console, results)
    for sentence in words.warnings(results):
        console.print(Text(f"! {sentence}", style="yellow"), soft_wrap=True, highlight=False)
    console.print(Text(f"Report: {path}"), soft_wrap=True, highlight=False)


def show_comparison(console: Console, comparison: Mapping[str, Any], path: str | Path) -> None:
    """Prints how B differs from A on the same items, and where the page is."""
    console.print()
    for side in "ab":
        one = comparison[side]
        console.print(Text(f"{side.upper()}: {one['model']}  ({one['folder']})"), soft_wrap=True, highlight=False)
    console.print(Text(f"{words.comparison_headline(comparison)}.", style="bold"), highlight=False)
    title = "B − A in points, 95 % intervals of the paired difference in brackets"
    table = Table(title=title, title_justify="left", title_style="dim")
    for name in ("task", "A", "B", "B − A", "better", "worse", "n", "McNemar p", "Holm"):
        table.add_column(name, justify="left" if name == "task" else "right", no_wrap=True)
    for name, figures in comparison["scores"].items():
        values = ["–" if figures[side] is None else f"{figures[side]:.1f}" for side in "ab"]
        changes = [str(figures.get(key, "")) for key in ("better", "worse", "items")]
        p = [words.p_value(figures.get(key)) for key in ("p", "p_holm")]
        row = (name, *values, words.points(from_json(figures["difference"])), *changes, *p)
        table.add_row(*map(Text, row), style="bold" if name == OVERALL else "")
    console.print(table, highlight=False)
    for sentence in comparison["notes"]:
        console.print(Text(f"! {sentence}", style="yellow"), soft_wrap=True, highlight=False)
    console.print(Text(f"Report: {path}"), soft_wrap=True, highlight=False)


def _show_published(console: Console, results: Mapping[str, Any]) -> None:
    table = Table(title="Published by others: read each with its note", title_justify="left", title_style="dim")
    table.add_column("model")
    table.add_column("score")
    table.add_column("source", style="dim")
    table.add_column("note", justify="right")
    caveats = list(dict.fromkeys(one["caveat"] for one in results["published"]))
    for one in results["published"]:
        figures = []
        for name, value in one["scores"].items():
            spread = one["standard_errors"].get(name)
            figures.append(f"{name} {value:.2f}" + ("" if spread is None else f" ± {spread:.2f}"))
        note = f"[{caveats.index(one['caveat']) + 1}]"
        table.add_row(*map(Text, (one["model"], ", ".join(figures), one["source"], note)))
    console.print(table, highlight=False)
    for number, caveat in enumerate(caveats, start=1):
        console.print(Text(f"[{number}] {caveat}", style="dim"), soft_wrap=True, highlight=False)
