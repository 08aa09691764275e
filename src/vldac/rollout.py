"""Worlds x policy -> Trajectory, as one loop: in step, or by lanes that work off a queue (`vldac.pooled`).

* Nothing leaves the device: rendering, the model's answer, its parsing and the worlds' step are one program.
* Whole episodes do not fit a rollout's window; lanes go on where they stood, so that none is favoured.
* A frame is encoded once, when it comes into view: what the model sees of it is carried along with the lanes.
* What is drawn for a world's step depends on nothing but the rollout's key, the world's number and the step's: in
  which order and beside which others it is answered does not matter.
* What an invalid answer does is a setting, never a silent guess: see `RolloutConfig.invalid`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int, Key, PRNGKeyArray

from envs_jax import World
from envs_jax.world import random_action
from vldac.answers import Response
from vldac.lanes import Lanes, Observation, ResetPool, action_ids, advance, select
from vldac.mesh import batch_specs, whole_specs
from vldac.parts import in_parts
from vldac.policy import Policy
from vldac.pooled import Worlds, pooled


@dataclass(frozen=True)
class RolloutConfig:
    """How experience is gathered. One iteration takes `worlds * steps` environment steps."""

    worlds: int = 32
    """Worlds side by side on the device."""
    steps: int = 8
    """Environment steps of each world in one iteration."""
    invalid: Literal["noop", "penalty", "random"] = "penalty"
    """An answer that names no action: nothing moves and the step is counted ("noop"); the same and
    `invalid_penalty` off the reward ("penalty"); or a uniformly random action is taken in its place, as the
    reference code does ("random"). A lost step alone costs hardly anything where gamma is near 1, and such answers
    spread."""
    invalid_penalty: float = 0.1
    """What an invalid answer costs with invalid="penalty"."""
    reset_pool: int = 0
    """Fresh episodes prepared for one rollout; 0 means one for every 4 environment steps, at least one a
    world. When they run out they are reused with other random keys."""
    lanes: int = 0
    """Answers written side by side. 0 = one for every world, and a step lasts as long as its longest answer; else
    a lane whose answer has ended goes on with another world, and there may be fewer lanes than worlds."""
    refill: int = 0
    """Lanes that begin new answers together, once so many have ended; 0 = an eighth of `lanes`."""

    def __post_init__(self):
        for field in ("worlds", "steps"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field} is {getattr(self, field)}; accepted: 1 or more")
        if self.reset_pool < 0 or not 0 <= self.invalid_penalty < math.inf:
            raise ValueError(
                f"reset_pool is {self.reset_pool} and invalid_penalty {self.invalid_penalty}; accepted: finite, 0 "
                "or more"
            )
        if not 0 <= self.lanes <= self.worlds:
            raise ValueError(f"lanes is {self.lanes}; accepted: 0 to worlds, which is {self.worlds}")
        if not 0 <= self.refill <= self.lanes:
            raise ValueError(f"refill is {self.refill}; accepted: 0 to lanes, which is {self.lanes}")

    @property
    def refill_size(self) -> int:
        return self.refill or max(1, self.lanes // 8)

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
      sight: what was seen, float[T, B, history, levels, tokens, d] as `Policy.look` gives it; None where the
        vision tower is trained, as it is to be looked at anew then.
      lane_tokens: int32[], tokens that could have been written: turns of the loop over tokens x lanes. (The first
        token of an answer comes from reading the prompt, not from that loop.)
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
    lane_tokens: Int[Array, ""]
    sight: Float[Array, "t b history levels n d"] | None = None

    def specs(self) -> Trajectory:
        """How it, or its shapes, lies on the ambient mesh: a `PartitionSpec` in place of every leaf."""
        specs = batch_specs(self.replace(last_value=None, lane_tokens=None), axis=1)
        return specs.replace(last_value=batch_specs(self.last_value), lane_tokens=whole_specs(self.lane_tokens))

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
    pool_key, key = jax.random.split(key)
    pool = ResetPool.create(world, pool_key, config.worlds, config.pool_size)
    prepared = policy.prepare(params)
    sight = policy.look(prepared, lanes.observation.frames)

    def settle(lanes, pool, sight, response, keys):
        """What comes of the answers: the worlds after them, and a row of the trajectory."""
        observation = lanes.observation
        lanes, pool, row = take_step(world, config, policy.config.history, lanes, pool, response, keys)
        row |= {"observation": observation, "response": response}
        if policy.keeps_sight(params):
            row["sight"] = sight
        return lanes, pool, policy.look_on(prepared, lanes.observation, sight), row

    def step(carry, number):
        lanes, pool, sight = carry
        keys = step_keys(key, number, jnp.arange(config.worlds))
        response = policy.act(prepared, lanes.observation, keys[:, 0], lanes.closing, sight)
        *carry, row = settle(lanes, pool, sight, response, keys[:, 1])
        turns = jnp.maximum(response.mask.sum(-1, dtype=jnp.int32).max() - 1, 0)
        return tuple(carry), (row, turns * config.worlds)

    if config.lanes:
        worlds, rows, lane_tokens = pooled(
            policy,
            prepared,
            Worlds(lanes, pool, sight),
            settle,
            lambda steps, numbers: step_keys(key, steps, numbers),
            config.steps,
            config.lanes,
            config.refill_size,
        )
        lanes, sight = worlds.lanes, worlds.sight
    else:
        (lanes, _, sight), (rows, lane_tokens) = jax.lax.scan(step, (lanes, pool, sight), jnp.arange(config.steps))
    last_value = in_parts(
        lambda part: policy.value(prepared, *part),
        (lanes.observation, sight),
        config.refill_size if config.lanes else config.worlds,
    )
    return lanes, Trajectory(**rows, last_value=last_value, lane_tokens=lane_tokens.sum())


def take_step(
    world: World,
    config: RolloutConfig,
    history: int,
    lanes: Lanes,
    pool: ResetPool,
    response: Response,
    keys: Key[Array, " b"],
) -> tuple[Lanes, ResetPool, dict[str, Any]]:
    """The worlds move as they were answered: (lanes, pool, what happened, under `Trajectory`'s names)."""
    actions, penalty = response.action, 0.0
    invalid = action_ids(world, actions) < 0
    if config.invalid == "random":
        drawn = jax.vmap(lambda state, key: random_action(world, state, key))(lanes.world, keys)
        actions = select(invalid, drawn, actions)
    elif config.invalid == "penalty":
        penalty = config.invalid_penalty * invalid
    lanes, outcome, pool = advance(world, lanes, actions, pool, history)
    return (
        lanes,
        pool,
        {
            "reward": outcome.step.reward - jnp.where(outcome.valid, penalty, 0.0),
            "terminated": outcome.step.terminated,
            "truncated": outcome.step.truncated,
            "success": outcome.step.success,
            "valid": outcome.valid,
            "ended": outcome.ended,
            "episode_return": outcome.episode_return,
            "episode_length": outcome.episode_length,
        },
    )


def step_keys(key: PRNGKeyArray, steps: Int[Array, "..."], worlds: Int[Array, " b"]) -> Key[Array, "b 2"]:
    """Of the answers, and of what is drawn in their stead, in these steps of these worlds."""

    def of_one(step, world):
        return jax.random.split(jax.random.fold_in(jax.random.fold_in(key, step), world))

    return jax.vmap(of_one)(jnp.broadcast_to(steps, worlds.shape), worlds)


def rollout_metrics(trajectory: Trajectory) -> dict[str, Float[Array, ""]]:
    """Means over a rollout, float32[] each. Success, return and length are over the episodes that ended in
    it (NaN where none did): a short window favours short episodes, so judge a policy by whole ones
    (`vldac.evaluate.worlds`)."""

    def mean(x, where):
        where = where.astype(jnp.float32)
        return (x * where).sum() / where.sum()  # 0/0 -> NaN: no such thing happened

    valid, ended, response = trajectory.valid, trajectory.ended, trajectory.response
    ids = response.action if response.action.ndim == valid.ndim else response.action[..., 0]  # of records
    followers = response.mask[..., 1:].sum()  # tokens that are not the first of their answer
    return {
        "success_rate": mean(trajectory.success.astype(jnp.float32), ended),
        "episode_return": mean(trajectory.episode_return, ended),
        "episode_length": mean(trajectory.episode_length.astype(jnp.float32), ended),
        "episodes": ended.sum().astype(jnp.float32),
        "reward": mean(trajectory.reward, valid),
        "parse_failure_rate": mean((ids < 0).astype(jnp.float32), valid),
        "answer_tokens": mean(response.mask.sum(-1).astype(jnp.float32), valid),
        "tokens": response.mask.sum().astype(jnp.float32),
        "lane_use": followers / trajectory.lane_tokens,
        "value": mean(response.value, valid),
        "env_steps": valid.sum().astype(jnp.float32),
    }
