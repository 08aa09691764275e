"""PutNext: six boxes, one of each colour; the red one is to stand next to the yellow one.

Solved in any step after which nothing is carried and the two are near each other, however that came about: as
upstream, one episode in a hundred starts solved.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, PRNGKeyArray

from envs_jax.miniworld import dynamics, handling, objects, thoughts
from envs_jax.miniworld.entities import COLOUR_NAMES, radii
from envs_jax.miniworld.layout import FixedPlan, Room, rectangle
from envs_jax.miniworld.task import Task, Thing
from envs_jax.world import Step

_RED, _YELLOW = COLOUR_NAMES.index("red"), COLOUR_NAMES.index("yellow")  # rows, too
_SURE = 0.01  # metres nearer than needed


@dataclass(frozen=True)
class PutNext:
    """See the module's docstring."""

    draws = False
    phrases = thoughts.phrases("red box", "yellow box")

    def memory(self, world: Any, state: Any, key: PRNGKeyArray | None) -> None:
        """Nothing."""
        return None

    def judge(self, world: Any, before: Any, action: Int[Array, ""], after: Any) -> tuple[Any, Step]:
        """The reward is that of every task solved; see `MiniWorld.solved`."""
        return after, world.solved(after, (after.carried < 0) & self._next_to(world, after, 0.0))

    def expert(self, world: Any, state: Any, key: PRNGKeyArray) -> Int[Array, ""]:
        """Fetches the one of the two that has less room around it, brings it to the other and drops it."""
        rows = jnp.arange(len(COLOUR_NAMES))
        first = self._first(world, state)
        fetch = handling.fetch(world, state, first, rows == first)
        bring = handling.bring(world, state, first, _RED + _YELLOW - first, key)
        there = self._next_to(world, state, _SURE)
        carrying = jnp.where((state.carried != first) | there, dynamics.DROP, bring)
        return jnp.where(state.carried < 0, fetch, carrying).astype(jnp.int32)

    def _first(self, world: Any, state: Any) -> Int[Array, ""]:
        """Row of the box that is carried or to be carried, the red or the yellow one."""
        things = state.things
        others = things.replace(exists=things.exists & (jnp.arange(len(COLOUR_NAMES)) != _RED))
        others = others.replace(exists=others.exists & (jnp.arange(len(COLOUR_NAMES)) != _YELLOW))
        room = [
            dynamics.clearance(things.position[row], 0.0, world.walls(state), others) for row in (_RED, _YELLOW)
        ]
        free = jnp.where(room[0] <= room[1], _RED, _YELLOW)
        held = (state.carried == _RED) | (state.carried == _YELLOW)
        return jnp.where(held, state.carried, free).astype(jnp.int32)

    def describe(self, world: Any, state: Any) -> Int[Array, " n"]:
        """Nothing: all is to be seen."""
        return jnp.full(1, -1, jnp.int32)

    def explain(self, world: Any, state: Any) -> Int[Array, " n"]:
        """Where the box is that is to be fetched, or with it in hand where the other one is."""
        first = self._first(world, state)
        row = jnp.where(state.carried == first, _RED + _YELLOW - first, first)
        return objects.about(world, state, row, 2, (row == _YELLOW).astype(jnp.int32))

    def _next_to(self, world: Any, state: Any, margin: float) -> Bool[Array, ""]:
        """Whether the two would be near each other on the floor, by a margin in metres."""
        flat = state.things.position * jnp.array([1.0, 0.0, 1.0], jnp.float32)
        radius = radii(state.things)
        return dynamics.near(flat[_RED], radius[_RED] - margin, flat[_YELLOW], radius[_YELLOW], world.body.reach)


def put_next(faithful: bool = False) -> Task:
    """Six boxes in a room."""
    return Task(
        instruction="Put the red box next to the yellow box.",
        plan=FixedPlan((Room(rectangle((0.0, 0.0), (12.0, 12.0))),)),
        rule=PutNext(),
        max_steps=250,
        things=tuple(Thing((("box", 0.6, 0.85),), (colour,)) for colour in COLOUR_NAMES),
        actions=dynamics.ACTIONS,
    )
