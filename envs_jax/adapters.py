"""Worlds as brax environments and as gymnasium environments, and brax environments as worlds.

    env = adapters.BraxEnv(envs_jax.make("cards/number_line"))      # brax.envs.Env
    world = adapters.from_brax(brax_env, actions={"left": (-1.0,), "right": (1.0,)}, instruction="...")
    env = adapters.gymnasium_env(envs_jax.make("physics/push"))     # gymnasium.Env, one world, on the host

**brax's wrappers.** EpisodeWrapper, VmapWrapper and AutoResetWrapper run on a `BraxEnv`. But brax's
AutoResetWrapper puts the state of the FIRST reset back, over and over: its lane plays one and the same episode
as long as it lives, and with a few hundred lanes an agent learns those few hundred by heart.
`FreshResetWrapper` stands in its place: it resets to new episodes, drawn with the key that the state carries.
Under vmap a condition is a selection, so it pays for a reset in every step; where a reset is dear, a pool of
episodes drawn once and picked from by number is cheaper, which is what `vldac.rollout` does with worlds
directly.

**brax's trainers**, brax 0.14.2 on jax 0.10.2, one CPU (tests/envs_jax/test_adapters.py, marked slow):

* ARS and ES run on a `BraxEnv` as they are, in brax's own wrappers or, as `wrap_env_fn`, in a `FreshResetWrapper`,
  and learn a light's two answers from its picture in 20,000 steps. ARS is linear: let it normalise observations.
* PPO, SAC and APG end with an AttributeError on every jax that this package runs on: they call
  `jax.device_put_replicated`, which jax 0.10 took out. Nothing else is in PPO's way, `jax.pmap` is still there:
  with a function of that name put into `jax` beforehand, as the test does, it learns the light in 10,000 steps,
  and reaches the goal of `cards/number_line`, 48 x 48, in 84 % of 64 episodes after 150,000 (56 % before).
* SAC and APG were not tried further. This package puts no such function into jax: all in the process would see it.

PPO's policies are Gaussian: a `BraxEnv` takes the greatest of one number per action, so they can drive it, without
being made for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from brax.envs.base import Env, Wrapper
from brax.envs.base import State as BraxState
from flax import struct
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, UInt8

from envs_jax.render import raster
from envs_jax.world import INVALID, Step, World, action_shape, slot_places, slots_of


class BraxEnv(Env):
    """Any world as a `brax.envs.Env`.

    The State of the world is `pipeline_state`. `obs` is the picture as float32 in 0..1, flat, [H * W * 3];
    `reward` and `done` are float32[]; `metrics` has "success", float32[]; `info` has "truncation", float32[], 1
    where time ran out and the task did not end (`done` is 1 in both cases), as brax's EpisodeWrapper has it, and
    the same as "time_out". That wrapper sets "truncation" anew by its own `episode_length`, and takes every end of
    the world's own for the task's, out of time or not: `FreshResetWrapper` puts that right. Give it
    `world.max_steps`, or more.

    An action is float32[action_size], as brax expects it. With `encoding="one_hot"`, action_size is the number of
    actions and the greatest entry is taken (the first of equals; if any is NaN: an invalid answer). With "index"
    it is 1 + n, the action id and the ids of the words of its slots (n = 0 without slots), rounded to the nearest
    integer.

    Args:
      world: what to adapt.
      encoding: "one_hot", "index", or None: "one_hot" unless the world has slots, which need "index".

    Raises:
      ValueError: the encoding is unknown, or "one_hot" for a world with slots.
    """

    def __init__(self, world: World, encoding: str | None = None):
        slots = bool(slots_of(world))
        encoding = encoding or ("index" if slots else "one_hot")
        accepted = ("index",) if slots else ("one_hot", "index")
        if encoding not in accepted:
            raise ValueError(f"encoding is {encoding!r}; accepted for {world.name}: {', '.join(accepted)}")
        self.world, self.encoding = world, encoding

    def reset(self, rng: PRNGKeyArray) -> BraxState:
        """A fresh episode. Any key will do, but brax's EpisodeWrapper takes raw ones alone, `PRNGKey`."""
        state = self.world.reset(rng)
        zero = jnp.float32(0)
        info = {"truncation": zero, "time_out": zero}
        return BraxState(state, self._obs(state), zero, zero, {"success": zero}, info)

    def step(self, state: BraxState, action: Float[Array, " a"]) -> BraxState:
        """One action; after the end it goes on as the world does.

        Raises:
          ValueError: not `action_size` numbers.
        """
        if jnp.shape(action) != (self.action_size,):
            raise ValueError(f"action has the shape {jnp.shape(action)}; accepted: ({self.action_size},)")
        after, step = self.world.step(state.pipeline_state, self._decode(action))
        time_out = jnp.float32(step.truncated & ~step.terminated)
        return state.replace(
            pipeline_state=after,
            obs=self._obs(after),
            reward=step.reward,
            done=jnp.float32(step.terminated | step.truncated),
            metrics=state.metrics | {"success": jnp.float32(step.success)},
            info=state.info | {"truncation": time_out, "time_out": time_out},
        )

    @property
    def observation_size(self) -> int:
        """Numbers in `obs`."""
        return int(np.prod(self.world.image_shape))

    @property
    def action_size(self) -> int:
        """Numbers in an action."""
        return len(self.world.actions) if self.encoding == "one_hot" else 1 + slot_places(self.world)

    @property
    def backend(self) -> str:
        """No physics of brax's need be behind it."""
        return "envs_jax"

    def _obs(self, state: Any) -> Float[Array, " o"]:
        return self.world.render(state).astype(jnp.float32).reshape(-1) / 255

    def _decode(self, action: Float[Array, " a"]) -> Int[Array, "..."]:
        if self.encoding == "one_hot":
            best = jnp.argmax(action).astype(jnp.int32)
            return jnp.where(jnp.any(jnp.isnan(action)), jnp.int32(INVALID), best)
        # Beyond +-2^31 a float has no int32, NaN has none at all.
        whole = jnp.round(jnp.nan_to_num(action, nan=INVALID, posinf=INVALID, neginf=INVALID))
        ids = jnp.where(jnp.abs(whole) < 2.0**31, whole, INVALID).astype(jnp.int32)
        return ids.reshape(action_shape(self.world))


