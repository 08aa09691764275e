"""Household chores after ALFWorld's text games: look, go, open, take, treat and bring."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, UInt8

from envs_jax import heldout, options
from envs_jax.household import expert, generate, picture, rules, text
from envs_jax.household import tables as t
from envs_jax.household.rules import State
from envs_jax.world import Slot, Step, invalid_action, is_action

MAX_STEPS = 50  # upstream's limit


@struct.dataclass
class Commands:
    """The admissible commands: an action's places may be filled with any combination of what its row allows.

    Attributes:
      objects: bool[actions, object words], the first or only object.
      receptacles: bool[actions, receptacle words].
      knives: bool[object words], the second object of "slice".
    """

    objects: Bool[Array, "a ow"]
    receptacles: Bool[Array, "a rw"]
    knives: Bool[Array, " ow"]


@dataclass(frozen=True)
class Household:
    """The worlds `household/...`. Reward as upstream: 1 when the task is solved, else 0.

    Args:
      name: registered name.
      task: one of `tables.TASKS`, or "any": the type is drawn per episode, too.
      receptacles: at most so many in a room, 6..48; a larger room is cut.
      objects: at most so many in a room, 4..40.
      reward: "sparse", or "progress": by how much the share of the goal's conditions that hold rose or fell.
      split: "all", "train" or "test". An instance is a task type with an object type and a goal (the type of a
        receptacle or lamp); see `tables.instances`.
      image_shape: (height, width, 3), at least 216 x 200.

    Raises:
      ValueError: an option is out of range.
    """

    name: str = "household/any"
    task: str = "any"
    receptacles: int = 48
    objects: int = 40
    reward: str = "sparse"
    split: str = "all"
    image_shape: tuple[int, int, int] = (224, 224, 3)

    actions = rules.ACTIONS
    phrases = text.PHRASES
    max_steps = MAX_STEPS
    instruction = (
        "Do the household task. Go to receptacles, open them, take and move objects; heat with a microwave, cool "
        "with a fridge, clean with a sinkbasin, use a lamp while holding what is to be looked at."
    )

    def __post_init__(self):
        for field, accepted in (
            ("task", (*t.TASKS, "any")),
            ("reward", ("sparse", "progress")),
        ):
            if getattr(self, field) not in accepted:
                raise ValueError(f"{field} is {getattr(self, field)!r}; accepted: {', '.join(accepted)}")
        for field, least, most in (("receptacles", 6, 48), ("objects", 4, 40)):
            value = getattr(self, field)
            if type(value) is not int or not least <= value <= most:
                raise ValueError(f"{field} is {value!r}; accepted: an int from {least} to {most}")
        heldout.check_split(self.split)
        options.check_image_shape(self.image_shape, (picture.ROW * picture.ROWS, 200), None)

    @property
    def slots(self) -> dict[str, Slot]:
        """Names with numbers, as every room uses them."""
        return {"receptacle": Slot(t.RECEPTACLE_WORDS), "object": Slot(t.OBJECT_WORDS)}

    @cached_property
    def _tasks(self) -> tuple[tuple[int, ...], tuple[np.ndarray, ...]]:
        tasks = tuple(range(len(t.TASKS))) if self.task == "any" else (t.TASKS.index(self.task),)
        return tasks, tuple(t.instances(task, self.split) for task in tasks)

    def reset(self, key: PRNGKeyArray) -> State:
        """A room and a task, drawn with `key`."""
        return generate.generate(key, *self._tasks, self.receptacles, self.objects)

    def step(self, state: State, action: Int[Array, "3"]) -> tuple[State, Step]:
        """One command; one that is not admissible changes nothing and is counted ("Nothing happens.")."""
        action = jnp.where(is_action(self, action), action, invalid_action(self))
        after = rules.apply(state, action).replace(steps=state.steps + 1)
        was, now = rules.progress(state), rules.progress(after)
        won = now >= 1
        reward = won.astype(jnp.float32) if self.reward == "sparse" else now - was
        truncated = (after.steps >= self.max_steps) & ~won
        return after, Step(reward=reward, terminated=won, truncated=truncated, success=won)

    def progress(self, state: State) -> Float[Array, ""]:
        """The share of the goal's conditions that hold, see `rules.progress`."""
        return rules.progress(state)

    def render(self, state: State) -> UInt8[Array, "h w 3"]:
        """What the agent sees, see `picture`."""
        return picture.draw(state, *self.image_shape[:2])

    def describe(self, state: State) -> Int[Array, " n"]:
        """The answer to the last command, then the task: 11 + max(R, O) phrase ids."""
        return jnp.concatenate([text.feedback(state), text.task(state)])

    def commands(self, state: State) -> Commands:
        """Every admissible command."""
        objects, receptacles, knives = rules.possible(state)

        def spread(mask, words, size):  # from the room's entities to all words
            return jnp.zeros((*mask.shape[:-1], size), bool).at[..., words].max(mask & (words >= 0))

        return Commands(
            objects=spread(objects, state.objects, len(t.OBJECT_WORDS)),
            receptacles=spread(receptacles, state.receptacles, len(t.RECEPTACLE_WORDS)),
            knives=spread(knives, state.objects, len(t.OBJECT_WORDS)),
        )

    def _counts(self, state: State) -> Int[Array, " a"]:
        """How many admissible commands each action has."""
        objects, receptacles, knives = rules.possible(state)
        o, r = objects.sum(axis=1), receptacles.sum(axis=1)
        index = jnp.arange(len(self.actions))
        pairs = (index >= rules.TAKE) & (index <= rules.CLEAN)
        count = jnp.where(pairs, o * r, o + r)
        count = jnp.where(index == rules.SLICE, o * knives.sum(), count)
        return jnp.where(index >= rules.LOOK, 1, count)

    def admissible(self, state: State) -> Bool[Array, " a"]:
        """Which actions have at least one command."""
        return self._counts(state) > 0

    def sample(self, state: State, key: PRNGKeyArray) -> Int[Array, "3"]:
        """One of the admissible commands, all with equal chance."""
        keys = jax.random.split(key, 4)
        action = jax.random.categorical(keys[0], jnp.log(self._counts(state).astype(jnp.float32)))
        objects, receptacles, knives = rules.possible(state)

        def draw(key, mask, words):
            return jnp.where(mask.any(), words[jax.random.categorical(key, jnp.where(mask, 0.0, -jnp.inf))], -1)

        thing = draw(keys[1], objects[action], state.objects)
        place = draw(keys[2], receptacles[action], state.receptacles)
        blade = jnp.where(action == rules.SLICE, draw(keys[3], knives, state.objects), place)
        has_object = thing >= 0
        return jnp.stack([action, jnp.where(has_object, thing, place), jnp.where(has_object, blade, -1)]).astype(
            jnp.int32
        )

    def expert(self, state: State, key: PRNGKeyArray) -> Int[Array, "3"]:
        """Fetches, treats and brings the nearest at hand; it sees into closed receptacles."""
        return expert.act(state)

    def explain(self, state: State) -> Int[Array, " n"]:
        """ "want clean" "mug" "mug 1" "is at" "shelf 2"."""
        return text.thought(state)
