"""Measures a model on a benchmark: `python -m experiments.evaluate --model MODEL --benchmark NAME`.

    --model runs/NAME | FOLDER | Qwen/Qwen2-VL-7B-Instruct | nano
    --benchmark spatial | pages            rendered from this project's own worlds, nothing to download
    --benchmark vsi_bench --data FOLDER    the published files
    --benchmark visualwebbench --data FOLDER
    --benchmark balrog                     the games that are installed

It writes `results/MODEL-NAME/`:

    report.html        the figures, and every sample to look at
    results.json       the figures with standard errors and intervals, and what they were measured with
    samples.jsonl      one answer a line, saved as it comes; pictures/ are those that the model saw
    config.json        what was asked for

The same command again goes on where it was stopped; with other settings it is refused. `experiments.compare` holds
two such folders against each other. Exit codes: 0 done, or stopped by Ctrl-C and saved; 2 it can not be run as
asked (nothing was written); 1 anything else.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.text import Text

from experiments import benchmarks, flags, playing, runtime
from experiments.benchmarks import Options
from experiments.evaluate_display import Progress, show_results
from experiments.program import run_as_program
from vldac.evaluate import results
from vldac.evaluate.asking import ask
from vldac.evaluate.benchmark import BenchmarkError
from vldac.evaluate.comparison import flat
from vldac.evaluate.page import PAGE_FILE, write_results_page
from vldac.evaluate.results import CONFIG_FILE, RESULTS_FILE
from vldac.evaluate.samples import SAMPLES_FILE, Record, SampleLog
from vldac.generate.request import Answerer
from vldac.metrics import RunFileError, read_json
from vldac.report import write_report
from vldac.report.benchmarks import save_benchmark

PROGRAM = "python -m experiments.evaluate"
AT_ONCE = 3  # questions asked at a time, in units of lanes: one is being answered, two wait
RUN = "run"
_FREE = ("lanes", "max_length", "balrog.processes", "folder", "name")  # may change when an evaluation goes on


@dataclass(frozen=True)
class Evaluate(Options):
    """Measure a model on a benchmark, with the official scores and how sure they are."""

    model: str = ""
    """A run's folder, a checkpoint as Hugging Face keeps it or its id on the hub, or nano."""
    lanes: int = 8
    """Answers written at once."""
    max_length: int = 0
    """Tokens of a prompt and its answer at most; 0 = what the benchmark's own settings need."""
    dtype: Literal["float32", "bfloat16"] | None = None
    """What is computed in; None = the run's own, or float32 on a CPU and bfloat16 elsewhere."""
    folder: Path = Path("results")
    """Where results are kept."""
    name: str = ""
    """Folder of the results under `folder`; "" = model and benchmark."""

    @property
    def target(self) -> Path:
        plain = re.sub(r"[^\w.]+", "-", Path(self.model).name).strip("-.")
        return self.folder / (self.name or f"{plain}-{self.benchmark}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns its exit code."""
    command = flags.read(Evaluate, PROGRAM, sys.argv[1:] if arguments is None else arguments)
    runtime.prepare()
    console = Console()
    try:
        evaluation = prepare(command)
    except (ValueError, BenchmarkError, OSError) as error:  # ConfigError and RunFileError are some of these
        print(f"error: {error}", file=sys.stderr)
        return 2
    # Text, not markup: a path may hold brackets.
    console.print(Text(f"{command.target}  {command.model} on {command.benchmark}", style="bold"), soft_wrap=True)
    answerer = evaluation.answerer
    try:
        # An engine's thread that is still on the device as the process ends takes it down with it.
        with answerer if isinstance(answerer, AbstractContextManager) else nullcontext():
            found = run(evaluation, console)
        write_results_page(results.load(command.target))
    except (BenchmarkError, OSError) as error:
        print(f"error: {error}; what was answered is saved, and the same command goes on", file=sys.stderr)
        return 1
    show_results(console, found, command.target / PAGE_FILE)
    if evaluation.model["kind"] == RUN:
        try:
            save_benchmark(command.model, command.target, found)
            write_report(command.model)
        except (RunFileError, ValueError) as error:  # the evaluation is done and saved all the same
            console.print(Text(f"! the run's report does not link to it: {error}", style="yellow"), soft_wrap=True)
    return 0


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What is to be done, all of it checked, nothing written.

    Attributes:
      command: as asked.
      configuration: the same as JSON, complete.
      model: facts on the model; it is the same one as long as they are.
      benchmark: what asks; None for balrog, which plays.
      planned: answers, or episodes, that there will be.
      answerer: the model; None where all is answered already.
      notes: what a reader should know of how the model is asked.
    """

    command: Evaluate
    configuration: dict[str, Any]
    model: dict[str, Any]
    benchmark: benchmarks.Asked | None
    planned: int
    answerer: Answerer | None
    notes: tuple[str, ...] = ()


def prepare(command: Evaluate, load: Callable[..., Answerer] | None = None) -> Evaluation:
    """Checks what was asked for, opens the benchmark and loads the model.

    Args:
      command: as asked.
      load: what loads a model, in place of `experiments.models.load_engine`.

    Raises:
      ValueError, BenchmarkError, OSError: it can not be; one line.
    """
    if not command.model:
        raise ValueError("model is ''; accepted: a run's folder, a checkpoint's folder or id, or nano (--model)")
    for name, least in (("lanes", 1), ("max_length", 0)):
        if getattr(command, name) < least:
            raise ValueError(f"{name} is {getattr(command, name)}; accepted: {least} or more")
    if not 0 <= command.seed < 2**31:
        raise ValueError(f"seed is {command.seed}; accepted: 0 to 2**31 - 1")
    if command.name in (".", "..") or (command.name and Path(command.name).name != command.name):
        raise ValueError(f"name is {command.name!r}; accepted: a folder name without slashes")
    benchmarks.check(command)
    facts = model_facts(command.model)
    configuration = json.loads(json.dumps(dataclasses.asdict(command), default=str))
    done = check_folder(command.target, configuration, facts)
    if command.benchmark == "balrog":
        benchmark, planned = None, playing.planned_episodes(command)
    else:
        benchmark = benchmarks.open_benchmark(command)
        planned = len(benchmark)
    pixels, notes = _pixels(command, benchmark)
    if done >= planned:  # nothing is left to ask
        return Evaluation(command, configuration, facts, benchmark, planned, None, notes)
    if load is None:
        from experiments.models import load_engine as load
    answerer = load(
        command.model,
        lanes=command.lanes,
        max_length=command.max_length or benchmarks.MAX_LENGTH[command.benchmark],
        dtype=command.dtype,
        seed=command.seed,
        **pixels,
    )
    if model_facts(command.model) != facts:
        raise ValueError(f"{command.model} has changed while it was loaded; accepted: the same command again")
    return Evaluation(command, configuration, facts, benchmark, planned, answerer, notes)


def _pixels(
    command: Evaluate, benchmark: benchmarks.Asked | None
) -> tuple[dict[str, int | None], tuple[str, ...]]:
    """`max_pixels` and `min_pixels` for the model, and what of the benchmark's own it has no use for."""
    asked, own = benchmarks.pixels(command, benchmark)
    if not own:
        return asked, ()
    from experiments.models import scales_to_areas

    if scales_to_areas(command.model):
        return asked | own, ()
    unused = " and ".join(f"{name} of {value}" for name, value in own.items())
    return asked, (f"The benchmark's {unused} are not used: the model scales every image to one size.",)


def model_facts(model: str) -> dict[str, Any]:
    """Name, kind and a state of the model that changes with its weights.

    Raises:
      ValueError: there is no such model.
      RunFileError: a run without a checkpoint that can be read.
    """
    from experiments.models import NANO, is_run
    from experiments.restore import newest_checkpoint, tell
    from vldac.models.weights import find_checkpoint

    if model == NANO:
        return {"name": NANO, "kind": "freshly drawn, has learnt nothing"}
    if is_run(model):
        found = newest_checkpoint(Path(model))
        tell(found.notes)
        return {
            "name": Path(model).resolve().name,
            "kind": RUN,
            "path": str(Path(model).resolve()),
            "checkpoint": found.iteration,
            "folder": found.path.name,
            "saved": _when(found.path.stat()),
        }
    folder = find_checkpoint(model).resolve()
    files = [(path.name, path.stat()) for path in sorted(folder.glob("*.safetensors"))]
    weights = {name: f"{stat.st_size} bytes of {_when(stat)}" for name, stat in files}
    return {"name": Path(model).name, "kind": "checkpoint", "path": str(folder), "weights": weights}


def _when(stat: os.stat_result) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(stat.st_mtime))


