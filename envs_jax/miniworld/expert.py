"""A scripted way to a place: turn the short way to the best free heading, then go.

* Turns come in fixed steps, so the headings that can be reached form a fixed set that does not depend on which
  of them the agent has now: the best of them stays the best while it turns. The heading it has is kept a little
  longer than it is the best (KEEP). So it never swings to and fro.
* A heading whose step would be rejected is not a candidate, so walls beside the way are got round. One that it
  would have to turn to must also be clear of walls a metre on; else, along a wall, it would turn at every step.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from envs_jax.miniworld.dynamics import (
    AGENT_RADIUS,
    MOVE_FORWARD,
    TURN_LEFT,
    TURN_RIGHT,
    Agent,
    bearing,
    clearance,
    direction,
    moved,
    turned,
    wrap,
)
from envs_jax.miniworld.entities import Entities, boxes
from envs_jax.render.scene import Walls

# It keeps its heading while that misses by up to this share of a turn. Of two headings to both sides of the way
# one misses by half a turn or less; at exactly half it would take them in turns.
KEEP = 0.6
_OUTLOOK = 1.0  # metres


def go_to(
    agent: Agent,
    position: Float[Array, "3"],
    forward_step: float | int,
    turn_degrees: float | int,
    walls: Walls,
    entities: Entities,
) -> Int[Array, ""]:
    """The next action on the way to a position in sight or out of it, with no wall between.

    Args:
      forward_step: metres.
      turn_degrees: degrees, a divisor of 360.

    Returns:
      int32[], one of TURN_LEFT, TURN_RIGHT, MOVE_FORWARD. With every heading blocked, TURN_LEFT.
    """
    count = round(360 / turn_degrees)
    # Worked example, 90 degrees: turns = [-2, -1, 0, 1] quarter turns to the left.
    turns = jnp.arange(count, dtype=jnp.int32) - count // 2
    angles = turns * math.radians(turn_degrees)
    headings = jax.vmap(lambda angle: turned(agent, angle))(angles)
    free = jax.vmap(lambda heading: moved(heading, forward_step, walls, entities)[1])(headings)
    gaps = jax.vmap(
        lambda heading: clearance(
            heading.position + _OUTLOOK * direction(heading.yaw), AGENT_RADIUS, walls, boxes(())
        )
    )(headings)
    good = free & ((gaps >= 0) | (turns == 0))
    candidates = jnp.where(jnp.any(good), good, free)
    # Ahead misses by k turns and its neighbour by 1 - k: ahead is taken while k - bonus <= 1 - k.
    bonus = (2 * KEEP - 1) * math.radians(turn_degrees)
    miss = jnp.abs(wrap(bearing(agent, position) - angles)) - jnp.where(turns == 0, bonus, 0.0)
    best = turns[jnp.argmin(jnp.where(candidates, miss, jnp.inf))]
    action = jnp.where(best == 0, MOVE_FORWARD, jnp.where(best > 0, TURN_LEFT, TURN_RIGHT))
    return jnp.where(jnp.any(free), action, TURN_LEFT).astype(jnp.int32)
