"""CollectHealth: stay alive by picking up health kits, which are put elsewhere and restore health to 100.

Each step costs 2 health and gives a reward of 2, the one in which health is used up -100 and ends the episode. So
it is upstream; whether an episode was a success is this project's reading: alive when time runs out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PRNGKeyArray

from envs_jax.miniworld import dynamics, handling, objects, thoughts
from envs_jax.miniworld.layout import FixedPlan, Room, rectangle
from envs_jax.miniworld.task import Task, shape
from envs_jax.world import Step

_FULL, _COST = 100, 2
# Of the expert: sooner than at this health it does not pick up a kit but waits beside it, as a kit serves for 50
# steps; and what the way from a kit to the next one counts.
_PICK_AT, _ONWARD = 8, 1.0
_WAIT = dynamics.ACTIONS.index("done")
_LEVELS = tuple(f"health {level}" for level in range(10, _FULL + 1, 10))


@dataclass(frozen=True)
class StayAlive:
    """Its memory is the health, int32[]."""

    draws = False
    phrases = (*thoughts.phrases("health kit"), *_LEVELS)

    def memory(self, world: Any, state: Any, key: PRNGKeyArray | None) -> Int[Array, ""]:
        """Full health."""
        return jnp.int32(_FULL)

    def judge(self, world: Any, before: Any, action: Int[Array, ""], after: Any) -> tuple[Any, Step]:
        """Replaces the kit that was picked up, and counts health."""
        key, place_key = jax.random.split(after.key)
        picked = after.carried >= 0
        elsewhere = world.replaced(place_key, after, after.carried)
        things = jax.tree.map(lambda new, old: jnp.where(picked, new, old), elsewhere, after.things)
        # Stops below 0: an episode may be stepped on.
        health = jnp.where(picked, _FULL, jnp.maximum(after.memory - _COST, -_COST))
        alive = health > 0
        after = after.replace(key=key, things=things, carried=jnp.int32(dynamics.NOTHING), memory=health)
        reward = jnp.where(alive, float(_COST), -float(_FULL))
        return after, world.outcome(after, reward, ~alive, alive & (after.steps >= world.max_steps))

    def expert(self, world: Any, state: Any, key: PRNGKeyArray) -> Int[Array, ""]:
        """Goes to a kit that has others around it, and picks it up when its health is nearly used up."""
        action = handling.fetch(world, state, self._target(world, state), state.things.exists, past=False)
        early = (action == dynamics.PICKUP) & (state.memory > _PICK_AT)
        return jnp.where(early, _WAIT, action).astype(jnp.int32)

    def describe(self, world: Any, state: Any) -> Int[Array, " n"]:
        """The health, in tens, rounded up: "health 90" from 82 to 90."""
        level = jnp.clip((state.memory + 9) // 10, 1, len(_LEVELS))
        return (len(self.phrases) - len(_LEVELS) - 1 + level)[None].astype(jnp.int32)

    def explain(self, world: Any, state: Any) -> Int[Array, " n"]:
        """Where the kit is that it goes to."""
        return objects.about(world, state, self._target(world, state), 1, 0)

    def _target(self, world, state):
        return handling.nearest(world, state, state.things.exists, onward=_ONWARD)


def collect_health(faithful: bool = False) -> Task:
    """Eighteen kits in a hall."""
    return Task(
        instruction="Pick up health kits to stay alive.",
        plan=FixedPlan((Room(rectangle((0.0, 0.0), (16.0, 16.0)), "cinder_blocks", "slime"),)),
        rule=StayAlive(),
        max_steps=1000,
        things=(shape("med_kit", 0.40),) * 18,
        actions=dynamics.ACTIONS,
    )
