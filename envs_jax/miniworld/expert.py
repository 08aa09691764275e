"""Scripted ways to a place: straight to it past walls, or round the things that stand about.

* Turns come in fixed steps, so the headings that can be reached form a fixed set that does not depend on which
  of them the agent has now: the best of them stays the best while it turns. The heading it has is kept a little
  longer than it is the best (KEEP). So it never swings to and fro.
* A heading whose step would be rejected is not a candidate, so walls beside the way are got round. One that it
  would have to turn to must also be clear of walls a metre on; else, along a wall, it would turn at every step.
* Among things `go_round` compares all ways with one bend, counted in actions.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from envs_jax.miniworld.dynamics import (
    AGENT_RADIUS,
    MOVE_FORWARD,
    TURN_LEFT,
    TURN_RIGHT,
    Agent,
    bearing,
    direction,
    moved,
    turned,
    wall_clearance,
    wrap,
)
from envs_jax.miniworld.entities import Entities
from envs_jax.render.scene import Walls

# It keeps its heading while that misses by up to this share of a turn. Of two headings to both sides of the way
# one misses by half a turn or less; at exactly half it would take them in turns.
KEEP = 0.6
_OUTLOOK = 1.0  # metres

_LEGS = tuple(0.5 * n for n in range(1, 13))  # metres that go_round may go before its bend
_SLACK = 0.02  # metres that it keeps from things on its first leg, on top of what collides
_BLOCKED = 4.0  # metres that a second leg which meets something counts more


def go_to(
    agent: Agent,
    position: Float[Array, "3"],
    forward_step: float | int,
    turn_degrees: float | int,
    walls: Walls,
    entities: Entities,
    radius: float = AGENT_RADIUS,
) -> Int[Array, ""]:
    """The next action on the way to a position in sight or out of it, with no wall between.

    Args:
      forward_step: metres.
      turn_degrees: degrees, a divisor of 360.
      radius: of the agent, metres.

    Returns:
      int32[], one of TURN_LEFT, TURN_RIGHT, MOVE_FORWARD. With every heading blocked, TURN_LEFT.
    """
    turns, angles = _headings(turn_degrees)
    headings = jax.vmap(lambda angle: turned(agent, angle))(angles)
    free = jax.vmap(lambda heading: moved(heading, forward_step, walls, entities, radius)[1])(headings)
    gaps = jax.vmap(
        lambda heading: wall_clearance(heading.position + _OUTLOOK * direction(heading.yaw), radius, walls)
    )(headings)
    good = free & ((gaps >= 0) | (turns == 0))
    candidates = jnp.where(jnp.any(good), good, free)
    # Ahead misses by k turns and its neighbour by 1 - k: ahead is taken while k - bonus <= 1 - k.
    bonus = (2 * KEEP - 1) * math.radians(turn_degrees)
    miss = jnp.abs(wrap(bearing(agent, position) - angles)) - jnp.where(turns == 0, bonus, 0.0)
    best = turns[jnp.argmin(jnp.where(candidates, miss, jnp.inf))]
    return jnp.where(jnp.any(free), _towards(best), TURN_LEFT).astype(jnp.int32)


def face(agent: Agent, position: Float[Array, "3"], turn_degrees: float | int) -> tuple[Int[Array, ""], Bool[Array, ""]]:
    """The turn towards a position, and whether none is needed: it is ahead within KEEP of a turn."""
    angle = bearing(agent, position)
    ahead = jnp.abs(angle) <= KEEP * math.radians(turn_degrees)
    return jnp.where(angle > 0, TURN_LEFT, TURN_RIGHT).astype(jnp.int32), ahead


def go_round(
    agent: Agent,
    position: Float[Array, "3"],
    forward_step: float | int,
    turn_degrees: float | int,
    walls: Walls,
    centres: Float[Array, "n 3"],
    radii: Float[Array, " n"],
    may_go: Bool[Array, " headings"],
    ahead: Float[Array, ""] | float = 0.0,
    radius: Float[Array, ""] | float = AGENT_RADIUS,
) -> Int[Array, ""]:
    """The next action on the best way with one bend: turn, go, turn, go to the position.

    Args:
      position: to go to, metres, in the same convex room.
      forward_step, turn_degrees: metres and degrees of an action.
      centres, radii: circles that are in the way, metres; a radius under 0 is none.
      may_go: for each heading (see `headings`), whether its first step would be made and it can be turned to.
      ahead: metres before the agent that are carried along.
      radius: of what moves, metres.

    Returns:
      int32[], one of TURN_LEFT, TURN_RIGHT, MOVE_FORWARD. With every heading blocked, TURN_LEFT.
    """
    turns, angles = _headings(turn_degrees)
    turn = math.radians(turn_degrees)
    ways = direction(agent.yaw + angles)  # [H, 3]
    legs = jnp.array(_LEGS, jnp.float32)
    bends = agent.position + legs[None, :, None] * ways[:, None, :]  # [H, L, 3]
    reaches = bends + ahead * ways[:, None, :]
    away = jax.vmap(jax.vmap(lambda place: wall_clearance(place, radius, walls)))(reaches) >= 0
    away = jnp.cumprod(away.astype(jnp.int32), axis=1) > 0  # no wall before, either

    def meets(start, end, slack):
        """Whether the strip from start to end [..., 3] meets a circle."""
        along = end - start
        share = jnp.sum((centres - start[..., None, :]) * along[..., None, :], axis=-1)
        share = jnp.clip(share / jnp.maximum(jnp.sum(along**2, axis=-1, keepdims=True), 1e-9), 0.0, 1.0)
        foot = start[..., None, :] + share[..., None] * along[..., None, :]
        gap = jnp.sqrt(jnp.sum((foot - centres) ** 2, axis=-1)) - (radii + radius + slack)
        return jnp.any((gap < 0) & (radii > 0), axis=-1)

    first = meets(jnp.broadcast_to(agent.position, reaches.shape), reaches, _SLACK)
    second = meets(bends, jnp.broadcast_to(position, bends.shape), 0.0)
    rest = position - bends
    metres = jnp.sqrt(jnp.sum(rest**2, axis=-1))
    bend = jnp.abs(wrap(jnp.arctan2(-rest[..., 2], rest[..., 0]) - (agent.yaw + angles)[:, None])) / turn
    cost = forward_step * (jnp.abs(turns)[:, None] + bend) + legs + metres + _BLOCKED * second
    fine = may_go[:, None] & away & ~first
    # Straight there counts as a way, too: its leg ends where the position is.
    straight = jnp.sqrt(jnp.sum((position - agent.position) ** 2))
    miss = jnp.abs(wrap(bearing(agent, position) - angles)) / turn
    blocked = meets(agent.position[None], position[None], 0.0)[0]
    direct = forward_step * (jnp.abs(turns) + miss) + straight + _BLOCKED * blocked
    direct = jnp.where(may_go & (miss <= KEEP), direct, jnp.inf)
    best_bend = jnp.min(jnp.where(fine, cost, jnp.inf), axis=1)
    best = jnp.minimum(best_bend, direct)
    # Nothing planned is possible: take the free heading that misses least.
    greedy = jnp.where(may_go, miss, jnp.inf)
    chosen = jnp.where(jnp.any(jnp.isfinite(best)), jnp.argmin(best), jnp.argmin(greedy))
    return jnp.where(jnp.any(may_go), _towards(turns[chosen]), TURN_LEFT).astype(jnp.int32)


def headings(agent: Agent, turn_degrees: float | int) -> Float[Array, " h"]:
    """The yaws that turning can reach, radians, in the order of `go_round`'s `may_go`; the middle one is the present."""
    return agent.yaw + _headings(turn_degrees)[1]


def _headings(turn_degrees: float | int) -> tuple[Int[Array, " h"], Float[Array, " h"]]:
    """Numbers of turns to the left, and their angles."""
    count = round(360 / turn_degrees)
    # Worked example, 90 degrees: turns = [-2, -1, 0, 1] quarter turns to the left.
    turns = jnp.arange(count, dtype=jnp.int32) - count // 2
    return turns, turns * math.radians(turn_degrees)


def _towards(turns: Int[Array, ""]) -> Int[Array, ""]:
    return jnp.where(turns == 0, MOVE_FORWARD, jnp.where(turns > 0, TURN_LEFT, TURN_RIGHT))
