"""Whole episodes in a world: what a policy, a scripted expert or chance achieves, each episode counted once.

* A fixed set of episodes is played by fewer lanes: a lane whose episode is over takes the next one that nobody
  has begun, until all are done. Every episode is played to its end and counts once, so quick ones are not
  favoured, as they are in a window of fixed length; and no lane waits for the slowest.
* A world that breaks its contract and does not end an episode within its `max_steps` is cut there: all of this is
  one loop on the device, which nothing else would end.
* One program a world: the first episodes are recorded (frames, words, actions) while they are played.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, UInt8

from envs_jax import World
from envs_jax.options import check_max_steps
from envs_jax.world import action_shape
from vldac.lanes import Observation, action_ids, observe, observe_lanes, random_actions, select
from vldac.mesh import shard_batch
from vldac.policy import Policy


@struct.dataclass
class Decision:
    """What was decided in B lanes.

    Attributes:
      action: int32[B], -1 = an answer that names none; with slots records, int32[B, 1 + n].
      tokens: int32[B, N], the answer; N = 0 for those that do not speak.
      mask: bool[B, N], its tokens.
    """

    action: Int[Array, "b ..."]
    tokens: Int[Array, "b n"]
    mask: Bool[Array, "b n"]


# (worlds' states [B, ...], observation [B, ...], memory, key, idle bool[B]) -> Decision
Decide = Callable[[Any, Observation, Any, PRNGKeyArray, Array], Decision]
# (observation [B, ...], memory of the one before, None at first) -> memory
Remember = Callable[[Observation, Any], Any]


@struct.dataclass
class Results:
    """What came of E episodes.

    Attributes:
      success: bool[E].
      length: int32[E], steps taken.
      episode_return: float32[E], sum of rewards.
      invalid: int32[E], answers that named no action.
      tokens: int32[E], tokens written.
    """

    success: Bool[Array, " e"]
    length: Int[Array, " e"]
    episode_return: Float[Array, " e"]
    invalid: Int[Array, " e"]
    tokens: Int[Array, " e"]


@struct.dataclass
class Recording:
    """The first R episodes step by step, leaves [R, max_steps, ...]; what lies behind an episode's length is 0.

    Attributes:
      frames: uint8[R, S, H, W, 3], what was acted on.
      action: int32[R, S], or records, int32[R, S, 1 + n].
      reward: float32[R, S].
      tokens: int32[R, S, N], and mask: bool[R, S, N], the answers.
    """

    frames: UInt8[Array, "r s h w 3"]
    action: Int[Array, "r s ..."]
    reward: Float[Array, "r s"]
    tokens: Int[Array, "r s n"]
    mask: Bool[Array, "r s n"]


@struct.dataclass
class _Loop:
    """Attributes:
    number: int32[B], the episode that each lane plays; E or more = none is left, the lane is idle.
    step: int32[B], its steps so far.
    begun: int32[], episodes that have been begun.
    turn: int32[], for the keys.
    memory: what the observation's `Remember` gave.
    """

    number: Int[Array, " b"]
    step: Int[Array, " b"]
    begun: Int[Array, ""]
    turn: Int[Array, ""]
    states: Any
    observation: Observation
    memory: Any
    results: Results
    recording: Recording


def play(
    world: World,
    decide: Decide,
    key: PRNGKeyArray,
    episodes: int,
    lanes: int,
    history: int = 1,
    record: int = 0,
    answer_tokens: int = 0,
    remember: Remember = lambda observation, memory: None,
) -> tuple[Results, Recording]:
    """Plays `episodes` fresh episodes to their ends, or for `world.max_steps` steps where they have none.

    What has not been solved when it is cut counts as not solved.

    Args:
      world: where.
      decide: who acts.
      key: of the episodes and of all that happens in them.
      episodes: E, how many.
      lanes: B, how many at a time; at most E are used.
      history: frames of an observation.
      record: R, how many of the first episodes are recorded.
      answer_tokens: N of the decisions.
      remember: what `decide` is told of observations beside the present one; of a lane's last episode, too.

    Returns:
      (results, recording).

    Raises:
      ValueError: the world's `max_steps` is no positive int.
    """
    check_max_steps(world.max_steps)
    lanes, record = min(lanes, episodes), min(record, episodes)
    reset_key, key = jax.random.split(key)
    fresh = jax.vmap(world.reset)(jax.random.split(reset_key, episodes))  # [E, ...]
    states = shard_batch(jax.tree.map(lambda leaf: leaf[:lanes], fresh))
    steps, none = world.max_steps, jnp.zeros(episodes, jnp.int32)
    observation = jax.vmap(lambda state: observe(world, state, None, history))(states)
    loop = _Loop(
        number=jnp.arange(lanes, dtype=jnp.int32),
        step=jnp.zeros(lanes, jnp.int32),
        begun=jnp.int32(lanes),
        turn=jnp.int32(0),
        states=states,
        observation=observation,
        memory=remember(observation, None),
        results=Results(
            success=none.astype(bool),
            length=none,
            episode_return=none.astype(jnp.float32),
            invalid=none,
            tokens=none,
        ),
        recording=Recording(
            frames=jnp.zeros((record, steps, *world.image_shape), jnp.uint8),
            action=jnp.zeros((record, steps, *action_shape(world)), jnp.int32),
            reward=jnp.zeros((record, steps), jnp.float32),
            tokens=jnp.zeros((record, steps, answer_tokens), jnp.int32),
            mask=jnp.zeros((record, steps, answer_tokens), bool),
        ),
    )

    def body(loop: _Loop) -> _Loop:
        idle = loop.number >= episodes
        decision = decide(loop.states, loop.observation, loop.memory, jax.random.fold_in(key, loop.turn), idle)
        states, step = jax.vmap(world.step)(loop.states, decision.action)

        # Rows beyond the last episode, those of idle lanes, are dropped.
        where, results = loop.number, loop.results
        results = Results(
            success=results.success.at[where].max(step.success, mode="drop"),
            length=results.length.at[where].add(1, mode="drop"),
            episode_return=results.episode_return.at[where].add(step.reward, mode="drop"),
            invalid=results.invalid.at[where].add(action_ids(world, decision.action) < 0, mode="drop"),
            tokens=results.tokens.at[where].add(decision.mask.sum(-1, dtype=jnp.int32), mode="drop"),
        )
        recording = jax.tree.map(
            lambda record, value: record.at[where, loop.step].set(value, mode="drop"),
            loop.recording,
            Recording(
                frames=loop.observation.frames[:, -1],
                action=decision.action,
                reward=step.reward,
                tokens=decision.tokens,
                mask=decision.mask,
            ),
        )

        # Worked example, E = 9, 7 begun: over = [1 0 1 1] -> these lanes go on with episodes 7, 8 and 9 = idle.
        over = (step.terminated | step.truncated | (loop.step + 1 >= steps)) & ~idle
        following = loop.begun + jnp.cumsum(over, dtype=jnp.int32) - 1
        number = jnp.where(over, following, loop.number)
        begin = jnp.minimum(number, episodes - 1)
        states = select(over, jax.tree.map(lambda leaf: leaf[begin], fresh), states)
        observation = observe_lanes(world, states, loop.observation, over, history)
        return _Loop(
            number=number,
            step=jnp.where(over, 0, loop.step + 1),
            begun=loop.begun + over.sum(dtype=jnp.int32),
            turn=loop.turn + 1,
            states=states,
            observation=observation,
            memory=remember(observation, loop.memory),
            results=results,
            recording=recording,
        )

    loop = jax.lax.while_loop(lambda loop: (loop.number < episodes).any(), body, loop)
    return loop.results, loop.recording


def play_policy(
    policy: Policy, world: World, params: Any, key: PRNGKeyArray, episodes: int, lanes: int, record: int = 0
) -> tuple[Results, Recording]:
    """`play` by a policy that samples as it does in training."""
    prepared = policy.prepare(params)

    def remember(observation, sight):
        if sight is None:
            return policy.look(prepared, observation.frames)
        return policy.look_on(prepared, observation, sight)

    def decide(states, observation, sight, key, idle):
        response = policy.act(prepared, observation, key, idle, sight)
        return Decision(action=response.action, tokens=response.tokens, mask=response.mask)

    config = policy.config
    return play(world, decide, key, episodes, lanes, config.history, record, config.max_tokens, remember)


def play_scripted(world: World, key: PRNGKeyArray, episodes: int) -> tuple[Results, Results]:
    """What needs no model: (the scripted expert's episodes, those of uniformly random actions)."""

    def silent(action):
        nothing = jnp.zeros((len(action), 0), jnp.int32)
        return Decision(action=action, tokens=nothing, mask=nothing.astype(bool))

    def expert(states, observation, memory, key, idle):
        return silent(jax.vmap(world.expert)(states, jax.random.split(key, len(idle))))

    def chance(states, observation, memory, key, idle):
        return silent(random_actions(world, states, key))

    expert_key, chance_key = jax.random.split(key)
    by_expert, _ = play(world, expert, expert_key, episodes, lanes=episodes)
    by_chance, _ = play(world, chance, chance_key, episodes, lanes=episodes)
    return by_expert, by_chance
