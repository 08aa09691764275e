"""Where things start: free places drawn at random, in a fixed number of draws.

MiniWorld draws a room with the chance of its area and a point in the room's bounds, widened by the radius of what
is placed, until the point is inside of the room and free. Under `jax.vmap` every world would wait for the slowest,
and a place may not exist; so a fixed number of places is drawn at once and the first free one is taken. Its
distribution is the same, uniform over the free places of each room, as long as one of the draws is free.

* Draws that can not be accepted are left out beforehand: what lies outside of the room, or nearer than the radius
  to a side that is one whole wall. A room's chance is lowered by the same share, so that nothing else changes.
* Where a draw is free with probability p, all fail with probability (1 - p) ** 32. Measured over 200 episodes a
  task, p is 0.55 or more in a maze (8e-12) and 0.75 or more elsewhere, but for the wide agent of RoomObjects: 0.58
  on average and 0.32 at the least (4e-6). A YMaze's arms lie askew in their bounds: p is 0.17 or more there, of
  160 draws (1e-13). Should all fail, the draw inside that overlaps least is taken: placing is total.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from envs_jax.miniworld.dynamics import clearance
from envs_jax.miniworld.entities import Entities
from envs_jax.miniworld.layout import FixedPlan, Range, Regions, inward
from envs_jax.miniworld.maze import MazePlan
from envs_jax.render.scene import Walls

CANDIDATES = 32
_CANDIDATES_ASKEW = 160  # where rooms are not rectangles along the axes


@dataclass(frozen=True)
class Where:
    """Where something may start. Several of them are alternatives, equally likely.

    Attributes:
      room: its number, or None for any room.
      x, z: limits of the centre that replace the room's own, None = the room's. As upstream both are then widened
        by the radius, also when a limit is not at a wall.
      at: exactly there, (x, z), free or not.
      yaw: range of the yaw, radians.
    """

    room: int | None = None
    x: tuple[float | None, float | None] = (None, None)
    z: tuple[float | None, float | None] = (None, None)
    at: Range | None = None
    yaw: Range = (-math.pi, math.pi)


def regions(plan: FixedPlan | MazePlan, wheres: tuple[Where, ...], radius: float) -> Regions:
    """The rectangles that places are drawn from.

    Args:
      plan: the rooms.
      wheres: alternatives, none of them exact.
      radius: the least that is to be placed, metres.
    """
    low, high, weight, outlines, group = [], [], [], [], []
    for number, where in enumerate(wheres):
        for index, room in enumerate(plan.all_rooms):
            if where.room not in (None, index):
                continue
            inside = np.array(room.bounds)
            limits = np.array([where.x, where.z], object).T  # [low or high, axis]
            wide = np.where(np.equal(limits, None), inside, limits).astype(float)
            wide += np.array([[-radius], [radius]])
            if isinstance(plan, FixedPlan) and room.rectangular:
                closed_low, closed_high = plan.closed_sides(index)
                inside = inside + radius * np.array([closed_low, -1.0 * closed_high])
            rect = np.array([np.maximum(wide[0], inside[0]), np.minimum(wide[1], inside[1])])
            if np.any(rect[1] <= rect[0]):
                continue
            area = np.prod(np.subtract(*room.bounds))
            low.append(rect[0])
            high.append(rect[1])
            weight.append(area * np.prod(rect[1] - rect[0]) / np.prod(wide[1] - wide[0]))
            outlines.append(room)
            group.append(number)
    askew = not all(room.rectangular for room in outlines)
    return Regions(
        low=np.array(low),
        high=np.array(high),
        weight=np.array(weight),
        outline=np.array([room.outline for room in outlines]) if askew else None,
        group=np.array(group),
    )


def place(
    key: PRNGKeyArray,
    among: Regions,
    radius: Float[Array, ""] | float,
    walls: Walls,
    entities: Entities,
    yaw: tuple[float, float] = (-math.pi, math.pi),
    exists: Float[Array, " m"] | np.ndarray | float = 1.0,
    obstacle: tuple[Float[Array, "3"], float] | None = None,
) -> tuple[Float[Array, "3"], Float[Array, ""]]:
    """A free place on the floor and a yaw, both uniform.

    Args:
      among: rectangles that the centre is drawn from, metres, within the rooms: walls are lines, they do not know
        an inside. Leaving out the margin of `radius` along them loses no draw.
      radius: of what is placed, metres.
      walls, entities: what it must not touch; entities that do not exist are ignored.
      yaw: range of the yaw, radians.
      exists: float32[M], 1 or 0: which of the rectangles there are.
      obstacle: position and radius of one more circle that it must not touch.

    Returns:
      (position float32[3] with y = 0, yaw float32[]).
    """
    count = CANDIDATES if among.outline is None else _CANDIDATES_ASKEW
    if len(among.low) == 1:
        place_key, yaw_key = jax.random.split(key)
        low, high, rows = among.low[0], among.high[0], np.zeros(count, np.int32)
    else:
        place_key, yaw_key, group_key, row_key = jax.random.split(key, 4)
        group = jax.random.randint(group_key, (), 0, among.group.max() + 1)
        chances = jnp.where(among.group == group, among.weight * exists, 0.0).astype(jnp.float32)
        rows = jax.random.categorical(row_key, jnp.log(chances), shape=(count,))
        low, high = jnp.asarray(among.low, jnp.float32)[rows], jnp.asarray(among.high, jnp.float32)[rows]
    low, high = jnp.asarray(low, jnp.float32), jnp.asarray(high, jnp.float32)
    xz = jax.random.uniform(place_key, (count, 2), jnp.float32, low, high)
    positions = jnp.stack([xz[:, 0], jnp.zeros(count, jnp.float32), xz[:, 1]], axis=-1)
    gaps = jax.vmap(lambda position: clearance(position, radius, walls, entities))(positions)
    if obstacle is not None:
        away = jnp.sqrt(jnp.sum((positions - obstacle[0]) ** 2, axis=-1)) - (radius + obstacle[1])
        gaps = jnp.minimum(gaps, away)
    if among.outline is not None:
        gaps = jnp.where(_inside(xz, among.outline, rows), gaps, -jnp.inf)
    free = gaps >= 0
    chosen = jnp.where(jnp.any(free), jnp.argmax(free), jnp.argmax(gaps))
    return positions[chosen], jax.random.uniform(yaw_key, (), jnp.float32, *yaw)


def _inside(xz: Float[Array, "k 2"], outlines: np.ndarray, rows: Array | np.ndarray) -> Array:
    """bool[k], whether each point is inside the convex outline of its row."""
    corners = outlines[:, :, :]
    along = np.roll(corners, -1, axis=1) - corners  # [M, E, 2]
    first, normal = jnp.asarray(corners, jnp.float32)[rows], jnp.asarray(inward(along), jnp.float32)[rows]
    return jnp.all(jnp.sum(normal * (xz[:, None] - first), axis=-1) > 0, axis=1)
