"""Named configurations: each a function, its docstring the command that runs it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from experiments.config import EvaluationConfig, ModelConfig, RunConfig
from vldac.algorithms.vl_dac import VLDACConfig
from vldac.imitation import ImitationConfig
from vldac.policy import PolicyConfig
from vldac.rollout import RolloutConfig
from vldac.train import OptimizerConfig


def nano() -> RunConfig:
    """Learn to walk to the red box, from nothing, in minutes on two CPU cores.

    python -m experiments.run
    """
    return RunConfig(
        world="miniworld/one_room_s6_fast",
        iterations=30,
        model=ModelConfig(preset="nano"),
        policy=PolicyConfig(history=1, max_tokens=30),  # "box ahead near" and "move_forward" just fit
        imitation=ImitationConfig(steps=500, worlds=32, window=1, learning_rate=2e-3, expert_fraction=0.4),
        rollout=RolloutConfig(worlds=32, steps=8),
        algorithm=VLDACConfig(),
        # Small microbatches stay in the cache: a fifth faster than whole minibatches, and a quarter of the memory.
        optimizer=OptimizerConfig(learning_rate=3e-4, critic_learning_rate=3e-3, minibatch=128, microbatch=32),
        evaluation=EvaluationConfig(unseen=("miniworld/one_room_s6",)),
    )


def number_line() -> RunConfig:
    """Read two numbers from a picture and step towards the goal.

    python -m experiments.run number_line
    """
    return dataclasses.replace(
        nano(), world="cards/number_line", evaluation=EvaluationConfig(unseen=("miniworld/one_room_s6_fast",))
    )


PRESETS: dict[str, Callable[[], RunConfig]] = {"nano": nano, "number_line": number_line}
