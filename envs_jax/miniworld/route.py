"""The way from room to room: which doorway comes next, and where to cross it.

* Rooms are convex, so within a room the way is straight. Between rooms it is the shortest over the middles of
  doorways, known beforehand for fixed rooms and counted in steps on the grid for a maze.
* A doorway is crossed where the straight line to what follows would cross it, as far as the agent fits through.
"""

from __future__ import annotations

from functools import lru_cache

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from envs_jax.miniworld.layout import FixedPlan, inward
from envs_jax.miniworld.maze import MazePlan

_MARGIN = 0.6  # metres from the sides of a doorway: more than the agent's radius
_BEYOND = 0.35  # metres behind a doorway that are aimed at, so that it is crossed


def waypoint(
    plan: FixedPlan | MazePlan,
    passages: Bool[Array, " p"] | None,
    position: Float[Array, "3"],
    target: Float[Array, "3"],
    steps: Int[Array, " r"] | None = None,
) -> Float[Array, "3"]:
    """Where to go next: the target, if it is in the same room, else the next doorway.

    Args:
      plan, passages: the rooms, and which passages of a maze there are.
      position, target: of the agent and of what it goes to, metres.
      steps: of a maze, `plan.steps_to` the target's room, if known: it is the most of the work.
    """
    if isinstance(plan, MazePlan):
        if steps is None:
            steps = plan.steps_to(plan.cell(target), passages)
        return _through_maze(plan, passages, position, target, steps)
    if not plan.openings:
        return target
    return _through_doorways(plan, position, target)


def room_of(plan: FixedPlan, position: Float[Array, "3"]) -> Int[Array, ""]:
    """Number of the room that a position is in, or least outside of."""
    first, normal = (jnp.asarray(part, jnp.float32) for part in _edges(plan))
    depth = jnp.sum(normal * (_flat(position) - first), axis=-1)  # [rooms, edges]
    return jnp.argmax(jnp.min(depth, axis=1)).astype(jnp.int32)


def jambs(plan: FixedPlan) -> np.ndarray:
    """float32[2 D, 3], both sides of all doorways, metres."""
    ends = plan.doorways[0].reshape(-1, 2)
    return np.stack([ends[:, 0], np.zeros(len(ends), np.float32), ends[:, 1]], axis=-1)


def _flat(position: Float[Array, "3"]) -> Float[Array, "2"]:
    return jnp.stack([position[0], position[2]])


def _upright(xz: Float[Array, "2"]) -> Float[Array, "3"]:
    return jnp.stack([xz[0], jnp.zeros_like(xz[0]), xz[1]])


@lru_cache(maxsize=64)
def _edges(plan: FixedPlan) -> tuple[np.ndarray, np.ndarray]:
    """First corners and inward normals of every room's edges, [rooms, 4, 2]; a triangle's last edge twice."""
    firsts, normals = [], []
    for room in plan.all_rooms:
        corners = np.array(room.outline)
        along = np.roll(corners, -1, axis=0) - corners
        along /= np.linalg.norm(along, axis=1, keepdims=True)
        rows = [*range(len(corners)), len(corners) - 1][:4]
        firsts.append(corners[rows])
        normals.append(inward(along)[rows])
    return np.array(firsts), np.array(normals)


