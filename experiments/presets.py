"""Named configurations: each a function, its docstring the command that runs it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from experiments.config import CheckpointConfig, EvaluationConfig, ModelConfig, RunConfig
from vldac.algorithms.vl_dac import VLDACConfig
from vldac.imitation import ImitationConfig
from vldac.models.lora import LoRAConfig
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
        policy=PolicyConfig(history=1, max_tokens=12),  # "box far left" and "move_forward" are 10, and an end
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


def one_room() -> RunConfig:
    """Learn MiniWorld's OneRoom from nothing with 32 million parameters, in minutes on one GPU.

    python -m experiments.run one_room
    """
    return RunConfig(
        world="miniworld/one_room",
        iterations=60,
        model=ModelConfig(preset="mini", dtype="bfloat16"),
        policy=PolicyConfig(history=1, max_tokens=20),
        imitation=ImitationConfig(steps=2000, worlds=128, window=1, learning_rate=5e-4, expert_fraction=0.4),
        rollout=RolloutConfig(worlds=128, steps=16),
        algorithm=VLDACConfig(),
        optimizer=OptimizerConfig(learning_rate=1e-4, critic_learning_rate=1e-3, minibatch=256),
        evaluation=EvaluationConfig(episodes=256, lanes=256, unseen=("miniworld/one_room_s6",)),
        checkpoint=CheckpointConfig(every=20),
    )


def qwen2_vl_7b() -> RunConfig:
    """The published setting: Qwen2-VL-7B, LoRA, four frames, 512 environment steps an iteration, one large GPU.

    python -m experiments.run qwen2_vl_7b --model.path Qwen/Qwen2-VL-7B-Instruct

    Without a path the weights are drawn at random, which measures speed and memory and learns nothing.
    """
    return RunConfig(
        world="miniworld/one_room",
        iterations=100,
        model=ModelConfig(
            preset="qwen2_vl_7b", lora=LoRAConfig(rank=16), value_head=(3072, 2048), dtype="bfloat16"
        ),
        policy=PolicyConfig(history=4, max_tokens=120, unroll=True),
        imitation=ImitationConfig(steps=0),  # it can answer already
        rollout=RolloutConfig(worlds=128, steps=4),
        algorithm=VLDACConfig(),
        optimizer=OptimizerConfig(minibatch=128, microbatch=32),
        evaluation=EvaluationConfig(episodes=128, lanes=128, unseen=("miniworld/one_room_s6",)),
        checkpoint=CheckpointConfig(every=5),
    )


PRESETS: dict[str, Callable[[], RunConfig]] = {
    "nano": nano,
    "number_line": number_line,
    "one_room": one_room,
    "qwen2_vl_7b": qwen2_vl_7b,
}
