"""Supervised warm start: learn to see and to answer from the worlds' own experts, before any reward.

* A model that never wrote a valid answer gets no reward to learn from; a few hundred steps of imitation mend
  that. Thoughts say what the expert sees and are always right.
* Actions are deliberately poor: with probability `1 - expert_fraction` uniformly random. The model learns the
  worlds' words and pictures, and what to do about them stays for reinforcement learning to find.
* Demonstrations are made on the device while they are learnt from: worlds step under the noisy expert, and
  its answers are written from pre-tokenised fragments. There is no data set.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from envs_jax import World
from vldac.lanes import Lanes, Observation, ResetPool, advance, begin, random_actions, select
from vldac.mesh import batch_specs, constrain, gather, param_specs, shard_batch, shard_params, whole_specs
from vldac.policy import Policy
from vldac.text.fragments import AnswerWriter


@dataclass(frozen=True)
class ImitationConfig:
    """How much, and from how good a teacher."""

    steps: int = 400
    """Optimizer updates; 0 = no warm start."""
    worlds: int = 32
    """Worlds side by side."""
    window: int = 1
    """Environment steps of each world that one update learns from: its batch is worlds x window answers."""
    learning_rate: float = 2e-3
    """At the start, after a short rise; falls along a cosine to a tenth."""
    expert_fraction: float = 0.4
    """Share of the actions that are the expert's; the others are uniformly random."""
    max_grad_norm: float = 1.0
    """Longer gradients are scaled down to this global norm."""

    def __post_init__(self):
        for name, least in (("steps", 0), ("worlds", 1), ("window", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; accepted: {least} or more")
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(f"learning_rate is {self.learning_rate}; accepted: above 0, finite")
        if not self.max_grad_norm > 0:
            raise ValueError(f"max_grad_norm is {self.max_grad_norm}; accepted: above 0")
        if not 0 <= self.expert_fraction <= 1:
            raise ValueError(f"expert_fraction is {self.expert_fraction}; accepted: 0 to 1")


@dataclass(frozen=True, eq=False)
class Imitation:
    """All that is static in a warm start; hashed by identity.

    Attributes:
      world, policy: who is imitated, and who imitates.
      writer: writes the demonstrations' answers.
      config: see there.
    """

    world: World
    policy: Policy
    writer: AnswerWriter
    config: ImitationConfig

    def transformation(self) -> optax.GradientTransformation:
        config = self.config
        schedule = optax.warmup_cosine_decay_schedule(
            0.0,
            config.learning_rate,
            warmup_steps=min(10, config.steps // 2),
            decay_steps=max(config.steps, 1),
            end_value=config.learning_rate / 10,
        )
        return optax.chain(optax.clip_by_global_norm(config.max_grad_norm), optax.adam(schedule))


@struct.dataclass
class ImitationState:
    """All that changes.

    Attributes:
      params: of the policy. The model learns, or its adapter if it has one; the critic is not touched.
      opt_state: of the learner's optimizer.
      lanes: the worlds in mid-episode.
      key: of what comes next.
    """

    params: Any
    opt_state: Any
    lanes: Lanes
    key: PRNGKeyArray

    def specs(self) -> ImitationState:
        """How the state, or its shapes, lies on the ambient mesh: a `PartitionSpec` in place of every leaf."""
        return whole_specs(self).replace(
            params=param_specs(self.params),
            opt_state=param_specs(self.opt_state),
            lanes=batch_specs(self.lanes),
        )


@struct.dataclass
class Demonstration:
    """Answers to imitate, leaves [..., S, ...].

    Attributes:
      observation: what is answered.
      tokens: int32[S, N], the answer, end-of-sequence included, padded.
      mask: bool[S, N], the answer's tokens.
      valid: bool[S], false for steps to leave out (an episode's closing row).
    """

    observation: Observation
    tokens: Int[Array, "*t s n"]
    mask: Bool[Array, "*t s n"]
    valid: Bool[Array, "*t s"]


def init(setup: Imitation, params: Any, key: PRNGKeyArray) -> ImitationState:
    """The state before the first update.

    Args:
      params: of the policy. What learns is copied, so that the state can be donated; the rest is not, and is gone
        when it is.
      key: of the warm start.
    """

    @jax.jit
    def build(learnt, key):
        key, lanes_key = jax.random.split(key)
        keys = jax.random.split(lanes_key, setup.config.worlds)
        return ImitationState(
            params=shard_params(learnt),
            opt_state=shard_params(setup.transformation().init(learnt)),
            lanes=begin(setup.world, keys, setup.policy.config.history),
            key=key,
        )

    name = learner(params)
    state = build(params[name], key)
    return state.replace(params=params | {name: state.params})


def learner(params: Any) -> str:
    """Which of a policy's parameters learn."""
    return "adapter" if "adapter" in params else "model"


def run(setup: Imitation, steps: int, state: ImitationState) -> tuple[ImitationState, dict[str, Float[Array, ""]]]:
    """`steps` updates as one program.

    Returns:
      (state, metrics): means over the updates, in nats per token: `loss`, the negative log-likelihood, and
      `entropy` of the model's distribution.
    """

    def step(state, _):
        key, demonstration_key = jax.random.split(state.key)
        lanes, batch = demonstrate(setup, state.lanes, demonstration_key)
        name = learner(state.params)
        learnt = state.params[name]
        grads, metrics = jax.grad(
            lambda learnt: imitation_loss(setup, state.params | {name: learnt}, batch), has_aux=True
        )(learnt)
        updates, opt_state = setup.transformation().update(grads, state.opt_state)
        params = state.params | {name: optax.apply_updates(learnt, updates)}
        return state.replace(params=params, opt_state=opt_state, lanes=lanes, key=key), metrics

    state, metrics = jax.lax.scan(step, state, length=steps)
    return constrain(state, state.specs()), gather(jax.tree.map(jnp.mean, metrics))


jit_run = jax.jit(run, static_argnums=(0, 1), donate_argnums=2)


def demonstrate(setup: Imitation, lanes: Lanes, key: PRNGKeyArray) -> tuple[Lanes, Demonstration]:
    """The worlds step under the noisy expert, which thinks aloud: demonstrations [worlds * window, ...]."""
    world, config = setup.world, setup.config
    key, pool_key = jax.random.split(key)
    pool = ResetPool.create(world, pool_key, config.worlds)

    def step(carry, key):
        lanes, pool = carry
        expert_key, random_key, choice_key = jax.random.split(key, 3)
        expert = jax.vmap(world.expert)(lanes.world, jax.random.split(expert_key, config.worlds))
        uniform = random_actions(world, lanes.world, random_key)
        follow = jax.random.uniform(choice_key, lanes.closing.shape) < config.expert_fraction
        actions = select(follow, expert, uniform)
        tokens, mask = jax.vmap(setup.writer.write)(jax.vmap(world.explain)(lanes.world), actions)
        row = Demonstration(observation=lanes.observation, tokens=tokens, mask=mask, valid=~lanes.closing)
        lanes, _, pool = advance(world, lanes, actions, pool, setup.policy.config.history)
        return (lanes, pool), row

    (lanes, _), rows = jax.lax.scan(step, (lanes, pool), jax.random.split(key, config.window))
    return lanes, shard_batch(jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), rows))


def imitation_loss(
    setup: Imitation, params: Any, batch: Demonstration
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """Negative log-likelihood of the demonstrated answers, mean over tokens; differentiable in `params`."""
    scores = setup.policy.log_probs(params, batch.observation, batch.tokens, batch.mask)
    weight = (batch.mask & batch.valid[:, None]).astype(jnp.float32)
    count = jnp.maximum(weight.sum(), 1.0)
    loss = -(scores.log_probs * weight).sum() / count
    return loss, {"loss": loss, "entropy": (scores.entropy * weight).sum() / count}
