"""What this device reaches on a bare matrix product and a bare copy, measured now.

Limits are made of these, not of a data sheet: clocks and a shared device are then in both sides of a ratio. An
accelerator is measured for seconds: under such a load it draws all the power that it may and sets its clock by
that, where the best of a few short bursts came out at 607 to 726 TFLOP/s on one kind of GPU. What computes and
moves in turn draws less, and its products may be faster than this one.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp

from experiments.bench import energy

# (side of the square product, bytes of the copied array), large enough to fill the device; seconds of each.
SIZES = {"cpu": (1024, 2**26, 0.3), "gpu": (8192, 2**30, 2.0), "tpu": (8192, 2**30, 2.0)}


@dataclass(frozen=True)
class Ceilings:
    """Rates.

    Attributes:
      matmul: FLOP/s by dtype: "bfloat16" and "float32" (whose products are not rounded to less).
      bandwidth: bytes/s of a copy, read and written bytes counted.
      watts: drawn meanwhile, of "bfloat16", "float32" and "copy"; empty where they are not metered.
    """

    matmul: dict[str, float]
    bandwidth: float
    watts: dict[str, float] = field(default_factory=dict)

    def times(self, devices: int) -> Ceilings:
        """Of so many devices that share the work without waiting for each other."""
        return Ceilings(
            {name: devices * rate for name, rate in self.matmul.items()},
            devices * self.bandwidth,
            {name: devices * watts for name, watts in self.watts.items()},
        )


def measure(platform: str | None = None) -> Ceilings:
    """Measures both, for seconds.

    Args:
      platform: whose sizes are taken; None = those of the device that JAX uses.
    """
    platform = platform or jax.default_backend()
    side, size, seconds = SIZES.get(platform, SIZES["gpu"])

    watts: dict[str, float] = {}

    def kept_up(name, function, *args):
        jax.block_until_ready(function(*args))  # compiling draws next to nothing
        with energy.metered(energy.gpus()[:1]) as spent:
            result = steady(function, *args, seconds=seconds)
        if spent.watts is not None:
            watts[name] = spent.watts
        return result

    def product(dtype, precision):
        x = jax.random.normal(jax.random.key(0), (side, side), jnp.dtype(dtype))
        times = jax.jit(lambda x, y: jnp.matmul(x, y, precision=precision))
        return 2 * side**3 / kept_up(dtype, times, x, x)

    matmul = {"bfloat16": product("bfloat16", "default"), "float32": product("float32", "highest")}
    x = jnp.zeros(size // 4, jnp.float32)
    return Ceilings(matmul, 2 * size / kept_up("copy", jax.jit(lambda x: x + 1), x), watts)


def steady(
    function: Callable[..., Any],
    *args: Any,
    seconds: float,
    wait: Callable[[Any], Any] = jax.block_until_ready,
) -> float:
    """Seconds of a call, when they follow each other for so long: the median of rows of calls.

    In a row, launching one hides behind another.

    Args:
      function: gives something to wait for.
      seconds: that it is called for, at least; three rows at least.
      wait: blocks until it is there.
    """
    wait(function(*args))
    started = time.perf_counter()
    wait(function(*args))
    calls = max(1, min(20, int(0.1 / (time.perf_counter() - started))))
    rows: list[float] = []
    began = time.perf_counter()
    while len(rows) < 3 or time.perf_counter() - began < seconds:
        started = time.perf_counter()
        for _ in range(calls):
            result = function(*args)
        wait(result)
        rows.append((time.perf_counter() - started) / calls)
    return statistics.median(rows)
