"""A function of many rows, computed over no more of them at a time than there is room for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jaxtyping import Array

from vldac.mesh import batch_ways, shard_batch


def part_size(count: int, most: int) -> int:
    """The largest divisor of `count` that is no more than `most`; at least 1. Worked example: 12 within 5 -> 4."""
    return next((n for n in range(min(most, count), 0, -1) if count % n == 0), 1)


def in_parts(function: Callable[[Any], Array], rows: Any, most: int) -> Array:
    """function(rows), of no more than `most` rows at a time.

    Args:
      function: of rows to an array with a row for each.
      rows: leaves [B, ...].
      most: rows at a time; the largest divisor of B within it is taken, so that all parts are alike.
        On a mesh a part has its share of each device's rows, so that none has to move. Worked example, 8 rows on 2
        devices, 4 at a time: [0 1 2 3 | 4 5 6 7] -> [0 1 | 4 5], then [2 3 | 6 7].

    Returns:
      [B, ...].
    """
    count = len(jax.tree.leaves(rows)[0])
    size = part_size(count, most)
    if size == count:
        return function(rows)
    ways = 1 if size % batch_ways() else batch_ways()

    def cut(leaf):  # [ways * parts * share, ...] -> [parts, ways * share, ...]
        leaf = leaf.reshape(ways, count // size, size // ways, *leaf.shape[1:])
        return leaf.swapaxes(0, 1).reshape(count // size, size, *leaf.shape[3:])

    result = jax.lax.map(function, shard_batch(jax.tree.map(cut, rows), axis=1))
    result = result.reshape(count // size, ways, size // ways, *result.shape[2:])
    return result.swapaxes(0, 1).reshape(count, *result.shape[3:])
