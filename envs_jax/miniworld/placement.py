"""Where things start: free places drawn at random, in a fixed number of draws.

MiniWorld draws until a place is free. Under `jax.vmap` every world would wait for the slowest, and a place may
not exist; so CANDIDATES places are drawn at once and the first free one is taken. Its distribution is the same,
uniform over the free places, as long as one of the draws is free: where a draw is free with probability p, all
fail with probability (1 - p) ** 32, under 1e-9 for p = .5. Should all fail, the draw that overlaps least is taken:
placing is total.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from envs_jax.miniworld.dynamics import clearance
from envs_jax.miniworld.entities import Entities
from envs_jax.render.scene import Walls

CANDIDATES = 32


def place(
    key: PRNGKeyArray,
    low: tuple[float, float],
    high: tuple[float, float],
    radius: float,
    walls: Walls,
    entities: Entities,
    yaw: tuple[float, float] = (-math.pi, math.pi),
) -> tuple[Float[Array, "3"], Float[Array, ""]]:
    """A free place on the floor and a yaw, both uniform.

    Args:
      low, high: corners (x, z) of the rectangle that the centre is drawn from, metres, within the room: walls
        are lines, they do not know an inside. Leaving out the margin of `radius` along them loses no draw.
      radius: of what is placed, metres.
      walls, entities: what it must not touch; entities that do not exist are ignored.
      yaw: range of the yaw, radians.

    Returns:
      (position float32[3] with y = 0, yaw float32[]).
    """
    place_key, yaw_key = jax.random.split(key)
    bounds = jnp.array([low, high], jnp.float32)
    xz = jax.random.uniform(place_key, (CANDIDATES, 2), jnp.float32, bounds[0], bounds[1])
    positions = jnp.stack([xz[:, 0], jnp.zeros(CANDIDATES, jnp.float32), xz[:, 1]], axis=-1)
    gaps = jax.vmap(lambda position: clearance(position, radius, walls, entities))(positions)
    free = gaps >= 0
    chosen = jnp.where(jnp.any(free), jnp.argmax(free), jnp.argmax(gaps))
    return positions[chosen], jax.random.uniform(yaw_key, (), jnp.float32, *yaw)
