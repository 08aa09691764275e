"""Measurements as rows of a table, and as JSON that holds all of them."""

from __future__ import annotations

import dataclasses
import json
import os
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from experiments.bench.ceilings import Ceilings
from experiments.bench.kernels import Kernel
from experiments.bench.measure import Timing
from experiments.bench.work import Number, Stage, limit, total
from vldac.metrics import write_atomically

OURS = "vldac"
_NAME = 70  # characters of a kernel's name that are shown
_NOTHING = "–"
# What is counted while something is timed, and what its rate is called in the table.
COUNTS = {
    "useful_tokens": "useful tok/s",
    "loop_tokens": "loop tok/s",
    "env_steps": "env steps/s",
    "frames": "frames/s",
}
RATES = {"update": "env_steps_per_second", "worlds": "frames_per_second"}  # that are compared, of pieces


@dataclass(frozen=True)
class Row:
    """One thing that was timed.

    Attributes:
      piece, what: "decode", "answer".
      size: what it was timed on, by name: lanes, tokens.
      timing: of each repetition.
      counts: of `COUNTS`, in one repetition: `useful_tokens` end with their answer, `loop_tokens` are all that the
        lanes' loop went through, those behind an answer's end included.
      stages: the work that it needs; none = nothing to compare with.
      dtype: whose rate of products limits it.
      compile_seconds, device_bytes: see `measure.Program`.
      runner: who did it.
      kernels: that took longest in one call, if they were looked at.
    """

    piece: str
    what: str
    size: Mapping[str, int]
    timing: Timing
    counts: Mapping[str, Number]
    stages: Sequence[Stage] = ()
    dtype: str = "float32"
    compile_seconds: float | None = None
    device_bytes: int | None = None
    runner: str = OURS
    notes: Sequence[str] = field(default_factory=tuple)
    kernels: Sequence[Kernel] = ()

    def record(self, ceilings: Ceilings) -> dict[str, Any]:
        """Everything about it, JSON-ready; None where nothing is known."""
        seconds, joules = self.timing.seconds, self.timing.joules
        median = statistics.median(seconds)
        flops, size = total(self.stages)
        least = limit(self.stages, ceilings, self.dtype)
        known = bool(self.stages)
        parts: dict[str, dict[str, float]] = {}
        for stage in self.stages:
            part = parts.setdefault(stage.name, {"flops": 0.0, "bytes": 0.0, "limit_seconds": 0.0})
            part["flops"] += stage.flops * stage.times
            part["bytes"] += stage.bytes * stage.times
            part["limit_seconds"] += stage.seconds(ceilings, self.dtype)
        return {
            "piece": self.piece,
            "what": self.what,
            "runner": self.runner,
            "size": dict(self.size),
            "compile_seconds": self.compile_seconds,
            "seconds": {"median": median, "min": min(seconds), "all": list(seconds)},
            "joules": joules,
            "watts": None if joules is None else joules / statistics.mean(seconds),
            **{
                f"{name}_per_second": self.counts[name] / median if name in self.counts else None
                for name in COUNTS
            },
            "counts": dict(self.counts),
            "dtype": self.dtype,
            "needed_flops": flops if known else None,
            "needed_bytes": size if known else None,
            "flops_per_second": flops / median if known else None,
            "bytes_per_second": size / median if known else None,
            "limit_seconds": least if known else None,
            "of_limit": least / median if known else None,
            "stages": parts,
            "program_bytes": self.device_bytes,
            "notes": list(self.notes),
            "kernels": [dataclasses.asdict(kernel) for kernel in self.kernels],
        }


