"""Where the time of one call goes: what the device did, by name, from JAX's profiler."""

from __future__ import annotations

import re
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

# "loop_fusion_12" and "loop_fusion.3" are one kind.
_NUMBER = re.compile(r"([._]\d+)+$")
# On a CPU what holds other operations is listed beside them, with their time.
_HOLDERS = re.compile(r"while|call|conditional")


@dataclass(frozen=True)
class Kernel:
    """What ran on the device under one name: a kernel on a GPU, an operation of XLA elsewhere.

    Attributes:
      calls: how often.
      seconds: all of them together.
    """

    name: str
    calls: int
    seconds: float


def busiest(call: Callable[[], Any], most: int) -> list[Kernel]:
    """The `most` kinds of kernels that take longest in one call, which is compiled already; longest first."""
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            jax.block_until_ready(call())
        (file,) = Path(folder).rglob("*.xplane.pb")
        profile = jax.profiler.ProfileData.from_file(str(file))
        return _longest(_events(profile), most)


def _longest(events: Iterator[tuple[str, float]], most: int) -> list[Kernel]:
    found: dict[str, list[float]] = defaultdict(list)
    for name, nanoseconds in events:
        found[_NUMBER.sub("", name)].append(nanoseconds)
    kernels = [Kernel(name, len(each), sum(each) * 1e-9) for name, each in found.items()]
    return sorted(kernels, key=lambda kernel: -kernel.seconds)[:most]


def _events(profile: Any) -> Iterator[tuple[str, float]]:
    """(name, nanoseconds) of everything that the devices did."""
    for plane in profile.planes:
        device = plane.name.startswith("/device:")
        for line in plane.lines:
            # A GPU's streams, a TPU's operations; other lines tell the same once more, by step and by module.
            if device and not line.name.startswith(("Stream", "XLA Ops")):
                continue
            for event in line.events:
                if device or ("hlo_op" in dict(event.stats) and not _HOLDERS.match(event.name)):
                    yield event.name, event.duration_ns