def check_folder(folder: Path, configuration: dict[str, Any], model: dict[str, Any]) -> int:
    """How many answers there are already, of the same configuration.

    Raises:
      ValueError: the folder holds something else, or another configuration; the difference is named.
      RunFileError: it can not be read.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; accepted: another --name")
    if not folder.is_dir() or not any(folder.iterdir()):
        nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        if not nearest.is_dir() or not os.access(nearest, os.W_OK):
            raise ValueError(f"folder {folder} can not be written")
        return 0
    saved = read_json(folder / CONFIG_FILE)
    if not saved:
        raise ValueError(f"{folder} is not empty and no evaluation; accepted: another --name")
    try:
        old, new = (
            flat({"configuration": c, "model": m})
            for c, m in ((saved["configuration"], saved["model"]), (configuration, model))
        )
    except (KeyError, AttributeError) as error:
        raise ValueError(f"{folder / CONFIG_FILE} is not the configuration of an evaluation") from error
    for key in dict.fromkeys([*old, *new]):
        name = key.removeprefix("configuration.")
        if name not in _FREE and old.get(key) != new.get(key):
            raise ValueError(
                f"{name} is {new.get(key)!r}, and {old.get(key)!r} in {folder}; accepted: what the evaluation "
                f"began with, or another --name"
            )
    samples = folder / SAMPLES_FILE
    return samples.read_bytes().count(b"\n") if samples.exists() else 0


def run(evaluation: Evaluation, console: Console) -> dict[str, Any]:
    """Asks all that is not answered yet; writes and returns `results.json`.

    Raises:
      BenchmarkError: it can not go on.
      OSError: something can not be written.
    """
    from experiments.outcome import versions

    command, folder = evaluation.command, evaluation.command.target
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / CONFIG_FILE).exists():
        results.write_json(
            folder / CONFIG_FILE, {"configuration": evaluation.configuration, "model": evaluation.model}
        )
    began = time.monotonic()
    with SampleLog(folder) as log:
        step = _play if evaluation.benchmark is None else _ask
        with Progress(console, evaluation.planned, results.LAYOUTS[command.benchmark]) as progress:
            official, partial, not_run, notes = step(evaluation, log, progress.add)
        found = results.summarise(
            command.benchmark,
            log.records,
            official,
            model=evaluation.model,
            configuration=evaluation.configuration,
            partial=partial,
            not_run=not_run,
            versions=versions(),
            seconds=time.monotonic() - began,
            notes=[*evaluation.notes, *notes],
        )
        results.write_json(folder / RESULTS_FILE, found)
    return found


_Done = tuple[dict[str, float], list[str], dict[str, str], list[str]]  # official, partial, not run, notes


def _ask(evaluation: Evaluation, log: SampleLog, on_answer: Callable[[Record], None]) -> _Done:
    command, benchmark = evaluation.command, evaluation.benchmark
    partial = []
    if getattr(benchmark, "partial", False):
        partial.append("Only a part of the questions was asked (--tasks, --limit).")
    unread: dict[str, int] = {}
    try:
        if evaluation.answerer is None:
            for record in log.records.values():
                on_answer(record)
        else:
            questions, at_once = benchmark.questions(log.records), AT_ONCE * command.lanes
            unread = ask(questions, benchmark.judge, evaluation.answerer, log, at_once, on_answer)
    except KeyboardInterrupt:
        partial.append(_stopped(evaluation, log))
    partial += [f"{count} questions could not be read: {reason}" for reason, count in unread.items()]
    samples = [record.sample() for record in log.records.values()]
    official = benchmark.summary(samples) if samples else {}
    return official, partial, {}, list(getattr(benchmark, "notes", ()))


def _play(evaluation: Evaluation, log: SampleLog, on_answer: Callable[[Record], None]) -> _Done:
    command = evaluation.command
    partial, failed = [], {}
    if command.tasks:
        partial.append(f"Only {', '.join(command.tasks)} of the environments.")
    if command.balrog.episodes is not None or command.balrog.max_steps is not None:
        partial.append("Not the official number of episodes or steps (--balrog.episodes, --balrog.max-steps).")
    try:
        failed = playing.play(command, evaluation.answerer, log, on_answer)
    except KeyboardInterrupt:
        partial.append(_stopped(evaluation, log))
    except ValueError as error:
        raise BenchmarkError(str(error)) from error
    partial += [f"Episode {name} was lost and is not counted: {reason}" for name, reason in failed.items()]
    official, notes = playing.summary(log.records), playing.deviations(log.records)
    return official, partial, playing.plan(command)[1], notes


def _stopped(evaluation: Evaluation, log: SampleLog) -> str:
    return f"Stopped after {len(log.records)} of {evaluation.planned} answers; the same command goes on."


if __name__ == "__main__":
    run_as_program(main)
