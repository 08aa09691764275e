"""What this device reaches on a bare matrix product and a bare copy, measured now.

Limits are made of these, not of a data sheet: clocks and a shared device are then in both sides of a ratio.
They are the best of short bursts, though. Under a load of seconds an accelerator draws all the power that it may
and lowers its clock: what a product then reaches is measured and shown beside, and is in no limit.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

# (side of the square product, bytes of the copied array): large enough to fill the device.
SIZES = {"cpu": (1024, 2**26), "gpu": (8192, 2**30), "tpu": (8192, 2**30)}
_TRIES = 5
_HELD_SECONDS = 2.0


@dataclass(frozen=True)
class Ceilings:
    """The best of a few tries each.

    Attributes:
      matmul: FLOP/s by dtype: "bfloat16" and "float32" (whose products are not rounded to less).
      bandwidth: bytes/s of a copy, read and written bytes counted.
      held: FLOP/s of the bfloat16 product when the device has done nothing else for seconds; None = not measured,
        as on a CPU.
    """

    matmul: dict[str, float]
    bandwidth: float
    held: float | None = None

    def times(self, devices: int) -> Ceilings:
        """Of so many devices that share the work without waiting for each other."""
        return Ceilings(
            {name: devices * rate for name, rate in self.matmul.items()},
            devices * self.bandwidth,
            None if self.held is None else devices * self.held,
        )


def measure(platform: str | None = None) -> Ceilings:
    """Measures both; a few seconds, most of them on a CPU.

    Args:
      platform: whose sizes are taken; None = those of the device that JAX uses.
    """
    platform = platform or jax.default_backend()
    side, size = SIZES.get(platform, SIZES["gpu"])

    def product(dtype, precision, time_of):
        x = jax.random.normal(jax.random.key(0), (side, side), jnp.dtype(dtype))
        return 2 * side**3 / time_of(jax.jit(lambda x, y: jnp.matmul(x, y, precision=precision)), x, x)

    matmul = {"bfloat16": product("bfloat16", "default", best), "float32": product("float32", "highest", best)}
    x = jnp.zeros(size // 4, jnp.float32)
    bandwidth = 2 * size / best(jax.jit(lambda x: x + 1), x)
    return Ceilings(matmul, bandwidth, None if platform == "cpu" else product("bfloat16", "default", held))


def best(function: Callable[..., Any], *args: Any, wait: Callable[[Any], Any] = jax.block_until_ready) -> float:
    """Seconds of a call: the fastest of a few rows of calls, so that launching one hides behind another.

    Args:
      function: gives something to wait for.
      wait: blocks until it is there.
    """
    started = time.perf_counter()
    wait(function(*args))
    wait(function(*args))
    calls = max(1, min(20, int(0.1 / (time.perf_counter() - started))))
    seconds = []
    for _ in range(_TRIES):
        started = time.perf_counter()
        for _ in range(calls):
            result = function(*args)
        wait(result)
        seconds.append((time.perf_counter() - started) / calls)
    return min(seconds)


def held(function: Callable[..., Any], *args: Any, seconds: float = _HELD_SECONDS) -> float:
    """Seconds of a call when the device has done nothing else for `seconds`: of the last row of calls."""
    began = time.perf_counter()
    while True:
        started = time.perf_counter()
        for _ in range(20):
            result = function(*args)
        jax.block_until_ready(result)
        ended = time.perf_counter()
        if ended - began > seconds:
            return (ended - started) / 20
