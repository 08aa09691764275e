"""The world interface: a task as pure functions of a state.

* Everything is written for ONE world; the user `jax.vmap`s it.
* A world object is frozen and stateless: all that changes, its random key included, is in the State.
* `render` is apart from `step`, so that no image is copied or selected when an episode is reset.
* `terminated` (the task ended) and `truncated` (time ran out) are apart, because only the first is a
  reason not to bootstrap the value of the last observation.

Shaped after brax's environments (one State pytree, reset and step); differs where the list above says.
"""

from __future__ import annotations

import ast
import difflib
import fnmatch
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, UInt8

State = Any  # a flax.struct dataclass with at least `key: PRNGKeyArray` and `steps: int32[]`, of a few kB at best
INVALID = -1  # the action id of an answer that names no action


@struct.dataclass
class Step:
    """What one step of one world gave.

    Attributes:
      reward: float32[].
      terminated: bool[], the task ended: nothing follows, the value of what comes after is 0.
      truncated: bool[], time ran out: the task would have gone on. Both may be true.
      success: bool[], the task was solved in this step, which ends the episode one way or the other.
    """

    reward: Float[Array, ""]
    terminated: Bool[Array, ""]
    truncated: Bool[Array, ""]
    success: Bool[Array, ""]


@dataclass(frozen=True)
class Slot:
    """What may stand in a place of an action that is not one fixed text, as `{name}` in it.

    Attributes:
      words: all that may stand there; a word's id is its index. A word may hold spaces ("fridge 1").
      most: how many words at most, at least one, with single spaces between them.
    """

    words: tuple[str, ...]
    most: int = 1

    def __post_init__(self):
        if not self.words or len(set(self.words)) < len(self.words):
            raise ValueError(f"words is {self.words!r}; accepted: at least one, and every one once")
        if self.most < 1:
            raise ValueError(f"most is {self.most}; accepted: 1 or more")


@runtime_checkable
class World(Protocol):
    """A synthetic world. `envs_jax.check` proves that an implementation keeps this contract.

    `reset` and `step` are total: any int32 action on any state gives a valid state and finite numbers. An
    action id outside `range(len(actions))` is an invalid answer: nothing moves, the step is counted.

    A world whose actions are not a handful of fixed texts has one more attribute, `slots`, a mapping from a name
    to a `Slot`, and actions with places to fill, "take {object} from {receptacle}". An action is then a record,
    int32[1 + n], n as `slot_places` counts: the action id, then the ids of the words in the order in which they
    are spoken, -1 in places that this action leaves empty. Such a world also has `sample(state, key)`, an
    admissible action drawn at random, because a record of random words hardly ever is one.

    Every text has one record and every other record is an invalid answer, as an unknown action id is one: an id
    out of range, a slot without a word, a word that its slot does not have, a gap between words, anything but -1
    behind them. `is_action` tells, and a world with slots asks it first. Worked example, "put {object} in
    {receptacle}", 5 objects, 3 receptacles: [1, 4, 0] is an action; [1, 5, 0], [1, -1, 0], [1, 4, -1] are not.

    Attributes:
      name: registered name, "family/task".
      actions: what an agent may say; the action id is the index.
      instruction: the task in words.
      phrases: fragments of text that `describe` and `explain` use; a phrase id is the index. Ids are
        joined with single spaces.
      image_shape: (height, width, 3) of `render`.
      max_steps: steps after which an episode is truncated.
    """

    name: str
    actions: tuple[str, ...]
    instruction: str
    phrases: tuple[str, ...]
    image_shape: tuple[int, int, int]
    max_steps: int

    def reset(self, key: PRNGKeyArray) -> State:
        """A fresh episode, drawn with `key`, which the State then carries on."""

    def step(self, state: State, action: Int[Array, ""]) -> tuple[State, Step]:
        """One action. Stepping on after the end is allowed and harmless; its meaning is up to the world."""

    def render(self, state: State) -> UInt8[Array, "h w 3"]:
        """What the agent sees."""

    def describe(self, state: State) -> Int[Array, " n"]:
        """Text that belongs to the observation, as phrase ids; -1 = nothing."""

    def admissible(self, state: State) -> Bool[Array, " a"]:
        """Which actions can have an effect in this state."""

    def expert(self, state: State, key: PRNGKeyArray) -> Int[Array, ""]:
        """The action of a competent scripted policy. It may look at the whole state."""

    def explain(self, state: State) -> Int[Array, " n"]:
        """What the expert would think aloud, as phrase ids; -1 = nothing."""