class FreshResetWrapper(Wrapper):
    """Wraps a vmapped `BraxEnv`: a lane that is done begins a new episode, in place of brax's AutoResetWrapper.

    Worked example, in the order of brax's own `wrap`:
    `FreshResetWrapper(EpisodeWrapper(VmapWrapper(BraxEnv(world)), world.max_steps, 1))`. As in brax, a done step
    has the next episode's observation, and its own reward, done and truncation; the latter is 1 where the world
    ran out of time, too, which EpisodeWrapper forgets.
    """

    def step(self, state: BraxState, action: Float[Array, "b a"]) -> BraxState:
        """One step of every lane."""
        if "steps" in state.info:
            state.info["steps"] = jnp.where(state.done > 0, 0.0, state.info["steps"])
        state = self.env.step(state.replace(done=jnp.zeros_like(state.done)), action)
        state.info["truncation"] = jnp.maximum(state.info["truncation"], state.info["time_out"])
        # A key of its own for the new episode: the old one's key is of no more use once the episode has ended.
        keys = jax.vmap(lambda key: jax.random.split(key)[0])(state.pipeline_state.key)
        new = jax.vmap(self.env.unwrapped.reset)(keys)
        done = state.done > 0

        def pick(a, b):
            return jnp.where(done.reshape(done.shape + (1,) * (a.ndim - done.ndim)), a, b)

        return state.replace(
            pipeline_state=jax.tree.map(pick, new.pipeline_state, state.pipeline_state),
            obs=pick(new.obs, state.obs),
        )


@struct.dataclass
class FromBraxState:
    """A brax episode.

    Attributes:
      key: what the episode was drawn with, split; brax's own steps draw nothing, or carry a key in `info`.
      steps: int32[].
      brax: brax's State.
    """

    key: PRNGKeyArray
    steps: Int[Array, ""]
    brax: BraxState


