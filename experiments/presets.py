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
from vldac.state import OptimizerConfig


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
    """Read two numbers from a picture and step towards the goal; judged on pairs of numbers never seen, too.

    python -m experiments.run number_line
    """
    return _family(
        "cards/number_line:image_shape=(64,80,3),layout=large",
        max_tokens=12,
        imitation=ImitationConfig(steps=200, worlds=32, learning_rate=1e-3, expert_fraction=0.3),
        iterations=20,
    )


def household() -> RunConfig:
    """Put things into their places in small rooms, by text commands; judged on goals never seen, too.

    python -m experiments.run household
    """
    return _family(
        "household/pick_and_place:receptacles=6,objects=4",
        max_tokens=20,
        text_tokens=72,
        max_pixels=32 * 32,
        imitation=ImitationConfig(steps=2000, worlds=32, learning_rate=1e-3, expert_fraction=0.95),
    )


def shop() -> RunConfig:
    """Buy what is asked for in a shop of a dozen things; judged on goods never asked for, too.

    python -m experiments.run shop
    """
    return _family(
        "shop/small:products=12,kinds=3",
        max_tokens=48,
        text_tokens=200,
        max_pixels=32 * 32,
        imitation=ImitationConfig(steps=400, worlds=32, learning_rate=1e-3, expert_fraction=0.95),
        iterations=15,
    )


def physics() -> RunConfig:
    """Drive a pusher around walls to the mark that is named; judged on marks never named, too.

    python -m experiments.run physics
    """
    return _family(
        "physics/reach",
        max_tokens=16,
        text_tokens=20,
        # From 32 answers at a time it never learns where anything is (experiments/results/presets_nano.md).
        imitation=ImitationConfig(steps=700, worlds=128, learning_rate=1e-3, expert_fraction=0.9),
    )


def _family(
    world: str,
    max_tokens: int,
    imitation: ImitationConfig,
    text_tokens: int = 0,
    max_pixels: int = 64 * 80,
    iterations: int = 30,
) -> RunConfig:
    """The nano model in a world's training instances, and judged on those held out.

    Args:
      world: a name, with options or not.
      max_tokens: of an answer.
      imitation: the warm start.
      text_tokens: of the world's own text; 0 = it is not shown.
      max_pixels: of a frame as the model sees it; few where all is told in words.
      iterations: of the training.
    """
    options = "," if ":" in world else ":"
    start = nano()
    return dataclasses.replace(
        start,
        world=f"{world}{options}split=train",
        iterations=iterations,
        # At the usual 0.02 none of them learns to read (experiments/results/presets_nano.md); MiniWorld's boxes,
        # which fill more of a picture, are seen all the same.
        model=dataclasses.replace(start.model, max_pixels=max_pixels, initializer_range=0.08),
        policy=dataclasses.replace(
            start.policy, max_tokens=max_tokens, text_observation=text_tokens > 0, text_tokens=text_tokens
        ),
        imitation=imitation,
        # Without it the first iteration that trains the model carries it up to 2.9 nats a token off.
        optimizer=dataclasses.replace(start.optimizer, warmup=16),
        evaluation=EvaluationConfig(unseen=(f"{world}{options}split=test",)),
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
    "household": household,
    "shop": shop,
    "physics": physics,
    "one_room": one_room,
    "qwen2_vl_7b": qwen2_vl_7b,
}
