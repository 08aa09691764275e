"""Places to begin at: spots on a grid, so that nothing overlaps and the pusher gets around everything."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from envs_jax.physics.words import NAMES

SPACING, WIDE, JITTER = 0.19, 0.29, 0.02  # metres, between sixteen or nine spots and around each


def spots(key: PRNGKeyArray, count: int) -> Float[Array, "{count} 2"]:
    """Places at different spots, metres; neighbours are at least SPACING - 2 JITTER apart."""
    order_key, jitter_key = jax.random.split(key)
    line = (np.arange(4) - 1.5) * SPACING
    grid = jnp.asarray(np.stack(np.meshgrid(line, line), axis=-1).reshape(-1, 2), jnp.float32)
    chosen = jax.random.permutation(order_key, grid)[:count]
    return chosen + jax.random.uniform(jitter_key, (count, 2), jnp.float32, -JITTER, JITTER)


def corners(key: PRNGKeyArray, count: int) -> tuple[Float[Array, "2 2"], Float[Array, "{count} 2"]]:
    """Two of the table's four corners, and places at other of nine spots, metres.

    Whatever lies in two corners is not in the way of what is pushed to them, along one axis and then the other.
    """
    corner_key, order_key, jitter_key = jax.random.split(key, 3)
    line = WIDE * np.array([-1, 0, 1], np.float32)
    grid = np.stack(np.meshgrid(line, line), axis=-1).reshape(-1, 2)
    outer = np.array([0, 2, 6, 8])
    taken = jax.random.permutation(corner_key, jnp.asarray(outer))[:2]
    free = jnp.all(jnp.arange(9)[:, None] != taken, axis=1)
    rank = jnp.where(free, jax.random.uniform(order_key, (9,)), 2.0)
    chosen = jnp.asarray(grid)[jnp.concatenate([taken, jnp.argsort(rank)[:count]])]
    chosen += jax.random.uniform(jitter_key, chosen.shape, jnp.float32, -JITTER, JITTER)
    return chosen[:2], chosen[2:]


def others(key: PRNGKeyArray, colour: Int[Array, ""], count: int) -> Int[Array, "{count}"]:
    """Different colours, none of them `colour`."""
    steps = 1 + jax.random.permutation(key, len(NAMES) - 1)[:count]
    return ((colour + steps) % len(NAMES)).astype(jnp.int32)
