"""The clock: compiling apart, one call that is not counted, then some that are."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax

from vldac import memory


@dataclass(frozen=True)
class Program:
    """A compiled program.

    Attributes:
      call: runs it.
      compile_seconds: of tracing and compiling; little where a cache on disk holds it.
      device_bytes: that it needs at its worst moment, arguments included, by the compiler; None = not told.
    """

    call: Callable[..., Any]
    compile_seconds: float
    device_bytes: int | None


def compile_ahead(jitted: Any, *args: Any) -> Program:
    """Compiles for these arguments (static ones among them, which `Program.call` then leaves out)."""
    started = time.perf_counter()
    compiled = jitted.lower(*args).compile()
    return Program(compiled, time.perf_counter() - started, memory.program_bytes(compiled))


def timed(call: Callable[[], Any], repeats: int) -> tuple[float, ...]:
    """Seconds of `repeats` calls, each waited for, after one that is not counted."""
    jax.block_until_ready(call())
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        jax.block_until_ready(call())
        seconds.append(time.perf_counter() - started)
    return tuple(seconds)
