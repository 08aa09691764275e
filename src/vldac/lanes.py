"""Many worlds side by side, with the memory that an agent has of each: the state that a rollout carries.

* An observation is the last `history` frames and the text of the present; frames stay uint8.
* An episode that ends is replaced from a pool of fresh episodes made once. Under `vmap` a `cond` is a
  `select`, so resetting inside the scan would pay a full reset on every step of every lane.
* A truncated episode is shown once more before it is replaced (`Lanes.closing`): the policy's value of that
  last observation is the bootstrap. That costs one answerless step an episode instead of a second prefill
  a step. Terminated episodes need no bootstrap and are replaced at once.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int, Key, PRNGKeyArray, UInt8

from envs_jax import Step, World
from envs_jax.world import slots_of
from vldac.mesh import shard_batch


@struct.dataclass
class Observation:
    """What a policy sees of one world (or, with leading axes, of many).

    Attributes:
      frames: uint8[history, H, W, 3], oldest first; frames before the episode's first are zeros.
      frames_seen: int32[], how many of the last frames are real.
        Worked example, history 4 after two frames: frames = [0, 0, a, b], frames_seen = 2.
      text: int32[n], the world's `describe`: phrase ids, -1 = nothing; n is 1 where that never says anything.
    """

    frames: UInt8[Array, "*lanes history h w 3"]
    frames_seen: Int[Array, "*lanes"]
    text: Int[Array, "*lanes n"]


@struct.dataclass
class Lanes:
    """B worlds in mid-episode.

    Attributes:
      world: the worlds' States, leaves [B, ...].
      observation: what the policy acts on next, leaves [B, ...].
      closing: bool[B], the episode was truncated and is shown only for its value: nothing acts on it.
      episode_return: float32[B], rewards of the running episode so far.
      episode_length: int32[B], its steps so far.
    """

    world: Any
    observation: Observation
    closing: Bool[Array, " b"]
    episode_return: Float[Array, " b"]
    episode_length: Int[Array, " b"]


@struct.dataclass
class Outcome:
    """What `advance` saw happen, leaves [B].

    Attributes:
      step: reward, terminated, truncated, success; zero for lanes that were closing.
      valid: bool[B], a real step was taken (the lane was not closing).
      ended: bool[B], an episode ended in this step.
      episode_return, episode_length: of the episode up to and including this step.
    """

    step: Step
    valid: Bool[Array, " b"]
    ended: Bool[Array, " b"]
    episode_return: Float[Array, " b"]
    episode_length: Int[Array, " b"]


def observe(world: World, state: Any, previous: Observation | None, history: int) -> Observation:
    """The observation of one world: its present frame appended to `previous`, or alone if that is None."""
    frame = world.render(state)[None]  # [1, H, W, 3]
    if previous is None:
        older, seen = jnp.zeros((history - 1, *frame.shape[1:]), jnp.uint8), jnp.int32(1)
    else:
        older, seen = previous.frames[1:], jnp.minimum(previous.frames_seen + 1, history)
    frames = jnp.concatenate([older, frame])
    text = world.describe(state)
    if not text.size:  # a leaf without numbers can not be reshaped as the others are
        text = jnp.full(1, -1, jnp.int32)
    return Observation(frames=frames, frames_seen=seen, text=text)


def observe_lanes(
    world: World, states: Any, previous: Observation, fresh: Bool[Array, " b"], history: int
) -> Observation:
    """The observations of B worlds, of which the `fresh` ones have just begun an episode: leaves [B, ...].

    Every lane is rendered once: only the memory of frames differs between a fresh and a running episode.
    """
    remembered = previous.replace(
        frames=jnp.where(fresh[:, None, None, None, None], jnp.zeros((), jnp.uint8), previous.frames),
        frames_seen=jnp.where(fresh, 0, previous.frames_seen),
    )
    return jax.vmap(lambda state, past: observe(world, state, past, history))(states, remembered)


def begin(world: World, keys: Key[Array, " b"], history: int) -> Lanes:
    """Fresh episodes, one a key: keys [B] -> Lanes of B."""
    states = jax.vmap(world.reset)(keys)
    lanes = keys.shape[0]
    return shard_batch(
        Lanes(
            world=states,
            observation=jax.vmap(lambda state: observe(world, state, None, history))(states),
            closing=jnp.zeros(lanes, bool),
            episode_return=jnp.zeros(lanes, jnp.float32),
            episode_length=jnp.zeros(lanes, jnp.int32),
        )
    )


def select(choose: Bool[Array, " b"], yes: Any, no: Any) -> Any:
    """Lane by lane, the leaves of `yes` where `choose`, else of `no`; leaves [B, ...]."""

    def leaf(a, b):
        return jnp.where(choose.reshape(-1, *[1] * (a.ndim - 1)), a, b)

    return jax.tree.map(leaf, yes, no)


def action_ids(world: World, actions: Int[Array, "*b"]) -> Int[Array, "..."]:
    """The ids of many actions: themselves, or the first numbers of records [..., 1 + n]."""
    return actions[..., 0] if slots_of(world) else actions


def random_actions(world: World, states: Any, key: PRNGKeyArray) -> Int[Array, "b ..."]:
    """`random_action` in each of B worlds, states with leaves [B, ...]; one draw for all where ids are enough."""
    lanes = len(states.steps)
    if slots_of(world):
        return jax.vmap(world.sample)(states, jax.random.split(key, lanes))
    return jax.random.randint(key, (lanes,), 0, len(world.actions), jnp.int32)


@struct.dataclass
class ResetPool:
    """Fresh episodes for B of W worlds. Which ones a world gets depends on nothing but its own number and how many
    it has had, so that it does not matter in which order worlds ask.

    Attributes:
      states: worlds' States, leaves [P, ...].
      number: int32[B], which of the W worlds each is.
      taken: int32[B], how many fresh episodes each has had. When a share is used up the pool is gone through
        again, shifted by one and each time with another key, so that only layouts repeat, not what follows.
      worlds: W.
    """

    states: Any
    number: Int[Array, " b"]
    taken: Int[Array, " b"]
    worlds: int = struct.field(pytree_node=False)

    @classmethod
    def create(cls, world: World, key: PRNGKeyArray, worlds: int, size: int = 0) -> ResetPool:
        """`size` episodes for all of `worlds` worlds; 0 = one for each."""
        states = jax.vmap(world.reset)(jax.random.split(key, size or worlds))
        number = jnp.arange(worlds, dtype=jnp.int32)
        return cls(states=states, number=number, taken=jnp.zeros_like(number), worlds=worlds)

    def take(self, wanted: Bool[Array, " b"]) -> tuple[Any, ResetPool]:
        """A state for every world, distinct for those that want one: (states with leaves [B, ...], pool).

        Worked example, 4 worlds, 8 episodes: taken = [0, 1, 2, 0] -> in turn 0, 5, 10 and 3, so states number
        0, 5, (10 + 1) % 8 = 3 with another key, and 3. Only those that want theirs have taken it.
        """
        size = jax.tree.leaves(self.states)[0].shape[0]
        turn = self.taken * self.worlds + self.number
        again = turn // size
        states = jax.tree.map(lambda leaf: leaf[(turn + again) % size], self.states)
        states = states.replace(key=jax.vmap(jax.random.fold_in)(states.key, again))
        return states, self.replace(taken=self.taken + wanted)

    def part(self, rows: Int[Array, " g"]) -> ResetPool:
        """For the worlds in these rows alone."""
        return self.replace(number=self.number[rows], taken=self.taken[rows])


def advance(
    world: World, lanes: Lanes, actions: Int[Array, "b ..."], pool: ResetPool, history: int
) -> tuple[Lanes, Outcome, ResetPool]:
    """Steps every lane and replaces the episodes that are over.

    Actions are ids, or records in a world with slots.

    A lane that was `closing` takes no step: it gets its fresh episode now. A lane that is truncated (and not
    terminated) becomes `closing`; one that terminated gets its fresh episode at once.

    Returns:
      (lanes, outcome, pool).
    """
    stepped, step = jax.vmap(world.step)(lanes.world, actions)
    valid = ~lanes.closing
    step = jax.tree.map(lambda x: jnp.where(valid, x, jnp.zeros_like(x)), step)
    episode_return = lanes.episode_return + step.reward
    episode_length = lanes.episode_length + valid

    closing = step.truncated & ~step.terminated
    fresh = lanes.closing | step.terminated
    reset_states, pool = pool.take(fresh)
    states = select(fresh, reset_states, stepped)

    observation = observe_lanes(world, states, lanes.observation, fresh, history)
    outcome = Outcome(
        step=step,
        valid=valid,
        ended=valid & (step.terminated | step.truncated),
        episode_return=episode_return,
        episode_length=episode_length,
    )
    lanes = Lanes(
        world=states,
        observation=observation,
        closing=closing,
        episode_return=jnp.where(fresh, 0.0, episode_return),
        episode_length=jnp.where(fresh, 0, episode_length),
    )
    return lanes, outcome, pool
