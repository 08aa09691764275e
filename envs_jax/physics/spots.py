"""Places to begin at: some of sixteen spots, so that nothing overlaps and the pusher gets around everything."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from envs_jax.physics.words import NAMES

SPACING, JITTER = 0.19, 0.02  # metres, between spots and around each


def spots(key: PRNGKeyArray, count: int) -> Float[Array, "{count} 2"]:
    """Places at different spots, metres; neighbours are at least SPACING - 2 JITTER apart."""
    order_key, jitter_key = jax.random.split(key)
    line = (np.arange(4) - 1.5) * SPACING
    grid = jnp.asarray(np.stack(np.meshgrid(line, line), axis=-1).reshape(-1, 2), jnp.float32)
    chosen = jax.random.permutation(order_key, grid)[:count]
    return chosen + jax.random.uniform(jitter_key, (count, 2), jnp.float32, -JITTER, JITTER)


def others(key: PRNGKeyArray, colour: Int[Array, ""], count: int) -> Int[Array, "{count}"]:
    """Different colours, none of them `colour`."""
    steps = 1 + jax.random.permutation(key, len(NAMES) - 1)[:count]
    return ((colour + steps) % len(NAMES)).astype(jnp.int32)
