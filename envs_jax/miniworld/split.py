"""What an instance of a MiniWorld task is, of which `envs_jax.heldout` says whether it is held out.

* Of a maze of 3 x 3 rooms and more, an instance is its layout: which passages there are. A maze of 2 x 2 rooms has
  two layouts only; there the room of the first thing counts, too.
* Of fixed rooms, it is where everything is at the start: the squares, CELL metres wide, of the agent and all
  things.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Int

from envs_jax.miniworld.maze import MazePlan

CELL = 0.5  # metres
TRIES = 256  # of a reset; all fail with a chance of 0.8 ** 256 = 2e-25


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
