"""Joules that GPUs draw, by their own counters (NVML, by way of nvidia-ml-py, which `.[cuda]` brings).

A GPU that computes and moves bytes at once is held by its power before it reaches the rate of either. What a
change saves there are joules, whatever the time of its kernels alone.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax

LEAST = 2.0  # seconds that are worth metering: counters go on every tenth of a second or so


@dataclass
class Spent:
    """What a block of code took.

    Attributes:
      seconds: by the clock.
      joules: of all devices together; None = there is no counter, or it was over too soon to tell.
    """

    seconds: float = 0.0
    joules: float | None = None

    @property
    def watts(self) -> float | None:
        """On average."""
        return None if self.joules is None else self.joules / self.seconds


def gpus() -> list[int]:
    """Those that JAX uses in this process, as CUDA numbers them."""
    return [device.local_hardware_id for device in jax.local_devices() if device.platform == "gpu"]


@contextlib.contextmanager
def metered(devices: Sequence[int] | None = None) -> Iterator[Spent]:
    """Meters a block, which waits for what it began.

    Args:
      devices: as `gpus` gives them; None = all of them.
    """
    counters = _counters(devices)
    spent, began, before = Spent(), time.perf_counter(), _read(counters)
    yield spent
    after = _read(counters)
    spent.seconds = time.perf_counter() - began
    if before is not None and after is not None and spent.seconds >= LEAST:
        spent.joules = after - before


def available(devices: Sequence[int] | None = None) -> bool:
    """Whether there are counters; arguments as for `metered`."""
    return _read(_counters(devices)) is not None


def _counters(devices: Sequence[int] | None) -> list[Any]:
    """NVML's handles of the devices; none where there is no NVML or no GPU."""
    devices = gpus() if devices is None else devices
    if not devices:
        return []
    try:
        import pynvml
    except ImportError:
        return []
    try:
        pynvml.nvmlInit()  # again and again does no harm
        return [_handle(pynvml, number) for number in devices]
    except (pynvml.NVMLError, ValueError, IndexError):
        return []


def _handle(pynvml: Any, number: int) -> Any:
    """NVML numbers all GPUs of the host, CUDA those that are visible. CUDA_VISIBLE_DEVICES=5,3: 1 -> 3."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    name = visible.split(",")[number].strip() if visible else str(number)
    return (
        pynvml.nvmlDeviceGetHandleByIndex(int(name))
        if name.isdecimal()
        else pynvml.nvmlDeviceGetHandleByUUID(name)
    )


def _read(counters: Sequence[Any]) -> float | None:
    """Joules since the driver was loaded."""
    if not counters:
        return None
    import pynvml

    try:
        return sum(pynvml.nvmlDeviceGetTotalEnergyConsumption(counter) for counter in counters) / 1e3
    except pynvml.NVMLError:  # an older GPU, or a slice of one
        return None
