"""Worlds in brax's and gymnasium's clothes, and brax environments as worlds."""

from __future__ import annotations

import builtins
import functools
import importlib
import itertools
from dataclasses import dataclass
from types import MappingProxyType

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from brax import base
from brax.envs.base import Env
from brax.envs.base import State as BraxState
from brax.envs.wrappers import training
from flax import struct

import envs_jax
from envs_jax import adapters
from envs_jax.cards import NumberLine
from envs_jax.world import Slot, Step

SMALL = NumberLine(image_shape=(48, 48, 3))


@struct.dataclass
class PickState:
    key: jax.Array
    steps: jax.Array
    record: jax.Array


@dataclass(frozen=True)
class Pick:
    """A world with slots: what it is told, it keeps."""

    name: str = "test/pick"
    actions: tuple = ("take {thing} from {place}", "look")
    instruction: str = "take"
    phrases: tuple = ("one",)
    image_shape: tuple = (8, 8, 3)
    max_steps: int = 5
    slots = MappingProxyType({"thing": Slot(("a", "b", "c")), "place": Slot(("x", "y"))})

    def reset(self, key):
        return PickState(key, jnp.int32(0), jnp.full(3, -7, jnp.int32))

    def step(self, state, action):
        steps, no = state.steps + 1, jnp.bool_(False)
        return state.replace(steps=steps, record=action), Step(jnp.float32(0), no, steps >= self.max_steps, no)

    def render(self, state):
        return jnp.zeros(self.image_shape, jnp.uint8)

    def describe(self, state):
        return jnp.zeros(1, jnp.int32)

    explain = describe

    def admissible(self, state):
        return jnp.ones(2, bool)

    def sample(self, state, key):
        return jnp.array([1, -1, -1], jnp.int32)

    expert = sample


def wrapped(reset_wrapper, lanes=4):
    env = adapters.BraxEnv(SMALL)
    env = training.EpisodeWrapper(training.VmapWrapper(env), SMALL.max_steps, 1)
    return reset_wrapper(env), jax.random.split(jax.random.PRNGKey(0), lanes)


def run(env, keys, steps):
    """States after each of some steps of "+", which never solves what begins above its goal."""
    step = jax.jit(env.step)
    state, states = jax.jit(env.reset)(keys), []
    action = jnp.tile(jnp.array([0.0, 1.0]), (len(keys), 1))
    for _ in range(steps):
        state = step(state, action)
        states.append(state)
    return states


def test_a_world_as_brax_env_does_what_the_world_does():
    env, key = adapters.BraxEnv(SMALL), jax.random.key(3)
    step_env = jax.jit(env.step)
    state, other = env.reset(key), SMALL.reset(key)
    assert env.observation_size == state.obs.shape[0] and env.action_size == 2
    for _ in range(SMALL.max_steps):
        state = step_env(state, jnp.array([1.0, 0.5]))  # the first is greater: "-"
        other, step = SMALL.step(other, jnp.int32(0))
        assert int(state.pipeline_state.position) == int(other.position)
        assert float(state.reward) == float(step.reward)
        assert bool(state.done) == bool(step.terminated | step.truncated)
        assert bool(state.info["truncation"]) == bool(step.truncated & ~step.terminated)
        assert bool(state.metrics["success"]) == bool(step.success)
    np.testing.assert_allclose(state.obs, np.asarray(SMALL.render(other)).reshape(-1) / 255, rtol=1e-6)


def test_actions_as_index_are_rounded_and_nonsense_is_invalid():
    env = adapters.BraxEnv(SMALL, encoding="index")
    state = env.reset(jax.random.key(0))
    position = int(state.pipeline_state.position)
    assert int(env.step(state, jnp.array([0.8])).pipeline_state.position) == min(position + 1, 5)
    for bad in (jnp.nan, jnp.inf, -jnp.inf, 1e12, 7.0):
        assert int(env.step(state, jnp.array([bad])).pipeline_state.position) == position, bad
    bad = adapters.BraxEnv(SMALL).step(state, jnp.array([jnp.nan, 1.0]))
    assert int(bad.pipeline_state.position) == position


def test_records_pass_as_they_are():
    env = adapters.BraxEnv(Pick())
    assert env.action_size == 3
    after = env.step(env.reset(jax.random.key(0)), jnp.array([0.0, 2.0, -1.0]))
    assert after.pipeline_state.record.tolist() == [0, 2, -1]
    with pytest.raises(ValueError, match="accepted for test/pick: index"):
        adapters.BraxEnv(Pick(), encoding="one_hot")
    with pytest.raises(ValueError, match="accepted for cards/number_line: one_hot, index"):
        adapters.BraxEnv(SMALL, encoding="words")


