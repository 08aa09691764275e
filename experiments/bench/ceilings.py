"""What this device reaches on a bare matrix product and a bare copy, measured now.

Limits are made of these, not of a data sheet: clocks, power and a shared device are then in both sides of a ratio.
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


@dataclass(frozen=True)
class Ceilings:
    """The best of a few tries each.

    Attributes:
      matmul: FLOP/s by dtype: "bfloat16" and "float32" (whose products are not rounded to less).
      bandwidth: bytes/s of a copy, read and written bytes counted.
    """

    matmul: dict[str, float]
    bandwidth: float

    def times(self, devices: int) -> Ceilings:
        """Of so many devices that share the work without waiting for each other."""
        return Ceilings({name: devices * rate for name, rate in self.matmul.items()}, devices * self.bandwidth)


def measure(platform: str | None = None) -> Ceilings:
    """Measures both; a few seconds, most of them on a CPU.

    Args:
      platform: whose sizes are taken; None = those of the device that JAX uses.
    """
    side, size = SIZES.get(platform or jax.default_backend(), SIZES["gpu"])
    matmul = {}
    for dtype, precision in (("bfloat16", "default"), ("float32", "highest")):
        x = jax.random.normal(jax.random.key(0), (side, side), jnp.dtype(dtype))
        product = jax.jit(lambda x, y, precision=precision: jnp.matmul(x, y, precision=precision))
        matmul[dtype] = 2 * side**3 / best(product, x, x)
    x = jnp.zeros(size // 4, jnp.float32)
    return Ceilings(matmul, 2 * size / best(jax.jit(lambda x: x + 1), x))


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
