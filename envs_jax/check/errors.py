"""What `check` raises."""

from __future__ import annotations

from typing import Any


class WorldError(AssertionError):
    """A world breaks its contract; the message says where and how."""


def require(condition: Any, message: str) -> None:
    """Raises `WorldError` with the message where the condition does not hold."""
    if not condition:
        raise WorldError(message)
