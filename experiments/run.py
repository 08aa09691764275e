"""Trains a vision-language model to act: `python -m experiments.run [PRESET] [--section.field value ...]`.

    python -m experiments.run                                   the nano model, on two CPU cores, in minutes
    python -m experiments.run number_line --seed 3              another preset, another seed
    python -m experiments.run --config runs/NAME/config.json    the same run again
    python -m experiments.run --resume runs/NAME                go on with a run that was stopped

On several hosts each starts the same command with `--distributed` and a `--name`, see `experiments.processes`.

One process, or one group of them, runs in a folder at a time. Exit codes: 0 done, or stopped by Ctrl-C and saved;
2 a configuration that can not be run, or a folder that is in use (nothing was written); 1 anything else.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import fcntl
import itertools
import re
import shlex
import sys
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import jax
from rich.console import Console
from rich.text import Text

from experiments import flags, processes, runtime
from experiments.build import Parts, build
from experiments.config import CONFIG_FILE, ConfigError, RunConfig, read_config
from experiments.display import show_results
from experiments.job import Diverged, Job
from experiments.presets import PRESETS
from experiments.program import run_as_program
from vldac import memory, mesh
from vldac.metrics import RunFileError
from vldac.report import REPORT_FILE

PROGRAM = "python -m experiments.run"
LOCK_FILE = ".lock"  # of a run's folder: empty, and locked by the process that runs there


@dataclass(frozen=True)
class Command:
    """What the command line asked for.

    Attributes:
      config: of the run, complete.
      run_dir: its folder.
      resume: go on with what is there.
      named: the name was asked for; one of our own making may become another.
    """

    config: RunConfig
    run_dir: Path
    resume: bool
    named: bool = True


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns its exit code."""
    runtime.prepare()
    try:
        arguments = processes.join(sys.argv[1:] if arguments is None else arguments, PROGRAM)
        command = parse(arguments)
        parts = build(command.config)
        needed = memory.estimate(parts.setup, parts.model_config, parts.abstract_params(), parts.mesh_sizes)
        memory.check(parts.setup, needed.peak, memory.device_memory(), "estimate")
    except (ConfigError, memory.DoesNotFit) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    try:
        command, held = claim(command)
    except ConfigError as error:  # in the first process alone: the others do not know
        return failed(f"error: {error}", 2)
    with held:
        return run(command, dataclasses.replace(parts, config=command.config), needed)


def run(command: Command, parts: Parts, needed: memory.MemoryEstimate) -> int:
    """Runs in a folder that is claimed, and says what becomes of it; the exit code."""
    console = Console(quiet=jax.process_index() > 0)
    # Text, not markup: a path may hold brackets.
    heading = f"{command.run_dir}  {command.config.world}, seed {command.config.seed}"
    console.print(Text(heading, style="bold"), soft_wrap=True)
    for number, line in enumerate(needed.lines()):
        console.print(Text(f"{'memory: ' if number == 0 else '        '}{line}", style="dim"), soft_wrap=True)
    if parts.mesh is not None:
        console.print(Text(mesh_line(parts), style="dim"), soft_wrap=True)
    if parts.random_published:
        console.print(
            Text(f"{parts.config.model.preset} without --model.path: random weights, for measurements only."),
            style="yellow",
            soft_wrap=True,
        )
    several = jax.process_count() > 1
    if several:
        processes.tell_if_aborted(f"error: {lost(command)}")
    try:
        summary = Job(parts, command.run_dir, console).run(command.resume)
    except Diverged as error:  # all processes see that
        print(f"error: {error}", file=sys.stderr)
        return 1
    except (RunFileError, memory.DoesNotFit) as error:
        return failed(f"error: {error}")
    except jax.errors.JaxRuntimeError as error:
        if not several:
            raise
        return failed(f"error: {lost(command)} ({' '.join(str(error).split())[:300]})")
    except KeyboardInterrupt as error:  # the second one
        raise KeyboardInterrupt(f"to go on: {resuming(command.run_dir)}") from error
    show_results(console, summary, command.run_dir / REPORT_FILE)
    if summary["interrupted"]:
        console.print(Text(f"Stopped and saved. To go on: {resuming(command.run_dir)}"), soft_wrap=True)
    return 0


def mesh_line(parts: Parts) -> str:
    """For people: the mesh, and what it leaves whole on every device for want of a common divisor."""
    sizes = parts.mesh_sizes
    line = f"mesh: {' x '.join(f'{name} {size}' for name, size in sizes.items())}"
    if jax.process_count() > 1:
        line += f", {jax.process_count()} processes"
    whole = mesh.kept_whole(parts.abstract_params(), sizes)
    return f"{line}; does not divide, so whole on every device: {', '.join(whole)}" if whole else line


def failed(line: str, code: int = 1) -> int:
    """Says why this process ends while others may go on; its exit code."""
    print(line, file=sys.stderr)
    if jax.process_count() > 1:  # at an ordinary exit it would wait for the others, and they wait for it
        processes.leave(code)
    return code


def resuming(run_dir: Path) -> str:
    """The command that goes on, as a shell takes it."""
    return f"{PROGRAM} --resume {shlex.quote(str(run_dir))}"


def lost(command: Command) -> str:
    """What the failure of a device means where there are several processes."""
    return (
        f"process {jax.process_index()} of {jax.process_count()} can not go on; most likely another one has died. "
        f"When all have stopped, go on from the last checkpoint: {resuming(command.run_dir)}, with the "
        f"flags that say which process is which, and --mesh.* for other devices"
    )


