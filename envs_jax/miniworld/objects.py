"""PickupObjects and RoomObjects: balls, boxes and keys in one room, to be picked up.

* PickupObjects: 1 for each of five things, which vanish; the episode ends with the last.
* RoomObjects has no reward, no end and no step limit upstream, and its agent stays as wide as it is made for being
  placed apart from the things, 1.5 m, so that it can hardly move. Here the episode asks for the box, the ball or
  the key (`describe` says which) and rewards picking it up like any task solved, within 250 steps, and the agent
  has its usual width when it moves. With `faithful` it is 1.5 m wide, the reward is 0 and only time ends an
  episode; the limit stays, as a world must have one, and `success` tells of the thing that was asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PRNGKeyArray

from envs_jax.miniworld import dynamics, handling, thoughts
from envs_jax.miniworld.entities import COLOUR_NAMES
from envs_jax.miniworld.layout import FixedPlan, Room, rectangle
from envs_jax.miniworld.task import Task, Thing, box, shape
from envs_jax.world import Step

_KINDS = ("box", "ball", "key")


def _yard(size: float) -> FixedPlan:
    return FixedPlan((Room(rectangle((0.0, 0.0), (size, size)), "brick_wall", "asphalt", None),))


@dataclass(frozen=True)
class PickUpAll:
    """A reward of 1 for each thing picked up; what is picked up is gone."""

    draws = False
    phrases = thoughts.phrases("object")

    def memory(self, world: Any, state: Any, key: PRNGKeyArray | None) -> None:
        """Nothing: what is left exists."""
        return None

    def judge(self, world: Any, before: Any, action: Int[Array, ""], after: Any) -> tuple[Any, Step]:
        """Ends with the last thing."""
        picked = after.carried >= 0
        things = dynamics.without(after.things, after.carried)
        done = picked & ~jnp.any(things.exists)
        after = after.replace(things=things, carried=jnp.int32(dynamics.NOTHING))
        return after, world.outcome(after, picked.astype(jnp.float32), done, done)

    def expert(self, world: Any, state: Any, key: PRNGKeyArray) -> Int[Array, ""]:
        """Picks up what is in reach, else goes to the nearest."""
        return handling.fetch(world, state, self._target(world, state), state.things.exists)

    def describe(self, world: Any, state: Any) -> Int[Array, " n"]:
        """Nothing: all is to be seen."""
        return jnp.full(1, -1, jnp.int32)

    def explain(self, world: Any, state: Any) -> Int[Array, " n"]:
        """Where the nearest thing is."""
        return about(world, state, self._target(world, state), 1, 0)

    def _target(self, world, state):
        return handling.nearest(world, state, state.things.exists)


def about(world: Any, state: Any, row: Int[Array, ""] | int, nouns: int, noun: Int[Array, ""] | int) -> Array:
    """`thoughts.think` of one thing in a task of one room."""
    place = state.things.position[row]
    return thoughts.think(
        nouns,
        noun,
        world.shares(state)[row] >= thoughts.SEEN_FROM,
        dynamics.bearing(state.agent, place),
        dynamics.distance(state.agent.position, place),
    )


@dataclass(frozen=True)
class PickUpOne:
    """Solved by picking up the one of three things that the episode asks for; its memory is the row of that.

    Attributes:
      rewarded: whether there is a reward and an end.
    """

    rewarded: bool = True

    draws = True
    phrases = (*thoughts.phrases(*_KINDS), *(f"goal {kind}" for kind in _KINDS))

    def memory(self, world: Any, state: Any, key: PRNGKeyArray | None) -> Int[Array, ""]:
        """int32[], the row of what is asked for."""
        return jax.random.randint(key, (), 0, len(_KINDS), jnp.int32)

    def judge(self, world: Any, before: Any, action: Int[Array, ""], after: Any) -> tuple[Any, Step]:
        """Another thing may be picked up and dropped again."""
        right = after.carried == after.memory
        if self.rewarded:
            return after, world.solved(after, right)
        return after, world.outcome(after, jnp.float32(0.0), jnp.bool_(False), right)

    def expert(self, world: Any, state: Any, key: PRNGKeyArray) -> Int[Array, ""]:
        """Goes there and picks it up; drops what else it carries."""
        rows = jnp.arange(len(_KINDS))
        action = handling.fetch(world, state, state.memory, rows == state.memory)
        wrong = (state.carried >= 0) & (state.carried != state.memory)
        return jnp.where(wrong, dynamics.DROP, action).astype(jnp.int32)

    def describe(self, world: Any, state: Any) -> Int[Array, " n"]:
        """What is asked for: "goal key"."""
        return (len(self.phrases) - len(_KINDS) + state.memory)[None].astype(jnp.int32)

    def explain(self, world: Any, state: Any) -> Int[Array, " n"]:
        """Where it is."""
        return about(world, state, state.memory, len(_KINDS), state.memory)


def pickup_objects(faithful: bool = False) -> Task:
    """Five things of any kind and colour in a yard."""
    kinds = (("ball", 0.9, 0.9), ("box", 0.9, 0.9), ("key", 0.35, 0.35))
    return Task(
        instruction="Pick up all objects.",
        plan=_yard(12.0),
        rule=PickUpAll(),
        max_steps=400,
        things=(Thing(kinds),) * 5,
        actions=dynamics.ACTIONS[:5],
    )


def room_objects(faithful: bool = False) -> Task:
    """A box, a ball and a key of any colour in a yard."""
    return Task(
        instruction="Pick up the object that is the goal.",
        plan=_yard(10.0),
        rule=PickUpOne(rewarded=not faithful),
        max_steps=250,
        things=(
            box(*COLOUR_NAMES, size=0.9),
            shape("ball", 0.9, *COLOUR_NAMES),
            shape("key", 0.35, *COLOUR_NAMES),
        ),
        actions=dynamics.ACTIONS,
        radius=1.5 if faithful else dynamics.AGENT_RADIUS,
        start_radius=1.5,
    )
