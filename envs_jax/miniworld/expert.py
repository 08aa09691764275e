"""Scripted ways to a place: straight to it past walls, or round the things that stand about.

* Turns come in fixed steps, so the headings that can be reached form a fixed set that does not depend on which
  of them the agent has now: the best of them stays the best while it turns. The heading it has is kept a little
  longer than it is the best (KEEP). So it never swings to and fro.
* A heading whose step would be rejected is not a candidate, so walls beside the way are got round. One that it
  would have to turn to must also be clear of walls a metre on; else, along a wall, it would turn at every step.
* Among things `detour` finds the next corner on the way, and `follow` goes there.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
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

_CORNERS = 8  # points around a thing that a way may bend at
_APART = 0.12  # metres that ways keep from things
_TIGHT = 0.03  # metres to both sides without which a gap is no way: steps and turns have their size
_SWEEPS = 5  # a way has at most so many bends and one more
_BLOCKED = 20.0  # metres longer that a way counts that meets something
_REACHED = 0.1  # metres
_JAMB = 1e-3  # metres, radius of the end of a wall


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


def face(
    agent: Agent, position: Float[Array, "3"], turn_degrees: float | int
) -> tuple[Int[Array, ""], Bool[Array, ""]]:
    """The turn towards a position, and whether none is needed: it is ahead within KEEP of a turn."""
    angle = bearing(agent, position)
    ahead = jnp.abs(angle) <= KEEP * math.radians(turn_degrees)
    return jnp.where(angle > 0, TURN_LEFT, TURN_RIGHT).astype(jnp.int32), ahead


def detour(
    start: Float[Array, "3"],
    position: Float[Array, "3"],
    walls: Walls,
    centres: Float[Array, "n 3"],
    radii: Float[Array, " n"],
    radius: Float[Array, ""] | float = AGENT_RADIUS,
    jambs: np.ndarray | None = None,
) -> Float[Array, "3"]:
    """The next corner of the shortest way to a position, past things and through doorways.

    Corners are _CORNERS points around each thing and each jamb; ways between them that meet no thing have their
    lengths, and the shortest whole way is found in _SWEEPS rounds. Where things leave no way, it meets the fewest:
    meeting one counts as _BLOCKED metres.

    Args:
      start, position: from where to where, metres; in the same convex room if no jambs are given.
      walls: corners too near to them are left out, and with jambs ways that cross them.
      centres, radii: circles that are in the way, metres; a radius under 0 is none.
      radius: of what moves, metres.
      jambs: float32[J, 3], both sides of all doorways, of fixed rooms: what lies in a doorway or close behind it
        is in the way, too, from another room.
    """
    if jambs is not None:
        centres = jnp.concatenate([centres, jnp.asarray(jambs)])
        radii = jnp.concatenate([radii, jnp.full(len(jambs), _JAMB)])
    angles = 2 * math.pi * jnp.arange(_CORNERS) / _CORNERS
    away = (radii + radius + _APART) / math.cos(math.pi / _CORNERS)  # so that ways along the edges are clear
    corners = (centres[:, None] + away[:, None, None] * direction(angles)) * jnp.array([1.0, 0.0, 1.0])
    open_ = jax.vmap(lambda corner: wall_clearance(corner, radius, walls) >= 0)(corners.reshape(-1, 3))
    open_ &= jnp.repeat(radii > 0, _CORNERS)
    nodes = jnp.concatenate([position[None], corners.reshape(-1, 3)])
    usable = jnp.concatenate([jnp.ones(1, bool), open_])

    def lengths(one, tight):
        """From a point to every node, past things by more than `tight` metres, or than they are away already."""
        along = nodes - one
        squared = jnp.sum(along**2, axis=-1)
        share = jnp.sum((centres - one) * along[:, None], axis=-1) / jnp.maximum(squared, 1e-9)[:, None]
        foot = one + jnp.clip(share, 0.0, 1.0)[..., None] * along[:, None]
        gap = jnp.sqrt(jnp.sum((foot - centres) ** 2, axis=-1)) - (radii + radius)
        tight = jnp.minimum(jnp.sqrt(jnp.sum((one - centres) ** 2, axis=-1)) - (radii + radius) - 1e-4, tight)
        meets = jnp.any((gap < tight) & (radii > 0), axis=-1)
        able = usable if jambs is None else usable & ~jax.vmap(lambda node: _walled(one, node, walls))(nodes)
        return jnp.where(able, jnp.sqrt(squared) + jnp.where(meets, _BLOCKED, 0.0), jnp.inf)

    between = jax.vmap(lambda node: lengths(node, _TIGHT))(nodes)
    far = between[:, 0].at[0].set(0.0)  # from every node to the position
    for _ in range(_SWEEPS if jambs is None else 2 * _SWEEPS):
        far = jnp.minimum(far, jnp.min(between + far, axis=1))
    # A corner that is reached already is no way on.
    first = lengths(start, 0.0)
    first = jnp.where((first < _REACHED) & (jnp.arange(len(nodes)) > 0), jnp.inf, first)
    return nodes[jnp.argmin(first + far)]


def _walled(one: Float[Array, "3"], other: Float[Array, "3"], walls: Walls) -> Bool[Array, ""]:
    """Whether a wall that stands on the ground crosses the line from one point to another."""

    def side(first, second, point):
        along, to = second - first, point - first
        return along[..., 0] * to[..., 1] - along[..., 1] * to[..., 0]

    a, b = one[jnp.array([0, 2])], other[jnp.array([0, 2])]
    parted = side(walls.start, walls.end, a) * side(walls.start, walls.end, b) < 0
    parted &= side(a, b, walls.start) * side(a, b, walls.end) < 0
    return jnp.any(parted & walls.exists & (walls.low == 0))


def follow(
    agent: Agent,
    position: Float[Array, "3"],
    turn_degrees: float | int,
    may_go: Bool[Array, " headings"],
) -> Int[Array, ""]:
    """`go_to` with given free headings (see `headings`): the one that misses a position least."""
    turns, angles = _headings(turn_degrees)
    bonus = (2 * KEEP - 1) * math.radians(turn_degrees)
    miss = jnp.abs(wrap(bearing(agent, position) - angles)) - jnp.where(turns == 0, bonus, 0.0)
    best = turns[jnp.argmin(jnp.where(may_go, miss, jnp.inf))]
    return jnp.where(jnp.any(may_go), _towards(best), TURN_LEFT).astype(jnp.int32)


def headings(agent: Agent, turn_degrees: float | int) -> Float[Array, " h"]:
    """The yaws that turning can reach, radians, in the order of `follow`'s `may_go`; the present in the middle."""
    return agent.yaw + _headings(turn_degrees)[1]


def _headings(turn_degrees: float | int) -> tuple[Int[Array, " h"], Float[Array, " h"]]:
    """Numbers of turns to the left, and their angles."""
    count = round(360 / turn_degrees)
    # Worked example, 90 degrees: turns = [-2, -1, 0, 1] quarter turns to the left.
    turns = jnp.arange(count, dtype=jnp.int32) - count // 2
    return turns, turns * math.radians(turn_degrees)


def _towards(turns: Int[Array, ""]) -> Int[Array, ""]:
    return jnp.where(turns == 0, MOVE_FORWARD, jnp.where(turns > 0, TURN_LEFT, TURN_RIGHT))