def parse(arguments: Sequence[str]) -> Command:
    """Reads the command line.

    Raises:
      ConfigError: what it asks for can not be.
      SystemExit: `--help` (code 0), or a flag that is wrong by itself (code 2, told on standard error).
    """
    first = argparse.ArgumentParser(prog=PROGRAM, add_help=False, allow_abbrev=False)
    first.add_argument("--config", type=Path)
    first.add_argument("--resume", type=Path)
    known, rest = first.parse_known_args(arguments)
    preset = rest.pop(0) if rest and not rest[0].startswith("-") else None
    if sum(source is not None for source in (preset, known.config, known.resume)) > 1:
        raise ConfigError("PRESET, --config and --resume each say what to run; accepted: one of them")

    if known.resume is not None:
        base = read_config(known.resume / CONFIG_FILE)
    elif known.config is not None:
        base = read_config(known.config)
    elif preset is not None and preset not in PRESETS:
        raise ConfigError(f"preset is {preset!r}; accepted: {', '.join(PRESETS)}")
    else:
        base = PRESETS[preset or "nano"]()
    config = flags.read(RunConfig, f"{PROGRAM} [PRESET]", rest, help_text(), base)

    if known.resume is not None:
        # A run may go on with other devices than it began with.
        if changed := difference(dataclasses.replace(base, mesh=config.mesh), config):
            raise ConfigError(f"{changed}; accepted: what the run began with (leave the flag out)")
        return Command(config, known.resume, resume=True)
    if jax.process_count() > 1 and not config.name:
        raise ConfigError("name is empty; accepted: one that all processes of the run are given (--name)")
    name = config.name or f"{_plain(config.world)}-{time.strftime('%Y%m%d-%H%M%S')}-seed{config.seed}"
    run_dir, named = Path(config.folder) / name, bool(config.name)
    return Command(dataclasses.replace(config, name=name), run_dir, resume=False, named=named)


def _plain(world: str) -> str:
    """A world's name, options included, as part of a folder's: "a/b:split=test" -> a-b-split-test."""
    return re.sub(r"[^\w.]+", "-", world).strip("-")


def claim(command: Command) -> tuple[Command, AbstractContextManager]:
    """Makes the run's folder and keeps other processes out of it; an existing run is never touched.

    Returns:
      The command, with another name where its own was made up here and is taken; and what holds the folder, until
      it is left or the process ends, however that comes about.

    Raises:
      ConfigError: there is a run already, another process runs there, or the folder can not be written.
    """
    if jax.process_index():  # the first process does it for all
        return command, contextlib.nullcontext()
    if command.resume:
        return command, lock(command.run_dir)
    try:
        command = make_folder(command)
        demand_empty(command.run_dir)
        with contextlib.ExitStack() as held:
            held.enter_context(lock(command.run_dir))
            demand_empty(command.run_dir)  # another process may have come and gone before the lock
            return command, held.pop_all()
    except OSError as error:
        raise ConfigError(f"folder {command.run_dir} can not be made: {error.strerror}") from error


def make_folder(command: Command) -> Command:
    """Makes the run's folder; under a name of our own making none that is there already, but -2, -3 and so on."""
    if command.named:
        command.run_dir.mkdir(parents=True, exist_ok=True)
        return command
    for number in itertools.count(1):
        name = command.config.name + (f"-{number}" if number > 1 else "")
        with contextlib.suppress(FileExistsError):  # of a run that began in the same second
            run_dir = command.run_dir.with_name(name)
            run_dir.mkdir(parents=number == 1)
            config = dataclasses.replace(command.config, name=name)
            return dataclasses.replace(command, config=config, run_dir=run_dir)


def demand_empty(run_dir: Path) -> None:
    """Raises ConfigError if the folder holds anything but the file that is locked."""
    if any(path.name != LOCK_FILE for path in run_dir.iterdir()):
        raise ConfigError(
            f"{run_dir} is not empty; accepted: another --name, or --resume {shlex.quote(str(run_dir))}"
        )


def lock(run_dir: Path) -> IO[bytes]:
    """Opens the folder's lock file and locks it until it is closed. Where there are no locks, it warns.

    Raises:
      ConfigError: it is locked, or can not be opened.
    """
    try:
        file = open(run_dir / LOCK_FILE, "ab")  # noqa: SIM115  (closed by whoever claims)
    except OSError as error:
        raise ConfigError(f"folder {run_dir} can not be written: {error.strerror}") from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.close()
        raise ConfigError(
            f"{run_dir} is in use by another process; accepted: another folder, or this one when that has ended"
        ) from error
    except OSError as error:  # some network file systems have none
        print(
            f"warning: {run_dir} can not be locked ({error.strerror}), so see that nothing else runs there",
            file=sys.stderr,
        )
    return file


def difference(old: RunConfig, new: RunConfig) -> str | None:
    """The first field in which two configurations differ, in words; None if there is none."""

    def flat(value, path=""):
        if not dataclasses.is_dataclass(value):
            return {path[:-1]: value}
        return {
            name: leaf
            for field in dataclasses.fields(value)
            for name, leaf in flat(getattr(value, field.name), f"{path}{field.name}.").items()
        }

    before, after = flat(old), flat(new)
    for name, value in before.items():
        if after[name] != value:
            return f"{name} is {after[name]!r}, and {value!r} in the run"
    return None


def help_text() -> str:
    """What stands above the flags in `--help`."""
    return flags.description(
        "Train a vision-language model to act, with VL-DAC.",
        "",
        "PRESET (default nano) is one of:",
        *(f"  {name}: {preset.__doc__.strip().splitlines()[0]}" for name, preset in PRESETS.items()),
        "",
        "In place of PRESET:",
        "  --config FILE starts from the config.json of another run.",
        "  --resume FOLDER goes on with a run that was stopped.",
        "",
        "On several hosts:",
        *(f"  {line}" for line in processes.HELP),
    )


if __name__ == "__main__":
    run_as_program(main)
