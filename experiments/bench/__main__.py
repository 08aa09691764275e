"""Measures speed: `python -m experiments.bench [PIECE ...] [PRESET] [--section.field value ...]`.

    python -m experiments.bench                                       everything, of the nano model
    python -m experiments.bench worlds --world miniworld/one_room     one world, at several numbers of them
    python -m experiments.bench worlds --worlds 'miniworld/*' --numbers 4096 --image 224 224 --original
    python -m experiments.bench decode qwen2_vl_7b --rollout.worlds 256 --prompt-tokens 300 --peer
    python -m experiments.bench iteration qwen2_vl_7b --json figures.json
    python -m experiments.bench rollout --kernels 15                  and where its time goes

Fields are those of `experiments.run`. Every piece of work stands beside its limit, the time that its bytes and
operations take at the rates of a bare copy and a bare product, kept up for seconds in the same run.
Exit codes: 0 done; 2 a configuration that can not be run; 1 anything else.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import platform
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
from rich.console import Console

from experiments import runtime
from experiments.bench import ceilings
from experiments.bench.model import Model
from experiments.bench.options import PIECES, Command, parse, parts_of
from experiments.bench.table import Row, compare, console_of, show, write
from experiments.bench.worlds import make_worlds, measure_original, measure_worlds
from experiments.build import Parts
from experiments.config import ConfigError
from experiments.outcome import versions
from experiments.program import run_as_program
from vldac import memory, mesh
from vldac.metrics import RunFileError

PROGRAM = "python -m experiments.bench"
PEER = "experiments.peers.hf_torch"
PEER_PIECES = ("decode", "update")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns its exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    console = console_of()
    runtime.take_memory()  # as a run does: what fits there fits here
    try:
        command = parse(arguments, PROGRAM)
        if command.options.peer:
            if not set(command.pieces) & set(PEER_PIECES):
                raise ConfigError(f"peer is for {' and '.join(PEER_PIECES)}; accepted: one of them, or all pieces")
            return _with_peer(command, arguments, console)
        result = measure(command, arguments)
    except (ConfigError, memory.DoesNotFit) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return _finish(result, command.options.json, console)


def measure(command: Command, arguments: Sequence[str]) -> dict[str, Any]:
    """Times what was asked for, one piece after another.

    Raises:
      ConfigError: it can not be built; DoesNotFit: nor held in the device's memory.
    """
    options, config = command.options, command.options.run
    parts, worlds = None, make_worlds(command.worlds, options.image) if "worlds" in command.pieces else []
    if command.pieces != ("worlds",):
        parts = parts_of(command)
        if command.learns or "rollout" in command.pieces:
            needed = memory.estimate(parts.setup, parts.model_config, parts.abstract_params(), parts.mesh_sizes)
            if not command.learns:
                needed = dataclasses.replace(needed, update={})
            memory.check(parts.setup, needed.peak, memory.device_memory(), "estimate", command.learns)
    _tell("bare products and copies")
    found = ceilings.measure()
    rows: list[Row] = []
    devices = parts.mesh.size if parts is not None and parts.mesh is not None else 1
    with runtime.precise(config.model.dtype):
        if "worlds" in command.pieces:
            original: list[Row] = []
            if options.original:  # first: what it lacks is told before anything of ours is timed
                original = measure_original(command.worlds, options.image, options.repeats, _tell)
            rows += measure_worlds(worlds, options.numbers, options.repeats, _tell) + original
        if parts is not None:
            with mesh.use(parts.mesh):
                model = Model(parts, options.repeats, _tell, options.kernels)
                for piece in command.pieces:
                    if piece != "worlds":
                        rows += getattr(model, piece)()
    records = [row.record(found.times(devices)) for row in rows]
    return {
        "command": shlex.join(["python", "-m", "experiments.bench", *arguments]),
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "hardware": hardware(),
        "versions": versions(),
        "model": "no model" if parts is None else describe(parts),
        "config": dataclasses.asdict(config),
        "ceilings": dataclasses.asdict(found),
        "devices": devices,
        "rows": records,
        "ratios": compare(records),
        "peak_bytes_in_use": memory.device_peak(),
    }


def describe(parts: Parts) -> str:
    """The model in a line."""
    kind = ", random weights" if parts.checkpoint is None else ""
    return f"{parts.facts()['model']}{kind}, {parts.config.model.dtype}; {parts.config.world}"


def hardware() -> dict[str, Any]:
    """What it runs on."""
    device = jax.devices()[0]
    return {
        "device": f"{jax.device_count()} x {device.device_kind}",
        "platform": device.platform,
        "device_bytes": memory.device_memory(),
        "cpus": runtime.processors(),
        "machine": platform.machine(),
    }


def _with_peer(command: Command, arguments: list[str], console: Console) -> int:
    """Ours, then the peer, each in a process of its own: memory that one holds is not there for the other."""
    jax.config.update("jax_platforms", "cpu")  # this process leaves the accelerator to them
    rest = [word for word in arguments if word not in ("--peer", "--no-peer")]
    options, rest = command.options, _without(rest, "--json")
    with tempfile.TemporaryDirectory() as folder:
        ours, theirs = (Path(folder) / name for name in ("ours.json", "theirs.json"))
        done = subprocess.run(
            [sys.executable, "-m", "experiments.bench", *rest, "--json", str(ours)], stdout=subprocess.DEVNULL
        )
        if done.returncode:
            return done.returncode
        result = json.loads(ours.read_text())
        result["command"] = shlex.join(["python", "-m", "experiments.bench", *arguments])
        device = "cpu" if result["hardware"]["platform"] == "cpu" else "cuda"
        extra = ["--ceilings", str(ours), "--device", device, "--json", str(theirs)]
        asked = _peer_arguments(command, rest)
        done = subprocess.run([sys.executable, "-m", PEER, *asked, *extra], stdout=subprocess.DEVNULL)
        if done.returncode == 0:
            peer = json.loads(theirs.read_text())
            result["rows"] += peer["rows"]
            result["rows"].sort(key=lambda row: list(PIECES).index(row["piece"]))
            result["versions"] |= peer["versions"]
            result["ratios"] = compare(result["rows"])
    return _finish(result, options.json, console) or done.returncode


def _peer_arguments(command: Command, rest: list[str]) -> list[str]:
    """The peer's command line: the same, with the pieces that it has."""
    words = itertools.dropwhile(lambda word: word in PIECES, rest)
    return [*(piece for piece in command.pieces if piece in PEER_PIECES), *words]


def _without(arguments: Sequence[str], flag: str) -> list[str]:
    """Arguments without a flag and its value."""
    kept, skip = [], False
    for word in arguments:
        if skip or word.startswith(f"{flag}="):
            skip = False
        elif word == flag:
            skip = True
        else:
            kept.append(word)
    return kept


def _finish(result: dict[str, Any], path: str, console: Console) -> int:
    show(result, console)
    if path:
        try:
            write(result, Path(path))
        except RunFileError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        print(f"all figures: {path}")
    return 0


def _tell(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    run_as_program(main)
