"""Proves that a world keeps the contract of `envs_jax.World`, or says what is broken.

    report = envs_jax.check(world)      # raises WorldError, naming the method and what it did
    report.expert_success, report.random_success

What is proven, on a few states reached by random actions and in many whole episodes:

* attributes are well-formed, and every method has static shapes and the declared dtypes, none of them weak;
* methods are pure: two fresh traces give the same results, nothing leaks, the world's own attributes stay, no
  jaxpr holds a callback;
* `jax.vmap` gives what a Python loop gives;
* any int32 is a legal action: unknown ids do what INVALID does, every number stays finite; of a record, any
  int32 in any place, and what is not exactly an action (`is_action`) does what INVALID does;
* what a world with slots samples, and its expert does, are actions, and what it samples is admissible;
* every episode ends within `max_steps`, and only its end is a success; the state counts its steps, carries its key
  and is small; ids stay in range;
* the scripted expert beats uniformly random actions beyond chance.
"""

from __future__ import annotations

import jax

from envs_jax.check.episodes import Report, check_episodes
from envs_jax.check.errors import WorldError
from envs_jax.check.examples import check_pure_and_vectorised, check_total, reached_states
from envs_jax.check.traces import check_attributes, check_no_callbacks, check_signatures
from envs_jax.world import World

__all__ = ["Report", "WorldError", "check"]


def check(world: World, seed: int = 0, episodes: int = 128, states: int = 6) -> Report:
    """Proves the contract on examples; takes half a dozen compilations.

    Args:
      world: the world to check.
      seed: of all randomness here.
      episodes: how many the expert and the random policy play each; too few may not tell them apart.
      states: how many reached states each property is examined on.

    Raises:
      WorldError: naming what is broken.
    """
    check_attributes(world)
    key = jax.random.key(seed)
    check_signatures(world, key)
    check_no_callbacks(world, key)
    reached, actions = reached_states(world, jax.random.fold_in(key, 1), states)
    check_pure_and_vectorised(world, jax.random.fold_in(key, 3), reached, actions)
    check_total(world, reached)
    return check_episodes(world, jax.random.fold_in(key, 2), episodes)