@dataclass(frozen=True)
class FromBrax:
    """A world out of a brax environment; made by `from_brax`, which says what the fields mean."""

    env: Env
    controls: tuple[tuple[float, ...], ...]
    actions: tuple[str, ...]
    instruction: str
    max_steps: int
    name: str
    repeat: int
    image_shape: tuple[int, int, int]
    picture: Callable[[BraxState], UInt8[Array, "h w 3"]] | None
    succeeds: Callable[[BraxState], Bool[Array, ""]] | None
    policy: Callable[[BraxState, PRNGKeyArray], Int[Array, ""]] | None

    phrases = ()

    def reset(self, key: PRNGKeyArray) -> FromBraxState:
        """A fresh episode."""
        key, reset_key = jax.random.split(key)
        return FromBraxState(key=key, steps=jnp.int32(0), brax=_strong(self.env.reset(reset_key)))

    def step(self, state: FromBraxState, action: Int[Array, ""]) -> tuple[FromBraxState, Step]:
        """`repeat` steps of brax's with the action's controls; an invalid action moves nothing and gives 0."""
        valid = (action >= 0) & (action < len(self.actions))
        control = jnp.asarray(self.controls, jnp.float32)[jnp.where(valid, action, 0)]

        def one(carry, _):
            old, over, reward = carry
            # Some of brax's own give a reward of another type than their reset does, or a float of Python's.
            new = jax.tree.map(lambda a, b: jnp.asarray(a).astype(b.dtype), self.env.step(old, control), old)
            new = jax.tree.map(lambda a, b: jnp.where(over, b, a), new, old)  # what is over stays as it ended
            return (new, over | (new.done > 0), reward + jnp.where(over, 0.0, new.reward)), None

        start = state.brax, jnp.bool_(False), jnp.float32(0)
        (brax, over, reward), _ = jax.lax.scan(one, start, None, length=self.repeat)
        finite = jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in _floats(brax)]))
        keep = valid & finite  # a simulation that has blown up is taken back, and over
        brax = jax.tree.map(lambda a, b: jnp.where(keep, a, b), brax, state.brax)
        after = state.replace(steps=state.steps + 1, brax=brax)
        success = self.succeeds(brax) if self.succeeds else jnp.bool_(False)
        over &= keep
        time_out = over & (jnp.asarray(brax.info.get("truncation", 0)) > 0)
        terminated = (over & ~time_out) | success | ~finite
        return after, Step(
            reward=jnp.where(keep, reward, 0.0).astype(jnp.float32),
            terminated=terminated,
            truncated=(time_out | (after.steps >= self.max_steps)) & ~terminated,
            success=success,
        )

    def render(self, state: FromBraxState) -> UInt8[Array, "h w 3"]:
        """The picture given, or bars of the observation."""
        return self.picture(state.brax) if self.picture else bars(state.brax.obs, self.image_shape)

    def describe(self, state: FromBraxState) -> Int[Array, " n"]:
        """Nothing."""
        return jnp.full(1, -1, jnp.int32)

    def admissible(self, state: FromBraxState) -> Bool[Array, " a"]:
        """All."""
        return jnp.ones(len(self.actions), bool)

    def expert(self, state: FromBraxState, key: PRNGKeyArray) -> Int[Array, ""]:
        """The policy given, or any action."""
        if self.policy:
            return self.policy(state.brax, key).astype(jnp.int32)
        return jax.random.randint(key, (), 0, len(self.actions), jnp.int32)

    def explain(self, state: FromBraxState) -> Int[Array, " n"]:
        """Nothing."""
        return jnp.full(1, -1, jnp.int32)


def from_brax(
    env: Env,
    actions: Mapping[str, Sequence[float]],
    instruction: str,
    max_steps: int = 100,
    name: str = "brax/env",
    repeat: int = 1,
    image_shape: tuple[int, int, int] = (112, 112, 3),
    picture: Callable[[BraxState], UInt8[Array, "h w 3"]] | None = None,
    succeeds: Callable[[BraxState], Bool[Array, ""]] | None = None,
    policy: Callable[[BraxState, PRNGKeyArray], Int[Array, ""]] | None = None,
) -> FromBrax:
    """A brax environment as a world.

    Args:
      env: of brax, for one episode: not vmapped, and not reset by itself. Where it is done and its info has a
        "truncation" above 0, as under brax's EpisodeWrapper, the episode is truncated; else it is terminated.
      actions: what may be said, and the controls that it means, as many as the environment takes.
      instruction: the task in words.
      max_steps: of the world, after which an episode is truncated.
      name: the world's.
      repeat: steps of brax's that a control is held.
      image_shape: of `picture`.
      picture: draws a brax State; by default the observation as bars, see `bars`.
      succeeds: whether a brax State has solved the task; by default none has.
      policy: the expert; by default it acts at random, and `envs_jax.check` will say so.

    Raises:
      ValueError: no actions, controls of another number than the environment takes or not finite, `repeat` or
        `max_steps` below 1, or an environment whose observations are not one array while no picture is given.
    """
    if not actions:
        raise ValueError(f"actions is {actions!r}; accepted: at least one text with its controls")
    for text, control in actions.items():
        if len(control) != env.action_size or not np.all(np.isfinite(np.asarray(control, float))):
            raise ValueError(f"actions[{text!r}] is {control!r}; accepted: {env.action_size} finite numbers")
    for field, value in (("repeat", repeat), ("max_steps", max_steps)):
        if type(value) is not int or value < 1:
            raise ValueError(f"{field} is {value!r}; accepted: a positive int")
    if picture is None and not isinstance(env.observation_size, int):
        raise ValueError(f"picture is None; accepted where observations are {env.observation_size!r}: a function")
    controls = tuple(tuple(float(part) for part in control) for control in actions.values())
    texts = tuple(actions)
    return FromBrax(
        env, controls, texts, instruction, max_steps, name, repeat, image_shape, picture, succeeds, policy
    )


