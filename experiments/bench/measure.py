"""The clock, and the meter beside it: compiling apart, one call that is not counted, then some that are."""

from __future__ import annotations

import operator
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax

from experiments.bench import energy
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


@dataclass(frozen=True)
class Timing:
    """What calls took.

    Attributes:
      seconds: of each.
      joules: of one, on average; None = not known.
    """

    seconds: tuple[float, ...]
    joules: float | None = None

    def times(self, factor: float) -> Timing:
        """Of so many calls in a row."""
        joules = _both(operator.mul, self.joules, factor)
        return Timing(tuple(factor * seconds for seconds in self.seconds), joules)

    def plus(self, other: Timing) -> Timing:
        """Of this and of what was timed as often."""
        return self._with(other, operator.add)

    def less(self, part: Timing) -> Timing:
        """Of the rest, without a part that was timed as often; on a device that others use it may be nothing."""
        return self._with(part, operator.sub)

    def _with(self, other: Timing, combine: Callable[[float, float], float]) -> Timing:
        """The fastest with the fastest, and so on."""
        pairs = zip(sorted(self.seconds), sorted(other.seconds), strict=True)
        return Timing(tuple(combine(*pair) for pair in pairs), _both(combine, self.joules, other.joules))


def _both(combine: Callable[[float, float], float], one: float | None, other: float | None) -> float | None:
    """None where one of them is not known."""
    return None if one is None or other is None else combine(one, other)


def timed(call: Callable[[], Any], repeats: int, gpus: Sequence[int] | None = None) -> Timing:
    """`repeats` calls, each waited for, after one that is not counted.

    Where energy is metered short calls go on for as long as that takes; those do not count as repeats.

    Args:
      call: what it returns is waited for, if JAX knows how.
      repeats: one at least.
      gpus: whose energy is metered, see `energy.metered`.
    """
    jax.block_until_ready(call())
    seconds: list[float] = []
    least = energy.LEAST if energy.available(gpus) else 0.0
    with energy.metered(gpus) as spent:
        began = time.perf_counter()
        while len(seconds) < repeats or time.perf_counter() - began < least:
            started = time.perf_counter()
            jax.block_until_ready(call())
            seconds.append(time.perf_counter() - started)
    joules = None if spent.joules is None else spent.joules / len(seconds)
    return Timing(tuple(seconds[:repeats]), joules)