def test_brax_autoreset_repeats_its_first_episode_and_fresh_resets_do_not():
    def goals(wrapper):
        env, keys = wrapped(wrapper)
        states = run(env, keys, 120)
        ends = np.array([np.asarray(s.done) for s in states])
        assert ends.sum(axis=0).min() >= 5
        # Goals that a lane has had, one for every episode.
        return [
            [int(s.pipeline_state.goal[lane]) for s, end in zip(states, ends, strict=True) if end[lane]]
            for lane in range(len(keys))
        ]

    assert all(len(set(lane)) == 1 for lane in goals(training.AutoResetWrapper))
    assert all(len(set(lane)) > 1 for lane in goals(adapters.FreshResetWrapper))


def test_fresh_resets_start_the_clock_anew_and_keep_the_ended_steps_result():
    env, keys = wrapped(adapters.FreshResetWrapper)
    states = run(env, keys, 3 * SMALL.max_steps)
    for before, after in itertools.pairwise(states):
        done = np.asarray(before.done) > 0
        assert np.all(np.asarray(before.pipeline_state.steps)[done] == 0)
        assert np.all(np.asarray(after.info["steps"])[done] == 1)
        assert np.all(np.asarray(before.info["steps"])[~done] < SMALL.max_steps)
    last = states[-1]
    want = jax.vmap(lambda s: SMALL.render(s).reshape(-1) / 255.0)(last.pipeline_state)
    np.testing.assert_allclose(last.obs, want, atol=1e-6)


def test_a_world_that_ran_out_of_time_is_truncated_in_braxs_wrappers_too():
    """EpisodeWrapper alone takes the world's own end of time for the end of the task."""
    env, keys = wrapped(adapters.FreshResetWrapper)
    ends = 0
    for state in run(env, keys, 3 * SMALL.max_steps):
        for lane in np.flatnonzero(np.asarray(state.done)):
            reached = float(state.reward[lane]) == 1
            assert bool(state.info["truncation"][lane]) != reached
            ends += not reached
    assert ends


def test_an_action_of_another_size_is_refused():
    env = adapters.BraxEnv(SMALL)
    state = env.reset(jax.random.key(0))
    for action in (jnp.zeros(3), jnp.zeros(1)):
        with pytest.raises(ValueError, match=r"action has the shape .*; accepted: \(2,\)"):
            env.step(state, action)


@struct.dataclass
class LightState:
    key: jax.Array
    steps: jax.Array
    on: jax.Array


@dataclass(frozen=True)
class Light:
    """Is the light on? A right answer gives 1, a wrong one nothing; then there is another light, five in all."""

    name: str = "test/light"
    actions: tuple = ("off", "on")
    instruction: str = "say it"
    phrases: tuple = ()
    image_shape: tuple = (4, 4, 3)
    max_steps: int = 5

    def reset(self, key):
        key, draw = jax.random.split(key)
        return LightState(key, jnp.int32(0), jax.random.bernoulli(draw))

    def step(self, state, action):
        right = action == state.on.astype(jnp.int32)
        key, draw = jax.random.split(state.key)
        after = LightState(key, state.steps + 1, jax.random.bernoulli(draw))
        return after, Step(right.astype(jnp.float32), jnp.bool_(False), after.steps >= self.max_steps, right)

    def render(self, state):
        return jnp.broadcast_to(jnp.where(state.on, 220, 20).astype(jnp.uint8), self.image_shape)

    def describe(self, state):
        return jnp.full(1, -1, jnp.int32)

    explain = describe

    def admissible(self, state):
        return jnp.ones(2, bool)

    def expert(self, state, key):
        return state.on.astype(jnp.int32)


def put_replicated(tree, devices):
    """What jax had under the name `device_put_replicated` up to 0.9, for one axis over the devices."""
    mesh = jax.sharding.Mesh(np.array(devices), ("devices",))
    placed = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("devices"))
    return jax.tree.map(lambda leaf: jax.device_put(jnp.stack([jnp.asarray(leaf)] * len(devices)), placed), tree)


def fresh(env, episode_length, action_repeat, randomization_fn=None):
    """In place of brax's own `wrap`."""
    wrapped = training.EpisodeWrapper(training.VmapWrapper(env), episode_length, action_repeat)
    return adapters.FreshResetWrapper(wrapped)


PPO = {"num_timesteps": 10_000, "num_envs": 32, "batch_size": 32, "num_minibatches": 4, "unroll_length": 5}
TRAINERS = {
    "ppo": PPO | {"learning_rate": 3e-3, "discounting": 0.5, "reward_scaling": 1.0},
    # A linear policy without a bias tells bright from dark only among observations with mean 0.
    "ars": {"num_timesteps": 20_000, "number_of_directions": 16, "step_size": 0.1, "normalize_observations": True},
    "es": {"num_timesteps": 20_000, "population_size": 64, "learning_rate": 0.05, "center_fitness": True},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAINERS)
