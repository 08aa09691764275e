"""The seconds that a run takes, by phase, whichever of its processes spent them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator


class Clock:
    """Seconds by phase, summed over everything that a run did, earlier processes included."""

    def __init__(self):
        self.seconds: dict[str, float] = {}
        self._loaded: dict[str, float] = {}
        self._started = time.perf_counter()
        self._before = 0.0

    @contextlib.contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[phase] = self.seconds.get(phase, 0.0) + time.perf_counter() - started

    @property
    def total(self) -> float:
        """Wall clock of all processes of the run."""
        return self._before + time.perf_counter() - self._started

    def dump(self) -> dict[str, float]:
        return {**self.seconds, "total": self.total}

    @property
    def idle(self) -> bool:
        """Whether this process has done nothing yet."""
        return self.seconds == self._loaded

    def load(self, dumped: dict[str, float]) -> None:
        """Goes on from what `dump` gave; of several, from the larger number of each phase."""
        for name, seconds in dumped.items():
            if name == "total":
                self._before = max(self._before, seconds)
            else:
                self.seconds[name] = max(self.seconds.get(name, 0.0), seconds)
        self._loaded = dict(self.seconds)
