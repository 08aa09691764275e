"""What an expert does on the table: it plans the pusher's way on a grid, behind a puck and around the rest.

* The pusher is put down on cells of `LATTICE`. The cost of a cell is the number of actions that lead from it to a
  cell where the work goes on: a pad to be reached, or behind a puck on the side from which it is to be pushed.
* Costs are found by relaxation, `SWEEPS` times over the whole grid. A cell in which the pusher would touch a puck
  costs `TOUCH` more, one in which it would be in a wall may not be entered.
* Once behind the puck, with its middle in line, the pusher pushes, until that side of the way is done.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from envs_jax.physics import table
from envs_jax.physics.words import LATTICE, LONG, SHORT, VECTORS

REACH = math.floor(table.PUSHER_LIMIT / LATTICE)  # cells from the middle to the last one
CELLS = 2 * REACH + 1
SWEEPS, TOUCH, FAR, CLUTTER = 32, 8.0, 1e4, 10.0
BEHIND = table.CRADLE + 0.004  # metres from puck to pusher, at least, where it gets in line
IN_LINE, CLOSE = 0.02, 0.045  # metres, aside and along, within which a push may begin
DONE = 0.035  # metres, along one axis

_CENTRES = ((np.arange(CELLS) - REACH) * LATTICE).astype(np.float32)
_FINGERS = table.FINGER_OFFSET * np.array([(-1, -1), (-1, 1), (1, -1), (1, 1)], np.float32)
MOVES = tuple((direction, LONG) for direction in range(4)) + tuple((direction, SHORT) for direction in range(4))


def cell_of(place: Float[Array, "2"]) -> Int[Array, "2"]:
    """Column and row of the cell nearest to a place in metres."""
    return jnp.clip(jnp.round(place / LATTICE), -REACH, REACH).astype(jnp.int32) + REACH


def in_wall(place: Float[Array, "... 2"], walls: Float[Array, "w 2"], margin: float = 0.002) -> Bool[Array, "..."]:
    """Whether a pusher there would stand in a wall, or nearer to it than `margin` metres."""
    fingers = place[..., None, None, :] + jnp.asarray(_FINGERS)[:, None]  # [..., 4, 1, 2]
    away = jnp.abs(fingers - walls)  # [..., 4, W, 2]
    over = jnp.maximum(away[..., 0] - table.WALL_LENGTH / 2, 0.0)
    near = jnp.hypot(over, away[..., 1]) < table.WALL_RADIUS + table.FINGER_RADIUS + margin
    return jnp.any(near, axis=(-2, -1))


def on_puck(place: Float[Array, "... 2"], pucks: Float[Array, "n 2"]) -> Bool[Array, "..."]:
    """Whether a pusher there would touch a puck."""
    fingers = place[..., None, None, :] + jnp.asarray(_FINGERS)[:, None]
    away = jnp.sqrt(jnp.sum((fingers - pucks) ** 2, axis=-1))
    return jnp.any(away < table.PUCK_RADIUS + table.FINGER_RADIUS + 0.003, axis=(-2, -1))


def costs(
    seeds: Float[Array, "c c"], pucks: Float[Array, "n 2"], walls: Float[Array, "w 2"]
) -> tuple[Float[Array, "c c"], Float[Array, "8 c c"]]:
    """Actions from each cell to a seed, and the same through each of the eight moves; [column, row].

    Args:
      seeds: what remains to be done at a cell once it is reached, `FAR` where nothing can be.
    """
    places = jnp.stack(jnp.meshgrid(_CENTRES, _CENTRES, indexing="ij"), axis=-1)
    enter = jnp.where(in_wall(places, walls), FAR, jnp.where(on_puck(places, pucks), TOUCH, 0.0))

    def shifted(grid, direction, cells):
        """The grid as seen from cells further on; `FAR` outside."""
        x, y = (int(part) * cells for part in VECTORS[direction])
        padded = jnp.pad(grid, LONG, constant_values=FAR)
        return jax.lax.dynamic_slice(padded, (LONG + x, LONG + y), (CELLS, CELLS))

    toll = jnp.stack([1 + sum(shifted(enter, d, k) for k in range(1, cells + 1)) for d, cells in MOVES])

    def through(cost):
        return toll + jnp.stack([shifted(cost, d, cells) for d, cells in MOVES])

    def sweep(_, cost):
        return jnp.minimum(cost, jnp.min(through(cost), axis=0))

    cost = jax.lax.fori_loop(0, SWEEPS, sweep, seeds)
    return cost, through(cost)


def reach(
    pusher: Float[Array, "2"], pad: Float[Array, "2"], walls: Float[Array, "w 2"]
) -> tuple[Int[Array, ""], Bool[Array, ""]]:
    """The next action towards a pad; never a push."""
    column, row = cell_of(pad)
    seeds = jnp.full((CELLS, CELLS), FAR).at[column, row].set(0.0)
    return _best(seeds, pusher, jnp.zeros((0, 2)), walls)[0], jnp.bool_(False)


def clutter(
    pucks: Float[Array, "n 2"], which: Int[Array, ""], pad: Float[Array, "2"]
) -> tuple[Float[Array, "4"], Float[Array, "4"]]:
    """Metres that a puck has still to go in each direction, and what it costs that others are in the way.

    Another puck in the way of this one would be taken along.
    """
    ways = jnp.asarray(VECTORS, jnp.float32)
    left = ways @ (pad - pucks[which])
    other = pucks - pucks[which]
    along, aside = other @ ways.T, jnp.abs(other @ ways[:, ::-1].T)  # [n, 4]
    met = (along > 0) & (along < left + 2 * table.PUCK_RADIUS) & (aside < 2 * table.PUCK_RADIUS)
    return left, CLUTTER * jnp.sum(met & (jnp.arange(len(pucks)) != which)[:, None], axis=0)


def first(pucks: Float[Array, "n 2"], pads: Float[Array, "m 2"], home: Bool[Array, " m"]) -> Int[Array, ""]:
    """Which of the first m pucks to bring to its pad now: one not there yet, with a clear way if there is."""

    def cost(which, pad):
        left, extra = clutter(pucks, which, pad)
        # Of two that are alike, the one that has less way to go, so that what is begun is ended.
        return jnp.min(jnp.where(left > DONE, extra, FAR)) + jnp.sum(jnp.abs(left))

    each = jax.vmap(cost)(jnp.arange(len(pads)), pads)
    return jnp.argmin(jnp.where(home, 2 * FAR, each)).astype(jnp.int32)


def push(
    pusher: Float[Array, "2"],
    pucks: Float[Array, "n 2"],
    which: Int[Array, ""],
    pad: Float[Array, "2"],
    walls: Float[Array, "w 2"],
) -> tuple[Int[Array, ""], Bool[Array, ""]]:
    """The next action that brings a puck to a pad, and whether it is a push."""
    ways = jnp.asarray(VECTORS, jnp.float32)  # [4, 2]
    puck = pucks[which]
    left, extra = clutter(pucks, which, pad)
    useful = left > DONE

    # Cells behind the puck: whole cells in line with it, away from it.
    stages = (puck - ways * BEHIND) / LATTICE
    stages = jnp.where(ways > 0, jnp.floor(stages), jnp.where(ways < 0, jnp.ceil(stages), jnp.round(stages)))
    possible = useful & (jnp.max(jnp.abs(stages), axis=1) <= REACH + 1)  # the last cell does for the one beyond it

    rel = puck - pusher
    gap = ways @ rel - table.CRADLE  # [4]
    ready = (gap > -0.02) & (gap < CLOSE) & (jnp.abs(ways[:, ::-1] @ rel) < IN_LINE) & useful
    direction = jnp.argmin(jnp.where(ready, extra, FAR)).astype(jnp.int32)
    # A long push takes the puck LONG cells less the gap; it may end short of the goal or a little beyond it.
    long = left[direction] > LONG * LATTICE - gap[direction] - DONE
    pushed = jnp.where(long, direction, direction + 4)

    cells = jnp.clip(stages, -REACH, REACH).astype(jnp.int32) + REACH
    seeds = jnp.full((CELLS, CELLS), FAR)
    seeds = seeds.at[cells[:, 0], cells[:, 1]].min(jnp.where(possible, extra, FAR))
    walk, cost = _best(seeds, pusher, pucks, walls)
    pushing = jnp.any(ready) & (extra[direction] <= cost)
    return jnp.where(pushing, pushed, walk).astype(jnp.int32), pushing


def _best(seeds, pusher, pucks, walls) -> tuple[Int[Array, ""], Float[Array, ""]]:
    """The best move and its cost."""
    _, through = costs(seeds, pucks, walls)
    column, row = cell_of(pusher)
    here = through[:, column, row]
    return jnp.argmin(here).astype(jnp.int32), jnp.min(here)
