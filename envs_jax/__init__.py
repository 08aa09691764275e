"""Worlds to learn from, as pure JAX functions: `make`, `names`, `check`.

    world = envs_jax.make("miniworld/one_room_s6_fast")
    state = jax.vmap(world.reset)(jax.random.split(jax.random.key(0), 1024))
    state, step = jax.jit(jax.vmap(world.step))(state, actions)
    images = jax.jit(jax.vmap(world.render))(state)  # uint8[1024, 60, 80, 3]

A world of your own is any object with the attributes and methods of `World`: `check` it, `register` it.
"""

from envs_jax.check import Report, WorldError, check
from envs_jax.world import INVALID, Slot, State, Step, World, is_action, make, names, register

# Importing a family registers its worlds.
import envs_jax.cards  # isort: skip
import envs_jax.household  # isort: skip
import envs_jax.miniworld  # isort: skip
import envs_jax.physics  # isort: skip
import envs_jax.shop  # isort: skip  # noqa: F401

__all__ = [
    "INVALID",
    "Report",
    "Slot",
    "State",
    "Step",
    "World",
    "WorldError",
    "check",
    "is_action",
    "make",
    "names",
    "register",
]
