"""Worlds x policy -> Trajectory, as one `lax.scan`.

* Nothing leaves the device: rendering, the model's answer, its parsing and the worlds' step are one program.
* Whole episodes do not fit a rollout's window; lanes go on where they stood, so that none is favoured.
* A frame is encoded once, when it comes into view: what the model sees of it is carried along with the lanes.
* What an invalid answer does is a setting, never a silent guess: see `RolloutConfig.invalid`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from envs_jax import World
from vldac.lanes import Lanes, Observation, ResetPool, advance
from vldac.policy import Policy, Response, Sight


@dataclass(frozen=True)
class RolloutConfig:
    """How experience is gathered. One iteration takes `worlds * steps` environment steps."""

    worlds: int = 32
    """Worlds side by side on the device."""
    steps: int = 8
    """Environment steps of each world in one iteration."""
    invalid: Literal["noop", "penalty", "random"] = "noop"
    """An answer that names no action: nothing moves and the step is counted ("noop"); the same and
    `invalid_penalty` off the reward ("penalty"); or a uniformly random action is taken in its place, as the
    reference code does ("random")."""
    invalid_penalty: float = 0.1
    """What an invalid answer costs with invalid="penalty"."""
    reset_pool: int = 0
    """Fresh episodes prepared for one rollout; 0 means one for every 4 environment steps, at least one a
    world. When they run out they are reused with other random keys."""

    def __post_init__(self):
        for field in ("worlds", "steps"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field} is {getattr(self, field)}; accepted: 1 or more")
        if self.reset_pool < 0 or self.invalid_penalty < 0:
            raise ValueError(
                f"reset_pool is {self.reset_pool} and invalid_penalty {self.invalid_penalty}; accepted: 0 or more"
            )

    @property
    def pool_size(self) -> int:
        return self.reset_pool or max(self.worlds, math.ceil(self.worlds * self.steps / 4))


@struct.dataclass
class Trajectory:
    """What a rollout of T steps in B lanes gave, leaves [T, B, ...].

    Attributes:
      observation: what was acted on; frames are uint8.
      response: the answer, its log-probabilities when sampled, the action and the value.
      reward: float32[T, B], after `invalid_penalty`.
      terminated, truncated, success: bool[T, B].
      valid: bool[T, B]; false where the row only carries the value of a truncated episode's last
        observation. Worked example, an episode truncated at t = 1: valid = [1, 1, 0, 1, ...].
      ended: bool[T, B], an episode ended in this step.
      episode_return: float32[T, B], and episode_length: int32[T, B], up to and including this step.
      last_value: float32[B], value of the observation after the last row.
    """

    observation: Observation
    response: Response
    reward: Float[Array, "t b"]
    terminated: Bool[Array, "t b"]
    truncated: Bool[Array, "t b"]
    success: Bool[Array, "t b"]
    valid: Bool[Array, "t b"]
    ended: Bool[Array, "t b"]
    episode_return: Float[Array, "t b"]
    episode_length: Int[Array, "t b"]
    last_value: Float[Array, " b"]

    @property
    def next_values(self) -> Float[Array, "t b"]:
        """float32[T, B], value of what each step led to: the next row's, where the episode goes on.

        After a truncated step the next row is the `valid = False` one that shows its last observation.
        """
        return jnp.concatenate([self.response.value[1:], self.last_value[None]])


def rollout(
    policy: Policy, world: World, params: Any, lanes: Lanes, key: PRNGKeyArray, config: RolloutConfig
) -> tuple[Lanes, Trajectory]:
    """Takes `config.steps` steps with every lane.

    Args:
      policy: decides; its parameters are `params` throughout.
      world: the worlds' rules.
      params: the policy's parameters.
      lanes: B worlds in mid-episode, B = config.worlds.
      key: of this rollout.

    Returns:
      (lanes, trajectory): the worlds as they are now, and what happened.
    """
    history = policy.config.history
    pool_key, key = jax.random.split(key)
    pool = ResetPool.create(world, pool_key, config.pool_size)
    prepared = policy.prepare(params)
    sight = policy.look(prepared, lanes.observation.frames)

    def step(carry, key):
        lanes, pool, sight = carry
        act_key, random_key = jax.random.split(key)
        response = policy.act(prepared, lanes.observation, act_key, lanes.closing, sight)
        actions, penalty = response.action, 0.0
        invalid = actions < 0
        if config.invalid == "random":
            uniform = jax.random.randint(random_key, actions.shape, 0, len(world.actions), jnp.int32)
            actions = jnp.where(invalid, uniform, actions)
        elif config.invalid == "penalty":
            penalty = config.invalid_penalty * invalid
        observation = lanes.observation
        lanes, outcome, pool = advance(world, lanes, actions, pool, history)
        row = dict(
            observation=observation,
            response=response,
            reward=outcome.step.reward - jnp.where(outcome.valid, penalty, 0.0),
            terminated=outcome.step.terminated,
            truncated=outcome.step.truncated,
            success=outcome.step.success,
            valid=outcome.valid,
            ended=outcome.ended,
            episode_return=outcome.episode_return,
            episode_length=outcome.episode_length,
        )
        return (lanes, pool, look_on(policy, prepared, lanes.observation, sight)), row

    (lanes, _, sight), rows = jax.lax.scan(step, (lanes, pool, sight), jax.random.split(key, config.steps))
    last_value = policy.value(prepared, lanes.observation, sight)
    return lanes, Trajectory(**rows, last_value=last_value)


def look_on(policy: Policy, prepared: Any, observation: Observation, sight: Sight) -> Sight:
    """The sight of observations that moved on by one frame: only that one is encoded.

    In a fresh episode older frames are absent, and what is left of the episode before is never looked at.
    """
    newest = policy.look(prepared, observation.frames[:, -1:])
    return jnp.concatenate([sight[:, 1:], newest], axis=1)


def rollout_metrics(trajectory: Trajectory) -> dict[str, Float[Array, ""]]:
    """Means over a rollout, float32[] each. Success, return and length are over the episodes that ended in
    it (NaN where none did): a short window favours short episodes, so judge a policy by whole ones
    (`vldac.evaluate.worlds`)."""

    def mean(x, where):
        where = where.astype(jnp.float32)
        return (x * where).sum() / where.sum()  # 0/0 -> NaN: no such thing happened

    valid, ended, response = trajectory.valid, trajectory.ended, trajectory.response
    return {
        "success_rate": mean(trajectory.success.astype(jnp.float32), ended),
        "episode_return": mean(trajectory.episode_return, ended),
        "episode_length": mean(trajectory.episode_length.astype(jnp.float32), ended),
        "episodes": ended.sum().astype(jnp.float32),
        "reward": mean(trajectory.reward, valid),
        "parse_failure_rate": mean((response.action < 0).astype(jnp.float32), valid),
        "answer_tokens": mean(response.mask.sum(-1).astype(jnp.float32), valid),
        "tokens": response.mask.sum().astype(jnp.float32),
        "value": mean(response.value, valid),
        "env_steps": valid.sum().astype(jnp.float32),
    }
