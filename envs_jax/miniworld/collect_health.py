"""CollectHealth: stay alive by picking up health kits, which are put elsewhere and restore health to 100.

Each step costs 2 health and gives a reward of 2, the one in which health is used up -100 and ends the episode. So
it is upstream; whether an episode was a success is this project's reading: alive when time runs out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from envs_jax.miniworld import dynamics, handling, objects, thoughts
from envs_jax.miniworld.layout import FixedPlan, Room, rectangle
from envs_jax.miniworld.task import Task, shape
from envs_jax.world import Step

_FULL, _COST = 100, 2
# Of the expert, in actions: a kit serves for _SERVES and picking it up, so with more than the _LAST of its health
# it waits beside the kit; chances are even at _SPARE actions to spare; _TURNS turns: between two ways, on average.
_SERVES, _LAST, _SPARE, _TURNS = _FULL // _COST - 1, _COST, 2.0, 6.0
_ASIDE, _FROM_ELSEWHERE = 3.0, 8.0  # actions that a kit in the way and one to be come at from elsewhere take more
_COMES_BACK = 0.3  # chance that a kit that was picked up comes back in reach
_HASTE = 0.002  # what an action weighs where chances are alike
_REACH = 1.3  # metres from which a kit is picked up
_KIT_RADIUS = 0.26  # metres, a little more than it is
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
        """Goes to a kit that has others around it, and picks it up with the last of its health."""
        target, last = self._target(world, state), state.memory <= _LAST
        any_of = state.things.exists & (last | (jnp.arange(len(state.things.size)) == target))
        action = handling.fetch(world, state, target, any_of, past=False)
        return jnp.where((action == dynamics.PICKUP) & ~last, _WAIT, action).astype(jnp.int32)

    def describe(self, world: Any, state: Any) -> Int[Array, " n"]:
        """The health, in tens, rounded up: "health 90" from 82 to 90."""
        level = jnp.clip((state.memory + 9) // 10, 1, len(_LEVELS))
        return (len(self.phrases) - len(_LEVELS) - 1 + level)[None].astype(jnp.int32)

    def explain(self, world: Any, state: Any) -> Int[Array, " n"]:
        """Where the kit is that it goes to."""
        return objects.about(world, state, self._target(world, state), 1, 0)

    def _target(self, world, state):
        """The kit with the best chance to live on: that it is reached in time, then another, then a third.

        Kits do not get fewer but those around do, and one that is picked up comes back anywhere; so what is near
        and lies apart from the others is a dead end. Chances are soft steps of how many actions are to spare.
        """
        kits, agent, count = state.things.position, state.agent, len(state.things.size)
        here = _actions(world, state, agent)
        crossed = jax.vmap(lambda kit: _passed(agent.position, kit, kits))(kits)
        surely = _chance(state.memory / _COST - 1.0 - here - _ASIDE * crossed)
        # Beside each kit, looking at it, as it will be reached.
        away = jax.vmap(lambda kit: dynamics.bearing(agent.replace(yaw=jnp.float32(0.0)), kit))(kits)
        beside = dynamics.Agent(kits - _REACH * dynamics.direction(away), away)
        onward = jax.vmap(lambda there: _actions(world, state, there))(beside)
        others = 1.0 - jnp.eye(count)
        second = others * _chance(_SERVES - onward)
        metres = dynamics.distance(kits[:, None], kits[None])
        third = others * _chance(_SERVES - _TURNS - jnp.maximum(metres - _REACH, 0.0) / world.forward_step)
        # fails[a, b]: that from b, a being used up, no other is reached, and neither is the one that comes back.
        fails = (1.0 - _COMES_BACK) * jnp.prod(1.0 - third, axis=1)[None] / (1.0 - third)
        lives = 1.0 - (1.0 - _COMES_BACK) * jnp.prod(1.0 - second * (1.0 - fails), axis=1)
        value = jnp.log(surely) + jnp.log(lives) - _HASTE * here
        return jnp.argmax(value).astype(jnp.int32)


def _chance(spare: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """Of reaching something with so many actions to spare; within (0, 1)."""
    return jnp.clip(jax.nn.sigmoid(spare - _SPARE), 1e-9, 1.0 - 1e-4)


def _actions(world: Any, state: Any, agent: dynamics.Agent) -> Float[Array, " n"]:
    """About how many turns and steps it takes from an agent's place until each kit is in reach.

    A pickup tests a circle before the agent and a wall must not be in it; else the kit is come at from elsewhere.
    """
    kits, walls = state.things.position, world.walls(state)
    metres = dynamics.distance(kits, agent.position)
    towards = (kits - agent.position) / jnp.maximum(metres, 1e-6)[:, None]
    turns = jnp.abs(jax.vmap(lambda kit: dynamics.bearing(agent, kit))(kits)) / world.usual_motion.turn
    tested = kits - (_REACH - 1.5 * world.body.radius) * towards
    gap = jax.vmap(lambda place: dynamics.wall_clearance(place, 1.2 * world.body.radius, walls))(tested)
    steps = jnp.maximum(metres - _REACH, 0.0) / world.forward_step
    return jnp.round(turns) + steps + _FROM_ELSEWHERE * (gap < 0)


def _passed(start: Float[Array, "3"], end: Float[Array, "3"], kits: Float[Array, "n 3"]) -> Float[Array, ""]:
    """How many kits stand in the way from one place to another."""
    along = end - start
    share = jnp.sum((kits - start) * along, axis=-1) / jnp.maximum(jnp.sum(along**2), 1e-9)
    foot = start + jnp.clip(share, 0.0, 1.0)[:, None] * along
    close = dynamics.distance(foot, kits) < dynamics.AGENT_RADIUS + _KIT_RADIUS
    return jnp.sum(close & (share > 0) & (dynamics.distance(kits, end) > 0.01)).astype(jnp.float32)


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
