"""Options that worlds have in common, checked: a ValueError names the option, its value and what is accepted."""

from __future__ import annotations

import math
from typing import Any


def check_image_shape(value: Any, least: tuple[int, int] = (8, 8), most: int | None = 1024) -> None:
    """Raises ValueError unless `value` is (height, width, 3) within limits.

    Args:
      least: pixels of the height and of the width at the least.
      most: of both at the most; None for no limit.
    """
    ok = isinstance(value, tuple) and len(value) == 3 and all(type(n) is int for n in value)
    ok = ok and value[2] == 3 and value[0] >= least[0] and value[1] >= least[1]
    if ok and (most is None or max(value[:2]) <= most):
        return
    size = f"both at least {least[0]}" if least[0] == least[1] else f"at least {least[0]} x {least[1]}"
    if most is not None:
        size = f"both from {least[0]} to {most}"
    raise ValueError(f"image_shape is {value!r}; accepted: (height, width, 3), {size}")


def check_max_steps(value: Any) -> None:
    """Raises ValueError unless `value` is a positive int."""
    if type(value) is not int or value < 1:
        raise ValueError(f"max_steps is {value!r}; accepted: a positive int")


def check_number(field: str, value: Any, low: float | int, high: float | int, unit: str) -> None:
    """Raises ValueError unless `value` is a number from `low` to `high`."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{field} is {value!r}; accepted: a number from {low:g} to {high:g} {unit}")
    if not low <= value <= high:
        raise ValueError(f"{field} is {value!r}; accepted: from {low:g} to {high:g} {unit}")


def check_turn(value: Any) -> None:
    """Raises ValueError unless `value`, degrees, divides a full turn into at least four."""
    check_number("turn_degrees", value, 1, 90, "degrees")
    if abs(360 / value - round(360 / value)) > 1e-9:
        raise ValueError(f"turn_degrees is {value!r}; accepted: a divisor of 360, so that headings repeat")


def check_bool(field: str, value: Any) -> None:
    """Raises ValueError unless `value` is True or False."""
    if not isinstance(value, bool):
        raise ValueError(f"{field} is {value!r}; accepted: True or False")


def check_choice(field: str, value: Any, accepted: tuple[str, ...]) -> None:
    """Raises ValueError unless `value` is None or one of the accepted."""
    if value is not None and value not in accepted:
        raise ValueError(f"{field} is {value!r}; accepted: {', '.join(accepted)}, or None for any of them")
