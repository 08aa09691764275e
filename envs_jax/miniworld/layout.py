"""Rooms as walls. One array of walls is both what is drawn and what is run into.

* A room is the outline of its floor; its walls are seen from within.
* Walls with low = 0 collide; a lintel (low > 0) does not, as in MiniWorld.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from envs_jax.render.scene import Walls

WALL_HEIGHT = 2.74  # metres

Outline = tuple[tuple[float, float], ...]  # corners (x, z), the inside to the left of each edge seen from above


def rectangle(low: tuple[float, float], high: tuple[float, float]) -> Outline:
    """The room low <= (x, z) <= high, its walls in MiniWorld's order: east, north, west, south."""
    return ((high[0], high[1]), (high[0], low[1]), (low[0], low[1]), (low[0], high[1]))


def walls_around(outline: Outline, texture: int, height: float = WALL_HEIGHT) -> Walls:
    """One wall an edge. The texture runs along each edge from its start."""
    corners = np.asarray(outline, np.float32)
    count = len(corners)
    return Walls(
        start=jnp.asarray(corners),
        end=jnp.asarray(np.roll(corners, -1, axis=0)),
        low=jnp.zeros(count, jnp.float32),
        high=jnp.full(count, height, jnp.float32),
        offset=jnp.zeros(count, jnp.float32),
        texture=jnp.full(count, texture, jnp.int32),
        exists=jnp.ones(count, bool),
    )