_BUILDERS: dict[str, Callable[..., World]] = {}


def register(name: str, builder: Callable[..., World]) -> None:
    """Makes `make(name, **options)` call `builder(name=name, **options)`."""
    if name in _BUILDERS:
        raise ValueError(f"world {name!r} is registered already")
    _BUILDERS[name] = builder


def names() -> tuple[str, ...]:
    """All registered names, sorted."""
    return tuple(sorted(_BUILDERS))


def names_like(patterns: Sequence[str]) -> list[str]:
    """Registered names that fit any of these patterns, each once, with what stands behind its colon.

    Worked example: ["cards/p*:split=test"] -> ["cards/points24:split=test"].

    Raises:
      ValueError: a pattern fits none.
    """
    found = []
    for pattern in patterns:
        base = pattern.partition(":")[0]
        some = [name + pattern[len(base) :] for name in fnmatch.filter(names(), base)]
        if not some:
            raise ValueError(f"{pattern!r} fits no world; accepted: {', '.join(names())}")
        found += some
    return list(dict.fromkeys(found))


PLACE = re.compile(r"\{(\w+)\}")


def slots_of(world: World) -> Mapping[str, Slot]:
    """What may stand in the places of the world's actions; empty where they are fixed texts."""
    return getattr(world, "slots", {})


def slot_places(world: World) -> int:
    """n, the words that the world's longest action has: an action is int32[1 + n], or int32[] without slots.

    Worked example: "put {object} in {receptacle}" and "look" with a word in each place -> 2.
    """
    slots = slots_of(world)
    if not slots:
        return 0
    return max(sum(slots[name].most for name in PLACE.findall(action)) for action in world.actions)


def action_shape(world: World) -> tuple[int, ...]:
    """The shape of an action: () of an action id, (1 + n,) of a record."""
    return (1 + slot_places(world),) if slots_of(world) else ()


def _layout(world: World) -> tuple[np.ndarray, np.ndarray]:
    """(words int32[A, n], first bool[A, n]): how many words may stand in each place of each action, 0 behind its
    own, and whether the place is the first of its slot, which is never empty."""
    slots = slots_of(world)
    words = np.zeros((len(world.actions), slot_places(world)), np.int32)
    first = np.zeros(words.shape, bool)
    for number, action in enumerate(world.actions):
        at = 0
        for name in PLACE.findall(action):
            words[number, at : at + slots[name].most] = len(slots[name].words)
            first[number, at] = True
            at += slots[name].most
    return words, first


def is_action(world: World, action: Int[Array, "..."]) -> Bool[Array, ""]:
    """Whether these numbers are an action that may be spoken; what is not, is an invalid answer.

    Args:
      action: int32[], or a record, int32[1 + n]: any numbers.
    """
    if not slots_of(world):
        return (action >= 0) & (action < len(world.actions))
    words, first = (jnp.asarray(table) for table in _layout(world))
    number, given = action[0], action[1:]
    known = (number >= 0) & (number < len(world.actions))
    number = jnp.where(known, number, 0)
    filled = (given >= 0) & (given < words[number])
    # Worked example, a slot of 3 words: filled [1 1 0] may be, [1 0 1] and [0 0 0] may not.
    follows = first[number] | jnp.concatenate([jnp.zeros(1, bool), filled])[: len(given)]
    empty = (given == INVALID) & ~first[number]
    return known & jnp.all((filled & follows) | empty)