def test_brax_trainers_learn_a_world(name, monkeypatch):
    """What the module says of them: ARS and ES as they are, PPO with the function that jax has taken out."""
    train = importlib.import_module(f"brax.training.agents.{name}.train").train
    options = TRAINERS[name] | {"episode_length": Light.max_steps, "num_evals": 2, "num_eval_envs": 64}
    run = functools.partial(train, adapters.BraxEnv(Light()), wrap_env_fn=fresh, **options)
    if name == "ppo" and not hasattr(jax, "device_put_replicated"):
        with pytest.raises(AttributeError, match="device_put_replicated"):
            run()
        monkeypatch.setattr(jax, "device_put_replicated", put_replicated, raising=False)
    right = []
    run(progress_fn=lambda steps, metrics: right.append(float(metrics["eval/episode_success"])))
    assert right[-1] > 4.9, right  # of five; chance has half of them right


@pytest.mark.parametrize("wrapper", [training.AutoResetWrapper, adapters.FreshResetWrapper])
@pytest.mark.parametrize(
    "name", ["cards/points24", "household/any", "miniworld/maze_s2", "physics/sort", "shop/small"]
)
def test_a_world_of_every_family_goes_round_in_braxs_wrappers(name, wrapper):
    """A step gives the same kind of state as a reset, or no scan, and no trainer, could carry it; by tracing."""
    world = envs_jax.make(name)
    env = adapters.BraxEnv(world)
    lanes = wrapper(training.EpisodeWrapper(training.VmapWrapper(env), world.max_steps, 1))
    keys = jax.ShapeDtypeStruct((3, 2), jnp.uint32)
    first = jax.eval_shape(lanes.reset, keys)
    after = jax.eval_shape(lanes.step, first, jax.ShapeDtypeStruct((3, env.action_size), jnp.float32))
    assert first.obs.shape == (3, env.observation_size)
    assert jax.tree.structure(first) == jax.tree.structure(after)
    assert [x.shape for x in jax.tree.leaves(first)] == [x.shape for x in jax.tree.leaves(after)]
    assert [x.dtype for x in jax.tree.leaves(first)] == [x.dtype for x in jax.tree.leaves(after)]


class Cart(Env):
    """A point on a line that is pushed; done beyond 1."""

    observation_size, action_size, backend = 2, 1, "none"

    def reset(self, rng):
        pos = jax.random.uniform(rng, (1,), minval=-0.5, maxval=0.5)
        still = base.State(pos, jnp.zeros(1), base.Transform.create(pos=jnp.zeros(3)), base.Motion.zero(), None)
        return BraxState(still, jnp.concatenate([pos, jnp.zeros(1)]), jnp.array(0.0), jnp.array(0.0))

    def step(self, state, action):
        qd = state.pipeline_state.qd + 0.2 * action
        q = state.pipeline_state.q + 0.2 * qd
        done = jnp.where(jnp.abs(q[0]) > 1, 1.0, 0.0)
        return state.replace(
            pipeline_state=state.pipeline_state.replace(q=q, qd=qd),
            obs=jnp.concatenate([q, qd]),
            reward=q[0],
            done=done,
        )


def cart(**options):
    actions = {"left": (-1.0,), "wait": (0.0,), "right": (1.0,)}
    defaults = {
        "succeeds": lambda state: state.pipeline_state.q[0] > 1,
        "policy": lambda state, key: jnp.int32(2),
        "max_steps": 12,
        "image_shape": (16, 16, 3),
    }
    return adapters.from_brax(Cart(), actions, "Go right.", **(defaults | options))


def test_a_brax_env_as_world_keeps_the_contract():
    report = envs_jax.check(cart(), episodes=64)
    assert report.expert_success == 1


def test_what_braxs_own_clock_ends_is_truncated():
    def ends(env, control, **options):
        world = adapters.from_brax(env, {"wait": control}, "Wait.", **{"max_steps": 50} | options)
        state, step = world.reset(jax.random.key(1)), None
        while step is None or not (step.terminated | step.truncated):
            state, step = jax.jit(world.step)(state, jnp.int32(0))
        return int(state.steps), bool(step.terminated), bool(step.truncated)

    assert ends(training.EpisodeWrapper(Cart(), 4, 1), (0.0,)) == (4, False, True)
    assert ends(Cart(), (0.0,), max_steps=5) == (5, False, True)
    assert ends(Cart(), (1.0,))[1:] == (True, False)
    nonsense = (float(jnp.finfo(jnp.float32).max),)  # no action: a world of ours that only its time ends
    assert ends(adapters.BraxEnv(SMALL, encoding="index"), nonsense) == (SMALL.max_steps, False, True)


