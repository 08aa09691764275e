"""PutNext: six boxes, one of each colour; the red one is to stand next to the yellow one.

Solved in any step after which nothing is carried and the two are near each other, however that came about: as
upstream, one episode in fifty starts solved.
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
        """Fetches the red box, brings it to the yellow one and drops it."""
        rows = jnp.arange(len(COLOUR_NAMES))
        fetch = handling.fetch(world, state, jnp.int32(_RED), rows == _RED)
        bring = handling.bring(
            world, state, _RED, state.things.position[_YELLOW], (rows == _RED) | (rows == _YELLOW)
        )
        there = self._next_to(world, state, _SURE)
        carrying = jnp.where((state.carried != _RED) | there, dynamics.DROP, bring)
        return jnp.where(state.carried < 0, fetch, carrying).astype(jnp.int32)

    def describe(self, world: Any, state: Any) -> Int[Array, " n"]:
        """Nothing: all is to be seen."""
        return jnp.full(1, -1, jnp.int32)

    def explain(self, world: Any, state: Any) -> Int[Array, " n"]:
        """Where the red box is, or with it in hand where the yellow one is."""
        noun = (state.carried == _RED).astype(jnp.int32)
        return objects.about(world, state, jnp.where(noun == 1, _YELLOW, _RED), 2, noun)

    def _next_to(self, world: Any, state: Any, margin: float) -> Bool[Array, ""]:
        """Whether the two would be near each other on the floor, by a margin in metres."""
        flat = state.things.position * jnp.array([1.0, 0.0, 1.0], jnp.float32)
        radius = radii(state.things)
        return dynamics.near(
            flat[_RED], radius[_RED] - margin, flat[_YELLOW], radius[_YELLOW], world.body.reach
        )


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
