"""How JAX is used by a command: what it is told before it begins, and how programs are compiled.

Anything that is already set in the environment stays as it is.

* Compiled programs are kept between runs: the second run of a preset compiles nothing. They lie in
  `$XDG_CACHE_HOME/vldac/compilation`, which is `~/.cache/vldac/compilation` unless that is set;
  `JAX_COMPILATION_CACHE_DIR` names another folder, `JAX_ENABLE_COMPILATION_CACHE=false` ends it. 8 GiB at most,
  the longest unused goes first.
* Of a GPU's memory JAX takes three quarters unless told otherwise; a training may have it nearly all
  (`XLA_PYTHON_CLIENT_MEM_FRACTION`).
"""

from __future__ import annotations

import os
import queue
import threading
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from vldac import train

CACHE_BYTES = 8 * 2**30


def prepare() -> None:
    """Sets what is not set. To be called before anything runs on a device."""
    take_memory()
    if jax.config.jax_compilation_cache_dir is None:
        jax.config.update("jax_compilation_cache_dir", str(cache_folder()))
        jax.config.update("jax_compilation_cache_max_size", CACHE_BYTES)


def take_memory() -> None:
    """The part of `prepare` that is about memory."""
    os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.92")


def compile_iteration(
    setup: train.Setup, state: train.TrainState, mesh: Mesh | None
) -> tuple[jax.stages.Compiled, jax.stages.Compiled]:
    """`train.collect` and `train.learn`."""
    experience = train.experience_like(setup, state, mesh)
    # Tracing looks at the mesh and the precision around it, which are this thread's own.
    return compiled(
        train.jit_collect.lower(setup, state.policy_params, state.lanes, state.key),
        train.jit_learn.lower(setup, state, experience),
    )


def compiled(*lowered: jax.stages.Lowered) -> tuple[jax.stages.Compiled, ...]:
    """Programs, compiled side by side.

    The compiler hears no signal and may take minutes. So it has threads of its own, which keep nobody waiting: a
    Ctrl-C is heard while they work, and a process that ends takes them with it.
    """
    done: queue.SimpleQueue[tuple[int, Any]] = queue.SimpleQueue()

    def compile_one(number: int, program: jax.stages.Lowered) -> None:
        try:
            done.put((number, program.compile()))
        except BaseException as error:
            done.put((number, error))

    for one in enumerate(lowered):
        threading.Thread(target=compile_one, args=one, name="compiler", daemon=True).start()
    programs = dict(done.get() for _ in lowered)
    for program in programs.values():
        if isinstance(program, BaseException):
            raise program
    return tuple(programs[number] for number in range(len(lowered)))


def cache_folder() -> Path:
    """Where compiled programs are kept by default."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "vldac" / "compilation"
