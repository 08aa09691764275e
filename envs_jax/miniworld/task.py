"""What a MiniWorld task is, as data: rooms, things, actions, a step limit, and a rule that judges.

Everything that tasks have in common is in `world.MiniWorld`; a task adds no class of its own. Tasks are frozen and
equal by value, so worlds can be static arguments of jitted functions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Array, Int, PRNGKeyArray

from envs_jax.miniworld import dynamics
from envs_jax.miniworld.entities import BOX_SIZE, COLOUR_NAMES, RADIUS_OF_HEIGHT
from envs_jax.miniworld.layout import FixedPlan
from envs_jax.miniworld.maze import MazePlan
from envs_jax.miniworld.placement import Where
from envs_jax.world import Step

_ANYWHERE = Where()


@dataclass(frozen=True)
class Thing:
    """One thing that a task places.

    Attributes:
      kinds: what it may be, equally likely: (kind, least height, greatest height), metres.
      colours: names that one is drawn from.
      where: alternatives, equally likely.
    """

    kinds: tuple[tuple[str, float, float], ...]
    colours: tuple[str, ...] = COLOUR_NAMES
    where: tuple[Where, ...] = (Where(),)

    @property
    def drawn(self) -> bool:
        """Whether its kind, size or colour differs from episode to episode."""
        return len(self.kinds) > 1 or len(self.colours) > 1 or any(low != high for _, low, high in self.kinds)

    @property
    def least_radius(self) -> float:
        """Metres."""
        return min(RADIUS_OF_HEIGHT[kind] * low for kind, low, _ in self.kinds)


def box(*colours: str, size: float = BOX_SIZE, where: tuple[Where, ...] = (Where(),)) -> Thing:
    """A cube of one of the colours."""
    return Thing((("box", size, size),), colours, where)


def shape(kind: str, height: float, *colours: str, where: tuple[Where, ...] = (Where(),)) -> Thing:
    """Anything else of one size; without colours it has its own."""
    return Thing(((kind, height, height),), colours or COLOUR_NAMES[:1], where)


@dataclass(frozen=True)
class Picture:
    """A flat frame on a wall: a sign of letters or a picture. It is only seen.

    Attributes:
      text: what is written on it, one of these texts an episode; () for a picture.
      position: metres, its middle.
      yaw: radians, the way it faces.
      width, height: metres. A letter is as wide as it is high.
    """

    position: tuple[float, float, float]
    yaw: float
    width: float
    height: float
    text: tuple[str, ...] = ()


@runtime_checkable
class Rule(Protocol):
    """What a task is about: rewards, ends, and what a competent agent does and thinks.

    Every method gets the `MiniWorld` that it is part of, for walls, sizes and step lengths.

    Attributes:
      phrases: fragments that `describe` and `explain` use.
      draws: whether `memory` draws, so that a reset needs a key for it.
    """

    phrases: tuple[str, ...]
    draws: bool

    def memory(self, world: Any, state: Any, key: PRNGKeyArray | None) -> Any:
        """What the rule keeps from step to step, of a fresh episode (its own memory None); None if nothing."""

    def judge(self, world: Any, before: Any, action: Int[Array, ""], after: Any) -> tuple[Any, Step]:
        """The state and the Step, from the states before an action and after its motion, which is counted."""

    def expert(self, world: Any, state: Any, key: PRNGKeyArray) -> Int[Array, ""]:
        """An action id."""

    def describe(self, world: Any, state: Any) -> Int[Array, " n"]:
        """Phrase ids."""

    def explain(self, world: Any, state: Any) -> Int[Array, " n"]:
        """Phrase ids."""


@dataclass(frozen=True)
class Task:
    """One task.

    Attributes:
      instruction: in words.
      plan: its rooms.
      rule: see there.
      max_steps: of an episode.
      things: in the order in which they are placed, which is MiniWorld's list.
      agent: where the agent starts; it is placed last.
      actions: what an agent may do; those named as in `dynamics.ACTIONS` do what they do there.
      forward_step, turn_degrees: of an action, metres and degrees.
      own_motion: whether upstream sets these for this task, without a range for domain randomisation.
      radius: of the agent when it moves, metres.
      start_radius: of the agent when it is placed, metres.
      pictures: on the walls.
    """

    instruction: str
    plan: FixedPlan | MazePlan
    rule: Rule
    max_steps: int
    things: tuple[Thing, ...]
    agent: Where = _ANYWHERE
    actions: tuple[str, ...] = dynamics.ACTIONS[:3]
    forward_step: float = dynamics.FORWARD_STEP
    turn_degrees: float = dynamics.TURN_DEGREES
    own_motion: bool = False
    radius: float = dynamics.AGENT_RADIUS
    start_radius: float = dynamics.AGENT_RADIUS
    pictures: tuple[Picture, ...] = ()

    @property
    def hands(self) -> bool:
        """Whether anything can be carried."""
        return "pickup" in self.actions