def compare(records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rates of ours over those of each peer that did the same thing, see `Row`."""
    ratios = []
    for theirs in records:
        for ours in records:
            same = all(ours[name] == theirs[name] for name in ("piece", "what"))
            if ours["runner"] != OURS or theirs["runner"] == OURS or not same:
                continue
            rate = RATES.get(theirs["piece"], "useful_tokens_per_second")
            ratios.append(
                {
                    "piece": ours["piece"],
                    "what": ours["what"],
                    "size": ours["size"],
                    "peer": theirs["runner"],
                    "rate": rate,
                    "ratio": ours[rate] / theirs[rate],
                }
            )
    return ratios


def console_of() -> Console:
    """Standard output; wide enough for the table where it is no terminal and COLUMNS says nothing."""
    if sys.stdout.isatty():
        return Console()
    width = os.environ.get("COLUMNS", "")
    return Console(width=int(width) if width.isdecimal() and int(width) else 180)


def show(result: Mapping[str, Any], console: Console) -> None:
    """Prints what `write` writes, the figures that people look at first."""
    facts = result["hardware"]
    ceilings = result["ceilings"]
    watts = {name: f" at {value:,.0f} W" for name, value in ceilings["watts"].items()}
    rates = ", ".join(
        f"{name} {rate / 1e12:,.3g} TFLOP/s{watts.get(name, '')}" for name, rate in ceilings["matmul"].items()
    )
    lines = [
        result["command"],
        f"{facts['device']}; {result['model']}",
        f"this device, measured now: {rates}, copy {ceilings['bandwidth'] / 1e9:,.4g} GB/s{watts.get('copy', '')}",
    ]
    for line in lines:
        console.print(Text(line), soft_wrap=True)
    table = _table(result["rows"])
    # A terminal that is too narrow breaks lines; figures that lose their ends say nothing.
    console.width = max(
        console.width, console.measure(table, options=console.options.update(max_width=1000)).minimum
    )
    console.print(table)
    for row in result["rows"]:
        if row.get("kernels"):
            console.print(_kernels(row))
    for row in result["rows"]:
        for note in row["notes"]:
            console.print(Text(f"{row['piece']}: {row['what']} ({row['runner']}): {note}"), soft_wrap=True)
    for ratio in result["ratios"]:
        many = f", {ratio['size']['worlds']:,} worlds" if ratio["piece"] == "worlds" else ""
        line = f"{ratio['piece']}: {ratio['what']}{many}: {ratio['ratio']:.2f} x {ratio['peer']}"
        console.print(Text(line, style="bold"), soft_wrap=True)
    if peak := result["peak_bytes_in_use"]:
        console.print(Text(f"device memory at the worst moment: {peak / 2**30:.1f} GiB"), soft_wrap=True)


def _table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """The figures; of what no row has there is no column, for terminals are narrow."""
    columns: list[tuple[str, list[str]]] = [
        ("ms", [_number(row["seconds"]["median"], 1e3) for row in rows]),
        ("min", [_number(row["seconds"]["min"], 1e3) for row in rows]),
        ("compile s", [_number(row["compile_seconds"]) for row in rows]),
        *((heading, [_number(row[f"{count}_per_second"]) for row in rows]) for count, heading in COUNTS.items()),
        ("TFLOP/s", [_number(row["flops_per_second"], 1e-12) for row in rows]),
        ("GB/s", [_number(row["bytes_per_second"], 1e-9) for row in rows]),
        ("J", [_number(row["joules"]) for row in rows]),
        ("W", [_number(row["watts"]) for row in rows]),
        ("limit ms", [_number(row["limit_seconds"], 1e3) for row in rows]),
        ("of limit", [_number(row["of_limit"]) for row in rows]),
        ("GiB", [_number(row["program_bytes"], 2**-30) for row in rows]),
    ]
    columns = [column for column in columns if set(column[1]) != {_NOTHING}]
    table = Table()
    table.add_column("", min_width=30)
    for heading, figures in columns:
        table.add_column(heading, justify="right", min_width=max(map(len, (heading, *figures))))
    shown = None
    for number, row in enumerate(rows):
        if row["piece"] != shown:
            shown = row["piece"]
            table.add_section()
        size = ", ".join(f"{value:,} {name}" for name, value in row["size"].items())
        name = Text.assemble((f"{row['piece']}: {row['what']}", "bold"), f"\n{row['runner']}; {size}")
        table.add_row(name, *(figures[number] for _, figures in columns))
    return table


def _kernels(row: Mapping[str, Any]) -> Table:
    """What a call's time goes into."""
    table = Table(title=f"{row['piece']}: {row['what']}, one call", title_justify="left")
    for number, heading in enumerate(("kernel", "ms", "of the call", "times", "µs each")):
        table.add_column(heading, justify="right" if number else "left")
    for kernel in row["kernels"]:
        table.add_row(
            Text(kernel["name"][:_NAME]),  # cuDNN says every argument in it
            _number(kernel["seconds"], 1e3),
            _number(kernel["seconds"] / row["seconds"]["median"]),
            f"{kernel['calls']:,}",
            _number(kernel["seconds"] / kernel["calls"], 1e6),
        )
    return table


def write(result: Mapping[str, Any], path: Path) -> None:
    """Writes all figures.

    Raises:
      RunFileError: the file can not be written.
    """
    write_atomically(path, (json.dumps(result, indent=2) + "\n").encode())


def _number(value: Number | None, factor: Number = 1) -> str:
    """Three digits that say something. Worked example: 12345 -> 12,345; 0.01234 -> 0.0123; None -> a dash."""
    if value is None:
        return _NOTHING
    value *= factor
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
