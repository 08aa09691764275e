"""From a configuration to the parts of a run: worlds, tokenizer, policies, training setup."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

import envs_jax
from envs_jax.world import slots_of
from experiments.config import ConfigError, ModelConfig, RunConfig
from vldac.imitation import Imitation
from vldac.mesh import batch_ways
from vldac.models import SIZES, VLMConfig
from vldac.models.weights import check_weights, find_checkpoint, read_config
from vldac.params import init_params
from vldac.policy import Policy
from vldac.state import Setup
from vldac.text.fragments import AnswerWriter
from vldac.text.tokenizer import (
    BPE_TOKENIZER,
    IMAGE,
    VIDEO,
    VISION_END,
    VISION_START,
    Tokenizer,
    load_tokenizer,
    special_id,
    vocabulary,
)


@dataclass(frozen=True, eq=False)
class Parts:
    """What a run is made of; nothing here changes while it runs.

    Attributes:
      config: where all this comes from.
      mesh: the devices, None for the first one alone.
      checkpoint: the folder that the model's weights are read from, None where they are drawn.
      tokenizer: the model's.
      model_config: the model's sizes.
      setup: world, policy and configuration of the training.
      imitation: the warm start.
      worlds: all that are evaluated, by name, the trained one first.
      policies: world's name -> the policy as it acts there; all share parameters.
    """

    config: RunConfig
    mesh: Mesh | None
    checkpoint: Path | None
    tokenizer: Tokenizer
    model_config: VLMConfig
    setup: Setup
    imitation: Imitation
    worlds: dict[str, envs_jax.World]
    policies: dict[str, Policy]

    @property
    def random_published(self) -> bool:
        """Whether this is a model of a published size that has learnt nothing."""
        return self.checkpoint is None and self.config.model.preset not in ("nano", "mini")

    @property
    def mesh_sizes(self) -> dict[str, int]:
        """Of the mesh's axes."""
        return {} if self.mesh is None else dict(self.mesh.shape)

    def abstract_params(self) -> Any:
        """Shapes and dtypes of the policy's parameters."""
        model = self.config.model
        return jax.eval_shape(
            lambda key: init_params(self.model_config, key, model.value_head, model.lora, jnp.dtype(model.dtype)),
            jax.random.key(0),
        )

    def facts(self) -> dict[str, Any]:
        """What a reader of the run's summary must know: which model, which tasks, how many episodes."""
        model, params = self.config.model, self.abstract_params()
        size = f"{count(params['model']) / 1e6:.2f} M parameters"
        if "adapter" in params:
            size += f", LoRA of rank {model.lora.rank} with {count(params['adapter']) / 1e6:.2f} M"
        return {
            "model": f"{model.path or model.preset}, {size}",
            "episodes": self.config.evaluation.episodes,
            "worlds": {
                name: {
                    "instruction": world.instruction,
                    "actions": list(world.actions),
                    "max_steps": world.max_steps,
                }
                for name, world in self.worlds.items()
            },
        }


def count(params: Any) -> int:
    """Numbers in a tree of arrays or of their shapes."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


def build(config: RunConfig) -> Parts:
    """Builds everything that can be built without computing on the device.

    Raises:
      ConfigError: parts that do not fit each other.
    """
    try:
        return _build(config)
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _build(config: RunConfig) -> Parts:
    mesh = config.mesh.build()
    if mesh is not None:
        check_divides(config, batch_ways(mesh.shape))
    checkpoint, tokenizer, model_config = open_model(config.model)
    worlds = {name: envs_jax.make(name) for name in (config.world, *config.evaluation.unseen)}
    policies = {name: policy_in(world, config, tokenizer, model_config) for name, world in worlds.items()}
    world, policy = worlds[config.world], policies[config.world]
    setup = Setup(
        world=world,
        policy=policy,
        iterations=config.iterations,
        rollout=config.rollout,
        algorithm=config.algorithm,
        optimizer=config.optimizer,
        taught=config.imitation.steps > 0,
    )
    writer = AnswerWriter.build(
        world.phrases, world.actions, tokenizer, policy.vocabulary, config.policy.max_tokens, slots_of(world)
    )
    return Parts(
        config=config,
        mesh=mesh,
        checkpoint=checkpoint,
        tokenizer=tokenizer,
        model_config=model_config,
        setup=setup,
        imitation=Imitation(world=world, policy=policy, writer=writer, config=config.imitation),
        worlds=worlds,
        policies=policies,
    )


def check_divides(config: RunConfig, ways: int) -> None:
    """Finds out whether what is shared out over a mesh can be shared out evenly.

    Args:
      ways: parts that worlds and batches are cut into, data x fsdp.

    Raises:
      ConfigError: a size that does not divide.
    """
    optimizer, imitation = config.optimizer, config.imitation
    part = "microbatch" if optimizer.microbatch else "minibatch"
    shared = {"rollout.worlds": config.rollout.worlds, f"optimizer.{part}": getattr(optimizer, part)}
    if config.rollout.lanes:
        shared |= {"rollout.lanes": config.rollout.lanes, "rollout.refill": config.rollout.refill_size}
    if imitation.steps:
        shared["imitation.worlds"] = imitation.worlds
    for name, size in shared.items():
        if size % ways:
            raise ConfigError(f"{name} is {size}; accepted: multiples of mesh.data x mesh.fsdp, which is {ways}")


def policy_in(world: envs_jax.World, config: RunConfig, tokenizer: Tokenizer, model_config: VLMConfig) -> Policy:
    """The run's policy as it acts in a world."""
    model = config.model
    dtype = jnp.dtype(model.dtype)
    gather = config.mesh.gather and config.mesh.fsdp > 1
    return Policy.build(world, tokenizer, model_config, config.policy, model.value_head, dtype, model.lora, gather)


def open_model(config: ModelConfig) -> tuple[Path | None, Tokenizer, VLMConfig]:
    """(folder of the checkpoint or None, tokenizer, sizes). Of the weights only the headers are read.

    Raises:
      ValueError: no such checkpoint, or one that can not be used.
    """
    if config.path:
        folder = find_checkpoint(config.path)
        model_config = read_config(folder)
        check_weights(folder, model_config)
        return folder, load_tokenizer(folder), model_config
    tokenizer = load_tokenizer(BPE_TOKENIZER)
    model_config = SIZES[config.preset](
        vocabulary(tokenizer).size,
        image_token_id=special_id(tokenizer, IMAGE),
        vision_start_token_id=special_id(tokenizer, VISION_START),
        vision_end_token_id=special_id(tokenizer, VISION_END),
        video_token_id=special_id(tokenizer, VIDEO),
    )
    if config.max_pixels:
        image = dataclasses.replace(model_config.image, max_pixels=config.max_pixels)
        model_config = dataclasses.replace(model_config, image=image)
    if config.initializer_range:
        drawn = {"initializer_range": config.initializer_range}
        model_config = dataclasses.replace(
            model_config,
            text=dataclasses.replace(model_config.text, **drawn),
            vision=dataclasses.replace(model_config.vision, **drawn),
        )
    return None, tokenizer, model_config