def test_controls_are_held_and_what_is_over_stays():
    world = cart(repeat=3)
    state = world.reset(jax.random.key(1))
    q, qd, reward = float(state.brax.pipeline_state.q[0]), 0.0, 0.0
    for _ in range(3):
        qd += 0.2
        q += 0.2 * qd
        reward += q
    after, step = jax.jit(world.step)(state, jnp.int32(2))
    np.testing.assert_allclose(after.brax.pipeline_state.q[0], q, rtol=1e-5)
    np.testing.assert_allclose(step.reward, reward, rtol=1e-5)
    long = cart(repeat=50)
    after, step = jax.jit(long.step)(state, jnp.int32(2))
    assert bool(step.terminated) and 1 < float(after.brax.pipeline_state.q[0]) < 1.5  # not 50 steps beyond


def test_a_reward_that_is_no_array_is_taken_as_in_braxs_own_pendulum():
    class Pendulum(Cart):
        def step(self, state, action):
            return super().step(state, action).replace(reward=1.0)

    world = adapters.from_brax(Pendulum(), {"wait": (0.0,)}, "Wait.", repeat=3)
    _, step = jax.jit(world.step)(world.reset(jax.random.key(0)), jnp.int32(0))
    assert float(step.reward) == 3.0


def test_bars_tell_the_sign_and_the_size():
    image = np.asarray(jax.jit(lambda x: adapters.bars(x, (40, 20, 3)))(jnp.array([0.5, -2.0]))).astype(int)
    blue, red = image[:, 5], image[:, 15]
    assert np.sum((blue == [40, 84, 210]).all(-1)) == pytest.approx(np.tanh(0.5) * 19, abs=1.5)
    assert np.sum((red == [214, 40, 40]).all(-1)) == pytest.approx(np.tanh(2) * 19, abs=1.5)
    assert (image[:18, 15] == 255).all() and (image[22:, 5] == 255).all()


@pytest.mark.parametrize(
    "actions, options, message",
    [
        ({}, {}, "actions is"),
        ({"left": (1.0, 2.0)}, {}, "accepted: 1 finite numbers"),
        ({"left": (float("nan"),)}, {}, "accepted: 1 finite numbers"),
        ({"left": (1.0,)}, {"repeat": 0}, "repeat is 0"),
        ({"left": (1.0,)}, {"max_steps": 0}, "max_steps is 0"),
    ],
)
def test_what_can_not_be_is_said(actions, options, message):
    with pytest.raises(ValueError, match=message):
        adapters.from_brax(Cart(), actions, "Go.", **options)


def test_gymnasiums_own_check_passes():
    pytest.importorskip("gymnasium")
    from gymnasium.utils.env_checker import check_env

    for world in (SMALL, Pick()):
        check_env(adapters.gymnasium_env(world), skip_render_check=True)


def test_gymnasium_env_follows_its_world():
    pytest.importorskip("gymnasium")
    env = adapters.gymnasium_env(SMALL)
    picture, info = env.reset(seed=4)
    assert picture.shape == SMALL.image_shape and info["action_mask"].shape == (2,)
    again, _ = env.reset(seed=4)
    np.testing.assert_array_equal(picture, again)
    seen = {env.reset()[0].tobytes() for _ in range(12)}
    assert len(seen) > 3  # fresh episodes without a seed
    ended = False
    for _ in range(SMALL.max_steps):
        _, reward, terminated, truncated, info = env.step(0)
        assert info["success"] == terminated == (reward == 1)
        if terminated or truncated:
            ended = True
            break
    assert ended


@pytest.mark.parametrize("action", [np.array([1]), 1.7, None, "+", True, np.zeros((2, 1), int)])
def test_gymnasium_refuses_what_is_no_action_and_goes_on(action):
    pytest.importorskip("gymnasium")
    env = adapters.gymnasium_env(SMALL)
    with pytest.raises(RuntimeError, match="render before reset"):
        env.render()
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"(?s)action is .*; accepted: whole numbers of Discrete\(2\)"):
        env.step(action)
    position = int(env._state.position)
    env.step(np.int64(2**32 + 1))  # not 1 in 32 bits, but an invalid answer
    assert int(env._state.position) == position and int(env._state.steps) == 1
    env.step(np.array(1))
    assert int(env._state.steps) == 2


def test_gymnasium_records_have_a_number_for_an_empty_place():
    pytest.importorskip("gymnasium")
    env = adapters.gymnasium_env(Pick())
    assert env.action_space.nvec.tolist() == [2, 4, 4]
    env.reset(seed=0)
    env.step(np.array([0, 2, 3]))
    assert env._state.record.tolist() == [0, 2, -1]


def test_without_gymnasium_one_clear_error(monkeypatch):
    real = builtins.__import__

    def missing(name, *rest, **kwargs):
        if name.startswith("gymnasium"):
            raise ImportError(name)
        return real(name, *rest, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ImportError, match="pip install gymnasium"):
        adapters.gymnasium_env(SMALL)