def invalid_action(world: World) -> Int[np.ndarray, "..."]:
    """INVALID in the shape of the world's actions."""
    return np.full(action_shape(world), INVALID, np.int32)


def random_action(world: World, state: State, key: PRNGKeyArray) -> Int[Array, "..."]:
    """What someone does who knows nothing: any action with equal chance, or what the world samples."""
    if slots_of(world):
        return world.sample(state, key)
    return jax.random.randint(key, (), 0, len(world.actions), jnp.int32)


def spoken(world: World, action: Any) -> str | None:
    """An action as it is spoken, for people, on the host; None if it is not one.

    Worked example: [1, 4, 0, -1], actions[1] "put {object} in {receptacle}" -> "put mug 1 in fridge 1".

    Args:
      action: an int, or the numbers of a record.
    """
    slots = slots_of(world)
    number, *words = (int(item) for item in (action if slots else [action]))
    if not 0 <= number < len(world.actions):
        return None
    text, at = "", 0
    parts = PLACE.split(world.actions[number]) if slots else [world.actions[number]]
    for i, part in enumerate(parts):  # fixed text and names of slots in turn
        if i % 2 == 0:
            text += part
            continue
        slot = slots[part]
        here = words[at : at + slot.most]
        here = here[: here.index(INVALID)] if INVALID in here else here
        at += slot.most
        # What `is_action` asks, too: words from the first place on, and nothing behind them.
        if not here or not all(0 <= word < len(slot.words) for word in here):
            return None
        if any(word != INVALID for word in words[at - slot.most + len(here) : at]):
            return None
        text += " ".join(slot.words[word] for word in here)
    return text if all(word == INVALID for word in words[at:]) else None


def options(name: str) -> dict[str, Any]:
    """The options that `make(name, **options)` takes, with their defaults (`inspect.Parameter.empty`: none)."""
    known = inspect.signature(_BUILDERS[name]).parameters
    return {option: parameter.default for option, parameter in known.items() if option != "name"}


def make(name: str, **options: Any) -> World:
    """Builds a world.

    Args:
      name: one of `names()`, or such a name with options behind a colon, "cards/points24:split=test,target=24", so
        that a configuration can name a variant; the world then has this whole text as its name.
      **options: the world's own options, for example `image_shape=(60, 80, 3)`.

    Raises:
      ValueError: the name is unknown (the nearest names are given), or an option is (the accepted ones are).
    """
    base, _, written = name.partition(":")
    if base not in _BUILDERS:
        near = difflib.get_close_matches(base, _BUILDERS, n=3, cutoff=0.4) or list(names())
        raise ValueError(f"unknown world {name!r}; nearest: {', '.join(near)}")
    if ":" in name:
        options = _written_options(name, written) | options
    # Asked of the signature: a TypeError out of the builder itself is a fault of the builder, and stays one.
    signature = inspect.signature(_BUILDERS[base])
    try:
        signature.bind(name=name, **options)
    except TypeError as error:
        accepted = ", ".join(option for option in signature.parameters if option != "name") or "none"
        raise ValueError(f"world {name!r}: {error}; accepted options: {accepted}") from error
    return _BUILDERS[base](name=name, **options)


def _written_options(name: str, written: str) -> dict[str, Any]:
    """Options out of text, "split=test,image_shape=(60, 80, 3)": Python's literals, and bare words as strings.

    The text is read, never evaluated.
    """
    try:
        call = ast.parse(f"_({written})", mode="eval").body
        if (
            not isinstance(call, ast.Call)
            or call.args
            or not call.keywords
            or None in {k.arg for k in call.keywords}
        ):
            raise ValueError("not options")
        return {
            item.arg: item.value.id if isinstance(item.value, ast.Name) else ast.literal_eval(item.value)
            for item in call.keywords
        }
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError) as error:
        raise ValueError(
            f"world {name!r}: {written!r} is not options; accepted: option=value, with commas between"
        ) from error
