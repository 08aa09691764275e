"""A run's parameters: drawn or loaded at its start, and brought back from its checkpoints.

* The weights under an adapter are in no checkpoint of the run: they are what they were at the start, and come
  from there again (the model's own checkpoint, or the seed).
* Each stage of a run draws from a key of its own, made from the seed, so that going on gives the same numbers.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

from experiments.build import Parts
from vldac import imitation, mesh, train
from vldac.checkpoint import Checkpointer, CheckpointError, CheckpointMismatch, Found, Restored
from vldac.models.weights import load_params
from vldac.params import init_params

CHECKPOINT_FOLDER = "checkpoints"
WARM_START_FOLDER = "warm_start"  # of one that was stopped, until it is done
# Each stage draws from a key of its own: that of the seed, folded with one of these.
WEIGHTS, IMITATION, TRAINING, EVALUATION, PERIODIC, BASELINES = range(6)


def stage_key(parts: Parts, stage: int) -> jax.Array:
    """The key of one stage of a run."""
    return jax.random.fold_in(jax.random.key(parts.config.seed), stage)


def initial_params(parts: Parts) -> dict[str, Any]:
    """The policy's parameters before any training, see `Policy`.

    Raises:
      ValueError: the checkpoint's weights can not be read or do not fit its config.
    """
    config = parts.config.model
    model = None
    dtype = jnp.dtype(config.dtype)
    if parts.checkpoint is not None:
        # What is trained is float32, what lies under an adapter is kept in what is computed in.
        kept = dtype if config.lora.rank else jnp.float32
        where = mesh.placement(parts.mesh)
        model = load_params(parts.checkpoint, parts.model_config, param_dtype=kept, sharding=where)
    key = stage_key(parts, WEIGHTS)
    return init_params(parts.model_config, key, config.value_head, config.lora, dtype, model)


def saved_part(state: train.TrainState) -> train.TrainState:
    """What a checkpoint of the run holds of its state: all but the weights under an adapter."""
    return state.replace(frozen=None) if "adapter" in state.params else state


def restore_state(parts: Parts, checkpoints: Checkpointer) -> Restored | None:
    """The newest whole checkpoint of a run, its state complete; None if there is none yet.

    Raises:
      CheckpointError: there are checkpoints, and none can be read.
    """
    like = _like(parts, partial(train.init, parts.setup), TRAINING)
    with mesh.use(parts.mesh):
        try:
            restored = checkpoints.restore(saved_part(like))
        except CheckpointMismatch:
            if like.reference is None:
                raise
            # Written when a taught adapter was not the reference's yet: the run goes on as it began.
            restored = checkpoints.restore(saved_part(like.replace(reference=None)))
    if restored is not None and restored.state.frozen is None:
        with mesh.use(parts.mesh):
            state = restored.state.replace(frozen=initial_params(parts)["model"])
        restored = Restored(restored.iteration, state, restored.extra, restored.notes)
    return restored


def saved_warm_start(state: imitation.ImitationState) -> imitation.ImitationState:
    """What is saved of a warm start that is stopped: all but the weights under an adapter."""
    params = state.params
    return state.replace(params={**params, "model": None}) if "adapter" in params else state


def restore_warm_start(parts: Parts, checkpoints: Checkpointer) -> Restored | None:
    """A warm start that was stopped, its state complete; `iteration` is its updates. None if there is none.

    Raises:
      CheckpointError: it can not be read.
    """
    like = _like(parts, partial(imitation.init, parts.imitation), IMITATION)
    with mesh.use(parts.mesh):
        restored = checkpoints.restore(saved_warm_start(like))
        if restored is not None and restored.state.params["model"] is None:
            params = {**restored.state.params, "model": initial_params(parts)["model"]}
            state = restored.state.replace(params=params)
            restored = Restored(restored.iteration, state, restored.extra, restored.notes)
    return restored


@dataclass(frozen=True, eq=False)
class Learnt:
    """What a run has come to, by its newest whole checkpoint.

    Attributes:
      params: {"model", "adapter" (with LoRA), "value"}.
      iteration, env_steps: so many were done.
      seconds: by phase, that the run had taken.
      notes: one line for every newer checkpoint that had to be passed over, see `tell`.
    """

    params: dict[str, Any]
    iteration: int
    env_steps: int
    seconds: dict[str, float]
    notes: list[str]


def policy_params(parts: Parts, run_dir: Path) -> Learnt:
    """The policy's parameters that a run has come to, and how far that is.

    Raises:
      CheckpointError: no checkpoint, or none that can be read.
    """
    with Checkpointer(run_dir / CHECKPOINT_FOLDER) as checkpoints:
        restored = restore_state(parts, checkpoints)
    if restored is None:
        raise _nothing(run_dir)
    state = restored.state
    seconds = restored.extra["seconds"]
    return Learnt(state.policy_params, restored.iteration, int(state.env_steps), seconds, restored.notes)


def newest_checkpoint(run_dir: Path) -> Found:
    """Which checkpoint `policy_params` would restore.

    Raises:
      CheckpointError: no checkpoint, or none that can be read.
    """
    with Checkpointer(run_dir / CHECKPOINT_FOLDER) as checkpoints:
        found = checkpoints.newest()
    if found is None:
        raise _nothing(run_dir)
    return found


def tell(notes: Iterable[str]) -> None:
    """Says on standard error which checkpoints were passed over: each once a process, whoever comes upon it."""
    for note in notes:
        _warn(note)


@cache
def _warn(note: str) -> None:
    print(f"warning: {note}", file=sys.stderr)


def _like(parts: Parts, init: Callable[[Any, PRNGKeyArray], Any], stage: int) -> Any:
    """Shapes of a stage's state, and where each of its leaves lies."""
    like = jax.eval_shape(init, parts.abstract_params(), stage_key(parts, stage))
    with mesh.use(parts.mesh):
        return mesh.placed(like, like.specs(), parts.mesh)


def _nothing(run_dir: Path) -> CheckpointError:
    return CheckpointError("restore", run_dir / CHECKPOINT_FOLDER, "there is no checkpoint yet")
