"""Which hands are dealt: lists made on the host, of which a reset draws one entry, so that none is rejected."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

Split = Literal["all", "train", "test"]


def check_split(value: Any) -> None:
    """Raises ValueError unless `value` is one of the three."""
    if value not in ("all", "train", "test"):
        raise ValueError(f"split is {value!r}; accepted: 'all', 'train', 'test'")


def check_flag(field: str, value: Any) -> None:
    """Raises ValueError unless `value` is True or False."""
    if type(value) is not bool:
        raise ValueError(f"{field} is {value!r}; accepted: True or False")


def check_image_shape(value: Any, least: int) -> None:
    """Raises ValueError unless `value` is (height, width, 3) of at least `least` pixels a side."""
    ok = isinstance(value, tuple) and len(value) == 3 and all(type(n) is int for n in value)
    if not ok or min(value[:2]) < least or value[2] != 3:
        raise ValueError(f"image_shape is {value!r}; accepted: (height, width, 3), both at least {least}")


def held_out(instances: np.ndarray) -> np.ndarray:
    """bool[n], True for the about one in five whole numbers that are "test": a fixed hash, the same for ever."""
    mixed = instances.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    mixed ^= mixed >> np.uint64(29)
    mixed *= np.uint64(0xBF58476D1CE4E5B9)
    mixed ^= mixed >> np.uint64(32)
    return mixed % np.uint64(5) == 0


def part(test: np.ndarray, split: Split) -> np.ndarray:
    """bool[n], which of the entries the split has, if `test` says which are held out."""
    return {"all": np.ones_like(test), "train": ~test, "test": test}[split]
