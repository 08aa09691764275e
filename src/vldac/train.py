"""Training: one iteration of a run, from worlds to parameters, as jitted functions.

* `iteration` collects a rollout and learns from it: a pure function of `TrainState`, its argument donated. Nothing
  goes through the host between its start and its end.
* Its halves, `collect` and `learn`, are what a run calls: compiled side by side they are there in half the time,
  and each can be timed. What the first gives, the second takes where it lies.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float, Key, PRNGKeyArray

from vldac import watch
from vldac.lanes import Lanes
from vldac.learning import update
from vldac.mesh import constrain, gather, placed, shard_batch
from vldac.rollout import Trajectory, rollout, rollout_metrics
from vldac.state import OptimizerConfig, Setup, TrainState, init

__all__ = [
    "OptimizerConfig",
    "Setup",
    "TrainState",
    "collect",
    "experience_like",
    "init",
    "iteration",
    "jit_collect",
    "jit_iteration",
    "jit_learn",
    "learn",
]


def iteration(setup: Setup, state: TrainState) -> tuple[TrainState, dict[str, Float[Array, ""]]]:
    """One rollout and the updates from it.

    Returns:
      (state, metrics): metrics are float32[] under the names of `vldac.metrics`.
    """
    lanes, trajectory = collect(setup, state.policy_params, state.lanes, state.key)
    return learn(setup, state.replace(lanes=lanes), trajectory)


def collect(setup: Setup, params: Any, lanes: Lanes, key: PRNGKeyArray) -> tuple[Lanes, Trajectory]:
    """The first half of an iteration: acts with `policy_params` in a state's lanes, with the state's key."""
    _, rollout_key, _ = _keys(key)
    lanes, trajectory = rollout(setup.policy, setup.world, params, lanes, rollout_key, setup.rollout)
    return shard_batch(lanes), constrain(trajectory, trajectory.specs())


def learn(
    setup: Setup, state: TrainState, trajectory: Trajectory
) -> tuple[TrainState, dict[str, Float[Array, ""]]]:
    """The second half: what `iteration` gives, from a state whose lanes have gone on already."""
    key, _, update_key = _keys(state.key)
    params, opt_state, skipped, train_metrics = update(setup, state, trajectory, update_key)
    gathered = rollout_metrics(trajectory)
    gathered |= watch.answer_metrics(trajectory.response.tokens, trajectory.response.mask)
    state = state.replace(
        iteration=state.iteration + 1,
        env_steps=state.env_steps + gathered["env_steps"].astype(jnp.int32),
        params=params,
        opt_state=opt_state,
        skipped=skipped,
        key=key,
    )
    metrics = {f"rollout/{name}": value for name, value in gathered.items()}
    metrics |= {f"train/{name}": value for name, value in train_metrics.items()}
    return constrain(state, state.specs()), gather(metrics)


def _keys(key: PRNGKeyArray) -> Key[Array, "3"]:
    """Of the next iteration, of this one's rollout, and of its updates."""
    return jax.random.split(key, 3)


jit_iteration = jax.jit(iteration, static_argnums=0, donate_argnums=1)
jit_collect = jax.jit(collect, static_argnums=0, donate_argnums=2)
jit_learn = jax.jit(learn, static_argnums=0, donate_argnums=1)


def experience_like(setup: Setup, state: TrainState, mesh: Mesh | None) -> Trajectory:
    """Shapes, and places on a mesh, of what `collect` will give: enough to compile `learn` for it."""
    _, trajectory = jit_collect.eval_shape(setup, state.policy_params, state.lanes, state.key)
    return placed(trajectory, trajectory.specs(), mesh)