@lru_cache(maxsize=64)
def _doors(plan: FixedPlan) -> tuple[np.ndarray, ...]:
    """Middles [D, 2], metres between them [D, D], the doorway that follows on the shortest way [D, D], normals
    from the first room to the second [D, 2], and at[D, rooms], whether a doorway is one of a room."""
    lines, a, b = plan.doorways
    middle = lines.mean(axis=1)
    centres = np.array([np.mean(room.outline, axis=0) for room in plan.all_rooms])
    along = lines[:, 1] - lines[:, 0]
    normal = np.stack([along[:, 1], -along[:, 0]], axis=1) / np.linalg.norm(along, axis=1, keepdims=True)
    normal *= np.sign(np.sum(normal * (centres[b] - centres[a]), axis=1, keepdims=True))
    shared = (a[:, None] == a) | (a[:, None] == b) | (b[:, None] == a) | (b[:, None] == b)
    metres = np.where(shared, np.linalg.norm(middle[:, None] - middle, axis=-1), np.inf)
    count = len(middle)
    follows = np.tile(np.arange(count), (count, 1))
    for via in range(count):  # Floyd and Warshall's
        detour = metres[:, via, None] + metres[None, via]
        follows = np.where(detour < metres, follows[:, via, None], follows)
        metres = np.minimum(metres, detour)
    at = (np.arange(len(centres)) == a[:, None]) | (np.arange(len(centres)) == b[:, None])
    return middle, metres, follows.astype(np.int32), normal, at


def _through_doorways(plan: FixedPlan, position, target) -> Float[Array, "3"]:
    middle, metres, follows, normal, at = (jnp.asarray(part) for part in _doors(plan))
    lines, a, _ = (jnp.asarray(part) for part in plan.doorways)
    here, there = room_of(plan, position), room_of(plan, target)
    start, goal = _flat(position), _flat(target)
    to_first = jnp.where(at[:, here], jnp.sqrt(jnp.sum((middle - start) ** 2, axis=-1)), jnp.inf)
    from_last = jnp.where(at[:, there], jnp.sqrt(jnp.sum((middle - goal) ** 2, axis=-1)), jnp.inf)
    whole = to_first[:, None] + metres + from_last[None, :]  # [first doorway, last doorway]
    best = jnp.argmin(whole)
    first, last = best // len(middle), best % len(middle)
    after = jnp.where(first == last, goal, middle[follows[first, last]])
    out = jnp.where(a[first] == here, 1.0, -1.0) * normal[first]
    point = _crossing(start, after, lines[first, 0], lines[first, 1]) + _BEYOND * out
    return jnp.where(here == there, target, _upright(point))


def _through_maze(plan: MazePlan, passages, position, target, steps) -> Float[Array, "3"]:
    rooms, pairs = (jnp.asarray(table) for table in plan.neighbours)
    here, there = plan.cell(position), plan.cell(target)

    def exit_of(room):
        """The edge that leads on from a room, the room beyond, and the middle of the gap between."""
        is_open = (rooms[room] >= 0) & passages[jnp.maximum(pairs[room], 0)]
        beyond = jnp.where(is_open, steps[jnp.maximum(rooms[room], 0)], plan.count + 1)
        edge = jnp.argmin(beyond)
        low, high = (jnp.asarray(part, jnp.float32)[pairs[room, edge]] for part in plan.passages)
        return edge, rooms[room, edge], (low + high) / 2

    edge, beyond, middle = exit_of(here)
    after = jnp.where(beyond == there, _flat(target), exit_of(beyond)[2])
    out = jnp.array([[1, 0], [0, -1], [-1, 0], [0, 1]], jnp.float32)[edge]
    along = jnp.stack([out[1], -out[0]]) * (plan.side / 2)
    point = _crossing(_flat(position), after, middle - along, middle + along) + (_BEYOND + plan.gap / 2) * out
    return jnp.where(here == there, target, _upright(point))


def _crossing(start, after, one, other) -> Float[Array, "2"]:
    """The point between the ends of a doorway, _MARGIN from both, that is nearest to the line start -> after."""
    along = other - one
    length = jnp.sqrt(jnp.sum(along**2))
    along = along / length
    across = jnp.stack([along[1], -along[0]])
    near, far = jnp.sum((start - one) * across), jnp.sum((after - one) * across)
    # The line's share where it meets the doorway's; beside it where both are on one side.
    gap = near - far
    share = jnp.clip(near / jnp.where(jnp.abs(gap) < 1e-6, 1.0, gap), 0.0, 1.0)
    meets = jnp.sum((start + share * (after - start) - one) * along)
    margin = jnp.minimum(_MARGIN, length / 2)
    return one + jnp.clip(meets, margin, length - margin) * along
