"""Whether a training fits a TPU slice, without one.

    python -m experiments.fit v6e:2x4 qwen2_vl_7b --mesh.fsdp 8
    python -m experiments.fit v5e:2x2 one_room                     one chip, as `--mesh.*` says nothing of more

`python -m experiments.fit TOPOLOGY [PRESET] [--section.field value ...]` compiles the two programs of an iteration
for the slice, with its own compiler (libtpu, `.[tpu]`), which runs on any x86-64 Linux, and shows how much memory
of each chip they need by that. Nothing is computed, and nothing is written. TOPOLOGY is a kind and a shape as
Cloud TPU has them; fields are those of `experiments.run`.
Exit codes: 0 it fits; 1 it does not; 2 a topology or a configuration that can not be.
"""

from __future__ import annotations

import itertools
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
from jax.experimental import topologies
from jax.sharding import SingleDeviceSharding
from rich.console import Console
from rich.table import Table

from experiments import flags
from experiments.build import Parts, build
from experiments.config import ConfigError, RunConfig
from experiments.presets import PRESETS
from experiments.program import run_as_program
from experiments.runtime import compiled, lower_collect, lower_learn, precise
from vldac import memory, mesh, train

PROGRAM = "python -m experiments.fit"
# Without a chip libtpu looks for one on the network, and says at length that there is none.
_ALONE = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v6e-8",
    "TPU_STDERR_LOG_LEVEL": "3",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}


@dataclass(frozen=True)
class Need:
    """What a program needs of each chip, bytes.

    Attributes:
      arguments, temporaries: what it is given, and what it makes on the way.
      outputs: what it gives, but for what lies where an argument lay.
    """

    arguments: int
    temporaries: int
    outputs: int

    @classmethod
    def of(cls, program: jax.stages.Compiled) -> Need:
        """As the compiler has it."""
        found = program.memory_analysis()
        outputs = found.output_size_in_bytes - found.alias_size_in_bytes
        return cls(found.argument_size_in_bytes, found.temp_size_in_bytes, outputs)

    @property
    def total(self) -> int:
        return self.arguments + self.temporaries + self.outputs


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns its exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        topology, config = parse(arguments)
        devices = chips(topology)
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", len(devices))  # what a mesh's sizes are held against
        parts = build(config)
        began = time.perf_counter()
        needs = measure(parts, devices)
    except (ConfigError, memory.DoesNotFit) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1 if isinstance(error, memory.DoesNotFit) else 2
    used = devices[: 1 if parts.mesh is None else None]
    show(needs, f"{len(used)} x {devices[0].device_kind}", time.perf_counter() - began)
    return 0


def parse(arguments: Sequence[str]) -> tuple[str, RunConfig]:
    """Reads `TOPOLOGY [PRESET] [flags]`.

    Raises:
      ConfigError: a word is missing, or none that is known.
      SystemExit: `--help` (code 0), or a flag that is wrong by itself (code 2, told on standard error).
    """
    words = list(itertools.takewhile(lambda word: not word.startswith("-"), arguments))
    if len(words) > 2:
        raise ConfigError(f"{words[2]!r} is one word too many; accepted: a topology, then one preset")
    topology, preset = (*words, *("", "nano")[len(words) :])
    if preset not in PRESETS:
        raise ConfigError(f"preset is {preset!r}; accepted: {', '.join(PRESETS)}")
    rest, name = arguments[len(words) :], f"{PROGRAM} TOPOLOGY [PRESET]"
    config = flags.read(RunConfig, name, rest, _help(), PRESETS[preset]())
    if not topology:
        raise ConfigError("topology is missing; accepted: a kind of TPU and a shape, as in v6e:2x4")
    return topology, config


def _help() -> str:
    return flags.description(
        "Say whether a training fits a TPU slice, without one.",
        "",
        "TOPOLOGY is a kind of TPU and a shape: v5e:2x2, v5p:2x2x1, v6e:2x4.",
        "",
        "PRESET (default nano) is one of:",
        f"  {', '.join(PRESETS)}",
    )


def chips(topology: str) -> list[Any]:
    """The devices of a slice that is not there.

    Raises:
      ConfigError: libtpu is not installed, or knows no such slice.
    """
    try:
        import libtpu  # noqa: F401
    except ImportError as error:
        raise ConfigError("the compiler of TPUs is missing; accepted: pip install -e '.[tpu]'") from error
    for name, value in _ALONE.items():
        os.environ.setdefault(name, value)
    try:
        return list(topologies.get_topology_desc(topology, platform="tpu").devices)
    except (RuntimeError, ValueError) as error:  # JaxRuntimeError is one
        reason = " ".join(str(error).split())
        raise ConfigError(
            f"topology is {topology!r}, which libtpu refuses ({reason[:200]}); accepted: a kind of TPU and a "
            "shape, as in v6e:2x4"
        ) from error


def measure(parts: Parts, devices: Sequence[Any]) -> dict[str, Need]:
    """What the two programs of an iteration need, compiled for devices that need not be there.

    Args:
      parts: of the run, whose mesh has as many devices.
      devices: of the slice; the first alone where the run has no mesh.

    Raises:
      DoesNotFit: the compiler finds no room for one of them.
    """
    setup = parts.setup
    whole = None if parts.mesh is None else parts.config.mesh.build(devices)
    # Outside: on devices that are not there nothing can be computed, not even a constant.
    params, key = parts.abstract_params(), jax.eval_shape(lambda: jax.random.key(0))
    with mesh.use(whole), precise(parts.config.model.dtype):
        state = jax.eval_shape(lambda params, key: train.init(setup, params, key), params, key)
        if whole is None:
            alone = SingleDeviceSharding(devices[0])
            state = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=alone), state)
        else:
            state = mesh.placed(state, state.specs(), whole)
        with memory.fitting("the training", memory.advice(setup)):
            programs = compiled(lower_collect(setup, state), lower_learn(setup, state, whole))
    return dict(zip(("rollout", "update"), map(Need.of, programs), strict=True))


def show(needs: dict[str, Need], devices: str, seconds: float) -> None:
    """Prints a row a program, and the worst moment."""
    table = Table(title=f"{devices}, each; compiled in {seconds:.0f} s", title_justify="left")
    for number, heading in enumerate(("", "arguments", "temporaries", "outputs", "in all")):
        table.add_column(heading, justify="right" if number else "left")
    for name, need in needs.items():
        figures = need.arguments, need.temporaries, need.outputs, need.total
        table.add_row(name, *map(memory.readable, figures))
    console = Console()
    console.print(table)
    console.print(f"It fits: {memory.readable(worst(needs))} at the worst moment, by the compiler.")


def worst(needs: dict[str, Need]) -> int:
    """Bytes at the worst moment: while the rollout runs, what the update is given is there as well."""
    rollout, update = needs["rollout"], needs["update"]
    return max(rollout.total + max(0, update.arguments - rollout.arguments - rollout.outputs), update.total)


if __name__ == "__main__":
    run_as_program(main)
