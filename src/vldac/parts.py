"""A function of many rows, computed over no more of them at a time than there is room for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jaxtyping import Array

from vldac.mesh import shard_batch


def part_size(count: int, most: int) -> int:
    """The largest divisor of `count` that is no more than `most`; at least 1. Worked example: 12 within 5 -> 4."""
    return next((n for n in range(min(most, count), 0, -1) if count % n == 0), 1)


def in_parts(function: Callable[[Any], Array], rows: Any, most: int) -> Array:
    """function(rows), of no more than `most` rows at a time.

    Args:
      function: of rows to an array with a row for each.
      rows: leaves [B, ...].
      most: rows at a time; the largest divisor of B within it is taken, so that all parts are alike.

    Returns:
      [B, ...].
    """
    count = len(jax.tree.leaves(rows)[0])
    size = part_size(count, most)
    if size == count:
        return function(rows)
    parts = jax.tree.map(lambda leaf: leaf.reshape(-1, size, *leaf.shape[1:]), rows)
    result = jax.lax.map(function, shard_batch(parts, axis=1))
    return result.reshape(count, *result.shape[2:])
