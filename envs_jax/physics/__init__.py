"""Worlds with contact, on brax: a table with pucks, walls and a pusher, seen by a camera of the project's own."""

from envs_jax.physics.tasks import push, reach, sort
from envs_jax.physics.world import State, TableTop
from envs_jax.world import register

for _make in (push, reach, sort):
    register(f"physics/{_make.__name__}", _make)

__all__ = ["State", "TableTop"]
