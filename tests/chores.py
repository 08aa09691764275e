"""A small world with slots, for tests: things are in places, the task is to put one of them into another place.

Its names are awkward on purpose: prefixes of one another ("cup 1", "cup 11", "cup"), words with spaces beside a
slot that takes several words, and two templates that begin alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import struct

from envs_jax import Slot, Step, is_action

THINGS = ("cup", "cup 1", "cup 11")
PLACES = ("box", "box 1")
LABELS = ("red", "re", "reddish")


@struct.dataclass
class Chore:
    key: jax.Array
    steps: jax.Array
    places: jax.Array  # int32[3], of each thing
    thing: jax.Array  # that is wanted
    place: jax.Array


@dataclass(frozen=True)
class Chores:
    """[put THING in PLACE] solves the task if both are right; all else changes nothing or another thing."""

    name: str = "test/chores"
    max_steps: int = 6

    actions: ClassVar = ("wait", "put {thing} in {place}", "put {thing}", "say[{label}]")
    slots: ClassVar = {"thing": Slot(THINGS), "place": Slot(PLACES), "label": Slot(LABELS, most=3)}
    instruction: ClassVar = "Put the thing in its place."
    phrases: ClassVar = ("thing", "place", "one", "two", "three")
    image_shape: ClassVar = (8, 8, 3)

    def reset(self, key):
        # Straight from the key's bits, which are random already: quick to compile.
        bits = jax.random.key_data(key)
        thing, place = (bits[0] % 3).astype(jnp.int32), (bits[1] % 2).astype(jnp.int32)
        places = jnp.full(3, -1, jnp.int32)
        return Chore(key=key, steps=jnp.int32(0), places=places, thing=thing, place=place)

    def step(self, state, action):
        put = is_action(self, action) & (action[0] == 1)
        thing, place = jnp.clip(action[1], 0, 2), jnp.clip(action[2], 0, 1)
        places = jnp.where(put & (jnp.arange(3) == thing), place, state.places)
        solved = places[state.thing] == state.place
        state = state.replace(steps=state.steps + 1, places=places)
        return state, Step(
            reward=solved.astype(jnp.float32),
            terminated=solved,
            truncated=state.steps >= self.max_steps,
            success=solved,
        )

    def render(self, state):
        rows = jnp.arange(8)
        bright = jnp.where(rows[:, None] < 4, rows // 2 == state.thing, rows // 4 == state.place)
        return jnp.broadcast_to(jnp.where(bright[..., None], 250, 5), self.image_shape).astype(jnp.uint8)

    def describe(self, state):
        return jnp.stack([jnp.int32(0), 2 + state.thing])

    def admissible(self, state):
        return jnp.ones(4, bool)

    def sample(self, state, key):
        bits = jax.random.key_data(key)
        kind, thing = (bits[0] % 4).astype(jnp.int32), (bits[0] // 4 % 3).astype(jnp.int32)
        words = (bits[1] // jnp.array([1, 2, 4], jnp.uint32) % 2).astype(jnp.int32)
        records = jnp.array([[0, -1, -1, -1], [1, 0, 0, -1], [2, 0, -1, -1], [3, 0, 0, 0]], jnp.int32)
        record = records[kind]
        put = (kind == 1) | (kind == 2)
        record = record.at[1].set(jnp.where(put, thing, record[1]))
        record = record.at[2].set(jnp.where(kind == 1, words[0], record[2]))
        return jnp.where(kind == 3, record.at[1:].set(words), record)

    def expert(self, state, key):
        return jnp.stack([jnp.int32(1), state.thing, state.place, jnp.int32(-1)])

    def explain(self, state):
        return jnp.stack([jnp.int32(0), 2 + state.thing, jnp.int32(1), 2 + state.place])
