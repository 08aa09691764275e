"""Ctrl-C and SIGTERM as a wish, which a run looks at where it can stop."""

from __future__ import annotations

import signal
from typing import Any

import jax
import numpy as np
from jax.experimental.multihost_utils import process_allgather
from rich.console import Console


class Interrupt:
    """Turns the first Ctrl-C or SIGTERM into a wish to stop; the second one aborts as ever."""

    def __init__(self, console: Console):
        self._wished = False
        self._console = console
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Interrupt:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._wish)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    @property
    def wanted(self) -> bool:
        """Whether to stop. All processes ask at the same moments and get the same answer: any of them may wish,
        and none goes on to wait for one that has stopped."""
        if jax.process_count() == 1:
            return self._wished
        return bool(process_allgather(np.array(self._wished)).any())

    def _wish(self, number: int, frame: Any) -> None:
        self._wished = True
        signal.signal(number, signal.default_int_handler)
        self._console.print("[yellow]Stopping after this iteration. Once more to abort at once.[/]")
