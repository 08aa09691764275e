"""What a run shows while it goes on: a live display in a terminal, plain lines in a log.

    with Display(total_iterations=60) as display:
        display.stage("warm start", total=160)
        for ...: display.advance({"imitation/loss": loss}, steps=10)
        display.stage("training", total=60)
        for ...: display.advance(metrics)
    show_results(display.console, summary, report_path)

* Driven by calls alone: it never looks at the run, and a number that is missing or not finite is a dash.
* Where stdout is no terminal (a CI log, a notebook, a pipe) it prints one line every few iterations.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from vldac.report import success
from vldac.report.numbers import duration, number, number_with_interval, percent, rate_with_interval

# key of the metrics: (name on the display, how it is written)
_SHOWN: dict[str, tuple[str, Callable[[float | None], str]]] = {
    "rollout/success_rate": ("success", percent),
    "rollout/episode_return": ("reward", number),
    "rollout/parse_failure_rate": ("invalid answers", percent),
    "train/kl_reference": ("KL", number),
    "rollout/tokens_per_second": ("tokens/s", number),
    "rollout/env_steps_per_second": ("env steps/s", number),
}
_BEFORE_RL = {"imitation/loss": ("loss", number), "imitation/entropy": ("entropy", number)}
_STYLES = {"before": "yellow", "after": "bold cyan", "expert": "green", "random": "dim"}


class Display:
    """Shows how far a run is. A context manager; without it nothing is drawn, only plain lines are printed.

    Args:
      total_iterations: of the whole run; a stage "training" without a total counts to it.
      console: where to; None is stdout.
      every: without a terminal, one line after so many `advance` calls (and one at the end of a stage).
      clock: seconds, for tests.
    """

    def __init__(
        self,
        total_iterations: int,
        console: Console | None = None,
        every: int = 5,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.console = console or Console()
        self._iterations = total_iterations
        self._every = max(1, every)
        self._clock = clock
        self._start = clock()
        self._live: Live | None = None
        self._stage, self._total = "", None
        self._begin()
        self._metrics: dict[str, float] = {}

    def __enter__(self) -> Display:
        if self.console.is_terminal and not self.console.is_dumb_terminal and not self.console.is_jupyter:
            self._live = Live(
                get_renderable=self._render, console=self.console, refresh_per_second=4, transient=False
            )
            self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._end()
        if self._live is not None:
            self._live.stop()
            self._live = None

    def stage(self, name: str, total: int | None = None, completed: int = 0) -> None:
        """Begins a stage and ends the one before.

        Args:
          name: "warm start", "training", "evaluation".
          total: steps of the stage; None if it has none to count.
          completed: steps that were done before, by the run that is resumed.
        """
        self._end()
        self._stage, self._total = name, self._iterations if name == "training" and total is None else total
        self._begin(completed)
        if self._live is None:
            of = "" if self._total is None else f", {self._total} steps"
            before = f", {completed} of them done before" if completed else ""
            self._print(f"{name}{of}{before}")

    def advance(self, metrics: Mapping[str, Any] | None = None, steps: int = 1) -> None:
        """Counts steps of the stage and takes over the numbers.

        Args:
          metrics: what `MetricsWriter.write` gets, or anything of it. What is missing or not a finite number
            leaves what was shown before.
          steps: how many steps of the stage were done.
        """
        self._done += steps
        self._times.append((self._clock(), self._done))
        for key, value in (metrics or {}).items():
            if (value := _number(value)) is not None:
                self._metrics[key] = value
        self._calls += 1
        if self._live is None and self._calls % self._every == 0:
            self._print(self._line())
            self._printed = self._calls

    def note(self, text: str) -> None:
        """Prints a line that stays, above the display."""
        self._print(text)

    def seconds_left(self) -> float | None:
        """Of the stage, at the pace so far, without its first call, which compiles; None if nothing is known."""
        if self._total is None or not self._times or self._done >= self._total:
            return None if self._total is None or self._done < self._total else 0.0
        since, first = self._times[0] if len(self._times) > 1 else (self._began, self._done_before)
        pace = (self._times[-1][0] - since) / max(1, self._done - first)
        return max(0.0, pace * (self._total - self._done) - (self._clock() - self._times[-1][0]))

    # --- inside ---

    def _begin(self, completed: int = 0) -> None:
        self._done = self._done_before = completed
        self._began = self._clock()
        self._times: list[tuple[float, int]] = []
        self._calls = self._printed = 0

    def _end(self) -> None:
        """Says how a stage ended, where no live display shows it."""
        took = duration(self._clock() - self._began)
        if not self._stage:
            return
        if self._live is not None:
            self._print(f"{self._stage} took {took}")
        elif self._calls != self._printed:
            self._print(self._line())
        elif not self._calls:
            self._print(f"{self._stage} took {took}")
        self._stage = ""

    def _print(self, text: str) -> None:
        # Text: a model's answer or a path may hold what rich would take for markup.
        self.console.print(Text(text), soft_wrap=True, highlight=False)

    def _count(self) -> str:
        return f"{self._done}" if self._total is None else f"{self._done}/{self._total}"

    def _shown(self) -> list[tuple[str, str]]:
        shown = _SHOWN if self._metrics.keys() & _SHOWN.keys() else _BEFORE_RL
        return [(name, form(self._metrics.get(key))) for key, (name, form) in shown.items()]

    def _line(self) -> str:
        known = [f"{name} {value}" for name, value in self._shown() if value != "–"]
        times = [f"elapsed {duration(self._clock() - self._start)}"]
        if left := self.seconds_left():
            times.append(f"left {duration(left)}")
        return "  ".join([f"{self._stage} {self._count()}", *known, *times])

    def _render(self) -> RenderableType:
        going = bool(self._stage)
        total = self._total if going else 1
        head = Table.grid(padding=(0, 2))
        head.add_column(no_wrap=True, min_width=12)
        head.add_column(no_wrap=True, justify="right")
        head.add_column(no_wrap=True)
        head.add_row(
            Text(self._stage or "done", style="bold"),
            Text(self._count() if going else ""),
            ProgressBar(total, min(self._done, total or 0) if going else total, width=32, pulse=total is None),
        )
        times = f"elapsed {duration(self._clock() - self._start)}"
        if going:
            times += f"   left in this stage {duration(self.seconds_left())}"
        numbers = Table.grid(padding=(0, 3), expand=False)
        for _ in self._shown():
            numbers.add_column(justify="right")
        numbers.add_row(*(Text(name, style="dim") for name, _ in self._shown()))
        numbers.add_row(*(Text(value, style="bold") for _, value in self._shown()))
        return Panel(
            Group(head, Text(times, style="dim"), Text(), numbers), title="vldac", title_align="left", expand=False
        )


def success_table(summary: Mapping[str, Any]) -> Table:
    """Success and steps to the goal of every policy on every world, each with its 95 % interval.

    Args:
      summary: what `vldac.metrics.write_summary` gets; what is missing is a dash.

    Raises:
      ValueError: an interval is malformed.
    """
    table = Table(title="95 % intervals in brackets", title_justify="left", title_style="dim")
    table.add_column("policy", no_wrap=True)
    table.add_column("success", no_wrap=True)
    table.add_column("steps to goal", no_wrap=True)
    worlds = success.results(summary)
    for result in worlds:
        mark = "trained on" if result.trained else "unseen"
        table.add_row(Text(result.world, style="bold"), Text(mark, style="dim"))
        for row in result.rows:
            table.add_row(
                Text(f"  {row.label}"),
                rate_with_interval(row.success),
                number_with_interval(row.steps),
                style=_STYLES.get(row.policy, ""),
            )
        table.add_section()
    if not worlds:
        table.add_row("nothing was evaluated", "–", "–")
    return table


def show_results(console: Console, summary: Mapping[str, Any], report: str | Path) -> None:
    """Prints the outcome in words, the success table, and where the report is."""
    worlds = success.results(summary)
    console.print()
    for result in worlds[:1]:
        console.print(Text(f"{success.headline(result)}.", style="bold"), highlight=False)
        if steps := success.steps_sentence(result):
            console.print(Text(steps), highlight=False)
        console.print()
    console.print(success_table(summary), highlight=False)
    console.print(Text(f"Report: {report}"), soft_wrap=True, highlight=False)


def _number(value: Any) -> float | None:
    """A finite float, or None for whatever is none."""
    try:
        value = float(value)
    except (TypeError, ValueError):
        return None
    return value if math.isfinite(value) else None
