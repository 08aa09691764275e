"""Which episodes are held out: about one instance in five is "test", all others are "train".

* Of a maze of 3 x 3 rooms and more, an instance is its layout: which passages there are. A maze of 2 x 2 rooms has
  two layouts only; there the room of the first thing counts, too.
* Of fixed rooms, it is where everything is at the start: the squares, CELL metres wide, of the agent and all
  things.
* A fixed hash decides, so the two parts have no instance in common, and need no table and no seed.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from envs_jax.miniworld.maze import MazePlan

SPLITS = ("all", "train", "test")
CELL = 0.5  # metres
TRIES = 256  # of a reset; all fail with a chance of 0.8 ** 256 = 2e-25


def check_split(value: Any) -> None:
    """Raises ValueError unless `value` is a split."""
    if value not in SPLITS:
        raise ValueError(f"split is {value!r}; accepted: {', '.join(SPLITS)}")


def instance(world: Any, state: Any) -> Int[Array, " n"]:
    """The numbers that tell one instance from another, of a state at the start of an episode.

    Worked example, one thing at (3.2, 0, 0.1), the agent at (0.6, 0, 1): [6, 0, 1, 2].
    """
    plan = world.task.plan
    if isinstance(plan, MazePlan):
        layout = state.passages.astype(jnp.int32)
        if plan.count > 4:
            return layout
        return jnp.concatenate([layout, plan.cell(state.things.position[0])[None]])
    places = jnp.concatenate([state.things.position, state.agent.position[None]])[:, ::2]
    return jnp.floor(places / CELL).astype(jnp.int32).reshape(-1)


def is_test(numbers: Int[Array, " n"]) -> Bool[Array, ""]:
    """Whether an instance is held out."""
    # A sum of products with fixed odd factors, mixed (MurmurHash3's last step), all modulo 2^32.
    factors = np.array(
        [(2654435761 * (2 * k + 1) ** 3 + 2 * k) % 2**32 | 1 for k in range(len(numbers))], np.uint32
    )
    mixed = jnp.sum((numbers.astype(jnp.uint32) + jnp.uint32(1)) * np.array(factors, np.uint32), dtype=jnp.uint32)
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        mixed = (mixed ^ (mixed >> shift)) * jnp.uint32(factor)
    return (mixed ^ (mixed >> 16)) % 5 == 0
