"""Household chores after ALFWorld's text games."""

from functools import partial

from envs_jax.household.world import Household
from envs_jax.world import register


def _register() -> None:
    from envs_jax.household.tables import TASKS

    for task in (*TASKS, "any"):
        register(f"household/{task}", partial(Household, task=task))


_register()
