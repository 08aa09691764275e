"""The world interface: a task as pure functions of a state.

* Everything is written for ONE world; the user `jax.vmap`s it.
* A world object is frozen and stateless: all that changes, its random key included, is in the State.
* `render` is apart from `step`, so that no image is copied or selected when an episode is reset.
* `terminated` (the task ended) and `truncated` (time ran out) are apart, because only the first is a
  reason not to bootstrap the value of the last observation.

Shaped after brax's environments (one State pytree, reset and step); differs where the list above says.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

from flax import struct
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, UInt8

State = Any  # a flax.struct dataclass with at least `key: PRNGKeyArray` and `steps: int32[]`
INVALID = -1  # the action id of an answer that names no action


@struct.dataclass
class Step:
    """What one step of one world gave.

    Attributes:
      reward: float32[].
      terminated: bool[], the task ended: nothing follows, the value of what comes after is 0.
      truncated: bool[], time ran out: the task would have gone on. Both may be true.
      success: bool[], the task was solved in this step.
    """

    reward: Float[Array, ""]
    terminated: Bool[Array, ""]
    truncated: Bool[Array, ""]
    success: Bool[Array, ""]


@runtime_checkable
class World(Protocol):
    """A synthetic world. `envs_jax.check` proves that an implementation keeps this contract.

    `reset` and `step` are total: any int32 action on any state gives a valid state and finite numbers. An
    action id outside `range(len(actions))` is an invalid answer: nothing moves, the step is counted.

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


def options(name: str) -> dict[str, Any]:
    """The options that `make(name, **options)` takes, with their defaults (`inspect.Parameter.empty`: none)."""
    known = inspect.signature(_BUILDERS[name]).parameters
    return {option: parameter.default for option, parameter in known.items() if option != "name"}


def make(name: str, **options: Any) -> World:
    """Builds a world.

    Args:
      name: one of `names()`.
      **options: the world's own options, for example `image_shape=(60, 80, 3)`.

    Raises:
      ValueError: the name is unknown (the nearest names are given), or an option is (the accepted ones are).
    """
    if name not in _BUILDERS:
        near = difflib.get_close_matches(name, _BUILDERS, n=3, cutoff=0.4) or list(names())
        raise ValueError(f"unknown world {name!r}; nearest: {', '.join(near)}")
    # Asked of the signature: a TypeError out of the builder itself is a fault of the builder, and stays one.
    signature = inspect.signature(_BUILDERS[name])
    try:
        signature.bind(name=name, **options)
    except TypeError as error:
        accepted = ", ".join(option for option in signature.parameters if option != "name") or "none"
        raise ValueError(f"world {name!r}: {error}; accepted options: {accepted}") from error
    return _BUILDERS[name](name=name, **options)