def bars(observation: Float[Array, " n"], image_shape: tuple[int, int, int]) -> UInt8[Array, "h w 3"]:
    """Numbers as upright bars of tanh(x), up and blue where positive, down and red where negative."""
    height, width, _ = image_shape
    middle, each = height / 2, width / max(len(observation), 1)
    column = jnp.clip(((jnp.arange(width) + 0.5) / each).astype(jnp.int32), 0, len(observation) - 1)
    value = jnp.tanh(jnp.nan_to_num(observation))[column] * (middle - 1)  # pixels, up
    up = middle - (jnp.arange(height) + 0.5)[:, None]
    inside = (up * jnp.sign(value) > 0) & (jnp.abs(up) <= jnp.abs(value))
    colours = jnp.where((value > 0)[None, :, None], jnp.array([40.0, 84, 210]), jnp.array([214.0, 40, 40]))
    colours = jnp.broadcast_to(colours, (height, width, 3))
    image = jnp.where(inside[..., None], colours, jnp.float32(255))
    return raster.rectangle(image.astype(jnp.uint8), 0, middle - 0.5, width, middle + 0.5, (90, 90, 90))


def gymnasium_env(world: World) -> Any:
    """A world as a `gymnasium.Env`, to be looked at with tools of one's own: one world, on the host.

    Observations are the picture, uint8[H, W, 3]; `info` has "text", what `describe` says, "success", and
    "action_mask", int8[len(actions)], what is admissible. Actions are Discrete, or, of a world with slots,
    MultiDiscrete: the action id, then for every place the id of a word, its count for an empty place.
    `render()` is the picture again ("rgb_array"). An action that is none of the space but of its shape is an
    invalid answer, as in any world; one of another shape, or not of whole numbers, is refused.

    Raises:
      ImportError: gymnasium is not installed.
    """
    try:
        import gymnasium
    except ImportError as error:
        raise ImportError("gymnasium_env needs gymnasium: pip install gymnasium") from error

    reset, step, render = jax.jit(world.reset), jax.jit(world.step), jax.jit(world.render)
    describe, admissible = jax.jit(world.describe), jax.jit(world.admissible)
    places = slot_places(world)

    class WorldEnv(gymnasium.Env):
        metadata = {"render_modes": ["rgb_array"], "render_fps": 4}  # noqa: RUF012, gymnasium's own form

        def __init__(self):
            self.render_mode = "rgb_array"
            self.observation_space = gymnasium.spaces.Box(0, 255, world.image_shape, np.uint8)
            if places:
                words = max(len(slot.words) for slot in slots_of(world).values())
                sizes = [len(world.actions)] + [words + 1] * places
                self.action_space = gymnasium.spaces.MultiDiscrete(sizes)
                self._empty = words
            else:
                self.action_space = gymnasium.spaces.Discrete(len(world.actions))
            self._state = None

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            number = int(self.np_random.integers(2**31))
            self._state = reset(jax.random.key(number))
            return self.render(), self._info(False)

        def step(self, action):
            state, ids = self._running("step"), np.asarray(action)
            if ids.shape != self.action_space.shape or not np.issubdtype(ids.dtype, np.integer):
                raise ValueError(f"action is {action!r}; accepted: whole numbers of {self.action_space}")
            if places:
                ids = np.where((np.arange(len(ids)) > 0) & (ids == self._empty), -1, ids)
            limits = np.iinfo(np.int32)  # beyond them there is no action either
            self._state, result = step(state, jnp.asarray(np.clip(ids, limits.min, limits.max), jnp.int32))
            info = self._info(bool(result.success))
            return self.render(), float(result.reward), bool(result.terminated), bool(result.truncated), info

        def render(self):
            return np.asarray(render(self._running("render")))

        def _running(self, what):
            if self._state is None:
                raise RuntimeError(f"{what} before reset; accepted: reset first")
            return self._state

        def _info(self, success):
            said = [world.phrases[phrase] for phrase in np.asarray(describe(self._state)) if phrase >= 0]
            mask = np.asarray(admissible(self._state)).astype(np.int8)
            return {"text": " ".join(said), "success": success, "action_mask": mask}

    return WorldEnv()


def _floats(tree: Any) -> list[Array]:
    return [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.floating)]


def _strong(tree: Any) -> Any:
    """Every leaf as an array that is not weakly typed: what a scan carries, and a World returns."""
    return jax.tree.map(lambda leaf: jax.lax.convert_element_type(leaf, jnp.asarray(leaf).dtype), tree)
