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

import contextlib
import os
import queue
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from experiments.clock import Clock
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


def precise(dtype: str) -> contextlib.AbstractContextManager[None]:
    """Where a model computes in float32 it shall be float32: GPUs and TPUs would round products to less."""
    return jax.default_matmul_precision("highest" if dtype == "float32" else "default")


def compile_iteration(
    setup: train.Setup, state: train.TrainState, mesh: Mesh | None
) -> tuple[jax.stages.Compiled, jax.stages.Compiled]:
    """`train.collect` and `train.learn`."""
    return compiled(lower_collect(setup, state), lower_learn(setup, state, mesh))


# Tracing looks at the mesh and the precision around it, which are a thread's own.
def lower_collect(setup: train.Setup, state: train.TrainState) -> jax.stages.Lowered:
    """`train.collect`, traced."""
    return train.jit_collect.lower(setup, state.policy_params, state.lanes, state.key)


def lower_learn(setup: train.Setup, state: train.TrainState, mesh: Mesh | None) -> jax.stages.Lowered:
    """`train.learn`, traced."""
    return train.jit_learn.lower(setup, state, train.experience_like(setup, state, mesh))


def compiled(*lowered: jax.stages.Lowered) -> tuple[jax.stages.Compiled, ...]:
    """Programs, compiled side by side: as many at a time as there are processors, as each wants memory.

    The compiler hears no signal and may take minutes. So it has threads of its own, which keep nobody waiting: a
    Ctrl-C is heard while they work, and a process that ends takes them with it.
    """
    waiting: queue.SimpleQueue[tuple[int, jax.stages.Lowered]] = queue.SimpleQueue()
    done: queue.SimpleQueue[tuple[int, Any]] = queue.SimpleQueue()
    for one in enumerate(lowered):
        waiting.put(one)

    def compile_some() -> None:
        while True:
            try:
                number, program = waiting.get_nowait()
            except queue.Empty:
                return
            try:
                done.put((number, program.compile()))
            except BaseException as error:
                done.put((number, error))

    for _ in range(min(len(lowered), max(2, processors()))):
        threading.Thread(target=compile_some, name="compiler", daemon=True).start()
    programs = dict(done.get() for _ in lowered)
    for program in programs.values():
        if isinstance(program, BaseException):
            raise program
    return tuple(programs[number] for number in range(len(lowered)))


class Programs:
    """The compiled programs of a run, by name.

    What is known to be needed later is announced, and compiled with the first that is asked for: six programs side
    by side take little longer than the longest of them, where there are as many processors.

    Args:
      clock: compiling, tracing included, is booked there as "compile".
    """

    def __init__(self, clock: Clock):
        self.clock = clock
        self._waiting: dict[Any, jax.stages.Lowered] = {}
        self._compiled: dict[Any, jax.stages.Compiled] = {}

    def announce(self, name: Any, lower: Callable[[], jax.stages.Lowered]) -> None:
        """A program that is going to be asked for; nothing happens where it is known.

        Args:
          lower: traces it.
        """
        if name not in self._compiled and name not in self._waiting:
            with self.clock("compile"):
                self._waiting[name] = lower()

    def __getitem__(self, name: Any) -> jax.stages.Compiled:
        """An announced program."""
        if name not in self._compiled:
            with self.clock("compile"):
                done = compiled(*self._waiting.values())
            self._compiled |= zip(self._waiting, done, strict=True)
            self._waiting = {}
        return self._compiled[name]


def processors() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cache_folder() -> Path:
    """Where compiled programs are kept by default."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "vldac" / "compilation"
