"""Sign: a sign on a wall names a colour, the episode asks for a box or a key; go to that one of six things.

+1 for being near the right thing and -1 for any other, which ends the episode (Liu et al., arXiv 2008.02790).
Where upstream has a fault, `faithful=True` keeps it:

* Upstream fixes the sign and the goal at construction, blue and box unless told otherwise, so that nothing needs
  to be read. Here both are drawn in every episode unless `colour` and `goal` are given; with `faithful` they are
  blue and box unless given.
* The action that ends the episode has the number of "move back" and upstream does that, too, before it ends. Here
  it only ends.

The sign's colours go blue, red, green by number (upstream's docstring swaps the last two; its code does not).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Int, PRNGKeyArray

from envs_jax import options
from envs_jax.miniworld import dynamics, expert, thoughts
from envs_jax.miniworld.entities import radii
from envs_jax.miniworld.layout import FixedPlan, Opening, Room, rectangle
from envs_jax.miniworld.placement import Where
from envs_jax.miniworld.task import Picture, Task, box, shape
from envs_jax.miniworld.walking import FAST_STEP, FAST_TURN
from envs_jax.world import Step

COLOURS = ("blue", "red", "green")
GOALS = ("box", "key")
# (colour, goal), row by row of the things.
_THINGS = tuple((colour, goal) for goal in GOALS for colour in COLOURS)
_PLACES = ((1.0, 1.0), (9.0, 1.0), (9.0, 5.0), (5.0, 1.0), (1.0, 5.0), (1.0, 9.0))
_SHY = 0.05  # metres that the expert keeps from being near a wrong thing


@struct.dataclass
class Errand:
    """What one episode asks for.

    Attributes:
      colour, goal: int32[], places in COLOURS and GOALS.
    """

    colour: Int[Array, ""]
    goal: Int[Array, ""]


@dataclass(frozen=True)
class TouchTheRight:
    """Ends near any thing.

    Attributes:
      colour, goal: what every episode asks for, or None to draw it.
    """

    colour: str | None = None
    goal: str | None = None

    draws = True
    phrases = (
        *thoughts.phrases(*(f"{colour} {goal}" for colour, goal in _THINGS), way=True),
        *(f"goal {goal}" for goal in GOALS),
    )

    def memory(self, world: Any, state: Any, key: PRNGKeyArray | None) -> Errand:
        """What is asked for."""
        colour_key, goal_key = jax.random.split(key)

        def pick(key, names, given):
            drawn = jax.random.randint(key, (), 0, len(names), jnp.int32)
            return drawn if given is None else jnp.int32(names.index(given))

        return Errand(pick(colour_key, COLOURS, self.colour), pick(goal_key, GOALS, self.goal))

    def written(self, state: Any) -> Int[Array, ""]:
        """Which of its texts the sign shows."""
        return state.memory.colour

    def judge(self, world: Any, before: Any, action: Int[Array, ""], after: Any) -> tuple[Any, Step]:
        """Things stand too far apart for two to be near."""
        rows = jnp.arange(len(_THINGS))
        near = jax.vmap(lambda row: world.near(after, row))(rows)
        right = jnp.any(near & (rows == self._target(after)))
        touched = jnp.any(near)
        reward = jnp.where(touched, jnp.where(right, 1.0, -1.0), 0.0)
        ended = action == len(world.actions) - 1
        return after, world.outcome(after, reward, touched | ended, right)

    def expert(self, world: Any, state: Any, key: PRNGKeyArray) -> Int[Array, ""]:
        """Goes to the right thing and not near another on the way; it knows what the sign says without looking."""
        row = self._target(state)
        target = state.things.position[row]
        point = world.waypoint(state, target)
        wrong = jnp.arange(len(_THINGS)) != row
        far = radii(state.things) + 1.1 * world.body.reach + _SHY
        gaps = dynamics.entity_gaps
        yaws = expert.headings(state.agent, world.turn_degrees)

        def may_go(yaw):
            agent = state.agent.replace(yaw=yaw)
            after = agent.position + world.forward_step * dynamics.direction(yaw)
            shy = gaps(after, world.body.radius + 1.1 * world.body.reach + _SHY, state.things)
            return world.may_from(state, agent, dynamics.MOVE_FORWARD) & jnp.all((shy >= 0) | ~wrong)

        bend = expert.detour(
            state.agent.position,
            point,
            world.walls(state),
            state.things.position,
            jnp.where(wrong, far, -1.0),
            world.body.radius,
        )
        return expert.follow(state.agent, bend, world.turn_degrees, jax.vmap(may_go)(yaws))

    def describe(self, world: Any, state: Any) -> Int[Array, " n"]:
        """Whether a box or a key is asked for: "goal key". The colour is to be read."""
        return (len(self.phrases) - len(GOALS) + state.memory.goal)[None].astype(jnp.int32)

    def explain(self, world: Any, state: Any) -> Int[Array, " n"]:
        """Where the right thing is, or that it is not seen and where the way goes."""
        row = self._target(state)
        target = state.things.position[row]
        return thoughts.think(
            len(_THINGS),
            row,
            world.shares(state)[row] >= thoughts.SEEN_FROM,
            dynamics.bearing(state.agent, target),
            dynamics.distance(state.agent.position, target),
            dynamics.bearing(state.agent, world.waypoint(state, target)),
        )

    def _target(self, state) -> Int[Array, ""]:
        return state.memory.goal * len(COLOURS) + state.memory.colour


def sign(faithful: bool = False, colour: str | None = None, goal: str | None = None) -> Task:
    """A U-shaped room of 10 x 13 m. `colour`: "blue", "red" or "green"; `goal`: "box" or "key"."""
    options.check_choice("colour", colour, COLOURS)
    options.check_choice("goal", goal, GOALS)
    if faithful:
        colour, goal = colour or COLOURS[0], goal or GOALS[0]
    where = [(Where(at=place),) for place in _PLACES]
    return Task(
        instruction="Read the colour on the sign. Go to the object of that colour that is the goal.",
        plan=FixedPlan(
            (
                Room(rectangle((0.0, 0.0), (10.0, 6.5))),
                Room(rectangle((0.0, 6.75), (6.0, 13.0))),
                Room(rectangle((6.0, 6.75), (10.0, 13.0))),
            ),
            (Opening(0, 1, x=(0.0, 6.0)), Opening(1, 2, z=(6.75, 13.0))),
        ),
        rule=TouchTheRight(colour, goal),
        max_steps=20,
        things=(
            *(box(COLOURS[n], where=where[n]) for n in range(3)),
            *(shape("key", 0.6, COLOURS[n], where=where[3 + n]) for n in range(3)),
        ),
        agent=Where(room=0, x=(4.0, 5.0), z=(4.0, 6.0)),
        actions=(*dynamics.ACTIONS[:3], "end"),
        forward_step=FAST_STEP,
        turn_degrees=FAST_TURN,
        own_motion=True,
        pictures=(Picture((10.0, 1.35, 10.25), math.pi, 0.0, 1.0, tuple(name.upper() for name in COLOURS)),),
    )
