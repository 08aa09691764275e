"""From a configuration to the parts of a run: worlds, tokenizer, policies, training setup."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

import envs_jax
from experiments.config import ConfigError, RunConfig
from vldac.imitation import Imitation
from vldac.models import VLMConfig, nano
from vldac.policy import Policy, init_params
from vldac.text.fragments import AnswerWriter
from vldac.text.tokenizer import IMAGE, VIDEO, VISION_END, VISION_START, load_tokenizer, special_id, vocabulary
from vldac.train import Setup


@dataclass(frozen=True, eq=False)
class Parts:
    """What a run is made of; nothing here changes while it runs.

    Attributes:
      config: where all this comes from.
      model_config: the model's sizes.
      setup: world, policy and configuration of the training.
      imitation: the warm start.
      worlds: all that are evaluated, by name, the trained one first.
      policies: world's name -> the policy as it acts there; all share parameters.
    """

    config: RunConfig
    model_config: VLMConfig
    setup: Setup
    imitation: Imitation
    worlds: dict[str, envs_jax.World]
    policies: dict[str, Policy]

    def facts(self) -> dict[str, Any]:
        """What a reader of the run's summary must know: which model, which tasks, how many episodes."""
        shapes = jax.eval_shape(lambda key: init_params(self.model_config, key, ()), jax.random.key(0))
        parameters = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes["model"]))
        return {
            "model": f"{self.config.model.preset}, {parameters / 1e6:.2f} M parameters",
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
    tokenizer = load_tokenizer()
    model_config = nano(
        vocabulary(tokenizer).size,
        image_token_id=special_id(tokenizer, IMAGE),
        vision_start_token_id=special_id(tokenizer, VISION_START),
        vision_end_token_id=special_id(tokenizer, VISION_END),
        video_token_id=special_id(tokenizer, VIDEO),
    )

    worlds = {name: envs_jax.make(name) for name in (config.world, *config.evaluation.unseen)}
    policies = {
        name: Policy.build(
            world,
            tokenizer,
            model_config,
            config.policy,
            config.model.value_head,
            jnp.dtype(config.model.dtype),
        )
        for name, world in worlds.items()
    }
    world, policy = worlds[config.world], policies[config.world]
    setup = Setup(
        world=world,
        policy=policy,
        iterations=config.iterations,
        rollout=config.rollout,
        algorithm=config.algorithm,
        optimizer=config.optimizer,
    )
    writer = AnswerWriter.build(
        world.phrases, world.actions, tokenizer, policy.vocabulary, config.policy.max_tokens
    )
    return Parts(
        config=config,
        model_config=model_config,
        setup=setup,
        imitation=Imitation(world=world, policy=policy, writer=writer, config=config.imitation),
        worlds=worlds,
        policies=policies,
    )
