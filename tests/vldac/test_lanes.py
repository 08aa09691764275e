"""Lanes against a simulation with Python's lists and loops, in a world whose actions say how an episode ends."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

from envs_jax import Step, World
from vldac.lanes import Lanes, Observation, ResetPool, advance, begin, observe, select

GO, TERMINATE, TRUNCATE, BOTH = range(4)


@struct.dataclass
class TallyState:
    key: jax.Array
    steps: jax.Array
    layout: jax.Array


@dataclass(frozen=True)
class Tally:
    """Shows its layout and how many steps it has taken; the reward is noise from its own key."""

    name: str = "toy/tally"
    actions: tuple[str, ...] = ("go", "terminate", "truncate", "both")
    instruction: str = "count"
    phrases: tuple[str, ...] = ("nothing yet", "something")
    image_shape: tuple[int, int, int] = (2, 1, 3)
    max_steps: int = 100

    def reset(self, key):
        layout_key, key = jax.random.split(key)
        return TallyState(key=key, steps=jnp.int32(0), layout=jax.random.randint(layout_key, (), 1, 256))

    def step(self, state, action):
        noise, key = jax.random.split(state.key)
        step = Step(
            reward=jax.random.uniform(noise),
            terminated=(action == TERMINATE) | (action == BOTH),
            truncated=(action == TRUNCATE) | (action == BOTH),
            success=action == TERMINATE,
        )
        return state.replace(key=key, steps=state.steps + 1), step

    def render(self, state):
        return jnp.stack([state.layout, state.steps]).astype(jnp.uint8)[:, None, None] * jnp.ones(3, jnp.uint8)

    def describe(self, state):
        return jnp.stack([jnp.minimum(state.steps, 1), -1])

    def admissible(self, state):
        return jnp.ones(4, bool)

    def expert(self, state, key):
        return jnp.int32(TERMINATE)

    def explain(self, state):
        return jnp.array([1])


WORLD = Tally()
B, HISTORY, POOL = 4, 3, 5
reset = jax.jit(WORLD.reset)
step = jax.jit(WORLD.step)
render = jax.jit(WORLD.render)
fast = jax.jit(lambda lanes, actions, pool: advance(WORLD, lanes, actions, pool, HISTORY))


@functools.cache
def fresh() -> Lanes:
    return jax.jit(lambda key: begin(WORLD, jax.random.split(key, B), HISTORY))(jax.random.key(1))


@functools.cache
def fresh_pool(size: int = POOL) -> ResetPool:
    return jax.jit(lambda key: ResetPool.create(WORLD, key, B, size))(jax.random.key(2))


def bits(key) -> tuple:
    return tuple(np.asarray(jax.random.key_data(key)).tolist())


class SlowLane:
    """One lane, told in Python."""

    def __init__(self, state):
        self.begin(state)

    def begin(self, state):
        self.state, self.closing, self.total, self.length = state, False, np.float32(0), 0
        self.frames = [np.asarray(render(state))]

    def advance(self, action, take):
        """What came out of it; `take()` gives the next state of the pool."""
        if self.closing:
            out = {"reward": 0, "terminated": False, "truncated": False, "success": False, "valid": False}
            out |= {"ended": False, "episode_return": self.total, "episode_length": self.length}
            self.begin(take())
            return out
        self.state, got = step(self.state, jnp.int32(action))
        self.total, self.length = self.total + np.float32(got.reward), self.length + 1
        ended = bool(got.terminated or got.truncated)
        out = {name: getattr(got, name) for name in ("reward", "terminated", "truncated", "success")}
        out |= {"valid": True, "ended": ended, "episode_return": self.total, "episode_length": self.length}
        if got.terminated:
            self.begin(take())
        else:
            self.frames.append(np.asarray(render(self.state)))
            self.closing = bool(got.truncated)
        return out

    def shown(self, history):
        recent = self.frames[-history:]
        blank = [np.zeros(WORLD.image_shape, np.uint8)] * (history - len(recent))
        return np.stack(blank + recent), len(recent)


class SlowPool:
    def __init__(self, size):
        self.states = [reset(key) for key in jax.random.split(jax.random.key(2), size)]
        self.taken = [0] * B

    def take(self, lane):
        again = (self.taken[lane] * B + lane) // len(self.states)
        number = (self.taken[lane] * B + lane + again) % len(self.states)
        self.taken[lane] += 1
        state = self.states[number]
        return state.replace(key=jax.random.fold_in(state.key, again))


def assert_lanes(lanes: Lanes, slow: list[SlowLane]):
    for i, lane in enumerate(slow):
        frames, seen = lane.shown(HISTORY)
        np.testing.assert_array_equal(lanes.observation.frames[i], frames)
        assert lanes.observation.frames_seen[i] == seen
        np.testing.assert_array_equal(lanes.observation.text[i], [min(int(lane.state.steps), 1), -1])
        assert bits(lanes.world.key[i]) == bits(lane.state.key)
        assert (lanes.world.steps[i], lanes.world.layout[i]) == (lane.state.steps, lane.state.layout)
        assert lanes.closing[i] == lane.closing
        assert (lanes.episode_return[i], lanes.episode_length[i]) == (lane.total, lane.length)


def test_the_toy_is_a_world():
    assert isinstance(WORLD, World)


@pytest.mark.parametrize("seed", range(3))
def test_is_the_simulation(seed):
    rng = np.random.default_rng(seed)
    lanes, pool = fresh(), fresh_pool()
    slow, slow_pool = [SlowLane(reset(key)) for key in jax.random.split(jax.random.key(1), B)], SlowPool(POOL)
    assert_lanes(lanes, slow)
    for _ in range(25):
        actions = rng.choice(4, B, p=[0.55, 0.2, 0.2, 0.05]).astype(np.int32)
        lanes, outcome, pool = fast(lanes, jnp.asarray(actions), pool)
        for i, lane in enumerate(slow):
            want = lane.advance(actions[i], functools.partial(slow_pool.take, i))
            for name in ("reward", "terminated", "truncated", "success"):
                assert getattr(outcome.step, name)[i] == want[name], name
            for name in ("valid", "ended", "episode_return", "episode_length"):
                assert getattr(outcome, name)[i] == want[name], name
        assert_lanes(lanes, slow)
        assert pool.taken.tolist() == slow_pool.taken
    assert sum(slow_pool.taken) > 2 * POOL  # it ran out more than once


def run(actions, pool_size=POOL):
    """actions [T, B] -> lists of lanes (before each step, and after the last) and outcomes."""
    lanes, pool = fresh(), fresh_pool(pool_size)
    seen, outcomes = [lanes], []
    for row in actions:
        lanes, outcome, pool = fast(lanes, jnp.asarray(row, jnp.int32), pool)
        seen.append(lanes)
        outcomes.append(outcome)
    return seen, outcomes


def test_a_truncated_episode_is_shown_once_more_and_acted_on_by_nobody():
    seen, outcomes = run([[GO] * B, [TRUNCATE, GO, GO, GO], [TERMINATE, GO, GO, GO], [GO] * B])
    assert seen[2].closing.tolist() == [True, False, False, False]
    # What the value of the truncated step is bootstrapped from: the same episode, two steps on.
    layout, steps = seen[2].observation.frames[0, -1, :, 0, 0]
    assert (layout, steps) == (seen[0].world.layout[0], 2)
    # Its termination in the closing row is not one: nothing was rewarded, counted or ended.
    row = outcomes[2]
    assert not row.valid[0] and not row.ended[0] and not row.step.terminated[0] and row.step.reward[0] == 0
    assert row.valid[1:].all()
    assert (row.episode_length[0], row.episode_return[0]) == (2, outcomes[1].episode_return[0])
    assert outcomes[1].ended.tolist() == [True, False, False, False]
    # Then a fresh one: one frame, no reward, another layout.
    assert (seen[3].observation.frames_seen[0], seen[3].episode_length[0], seen[3].episode_return[0]) == (1, 0, 0)
    assert not seen[3].closing.any() and not seen[3].observation.frames[0, :-1].any()
    assert outcomes[3].valid.all() and outcomes[3].episode_length.tolist() == [1, 4, 4, 4]


def test_a_terminated_episode_is_replaced_at_once():
    seen, outcomes = run([[GO] * B, [TERMINATE, GO, GO, GO]])
    assert outcomes[1].ended.tolist() == outcomes[1].step.success.tolist() == [True, False, False, False]
    assert outcomes[1].episode_length.tolist() == [2] * B
    assert not seen[2].closing.any()
    assert seen[2].observation.frames_seen.tolist() == [1, 3, 3, 3]
    assert seen[2].observation.frames[0, -1, 1, 0, 0] == 0  # its own first frame, not the end of the other


def test_both_ends_at_once_are_a_termination():
    seen, outcomes = run([[BOTH, TERMINATE, TRUNCATE, GO]])
    assert outcomes[0].step.terminated.tolist() == [True, True, False, False]
    assert outcomes[0].step.truncated.tolist() == [True, False, True, False]
    assert outcomes[0].ended.tolist() == [True, True, True, False]
    assert seen[1].closing.tolist() == [False, False, True, False]
    assert seen[1].episode_length.tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize("size", [1, POOL, 64])
def test_no_two_episodes_ever_have_one_key(size):
    """Also of lanes that end in the same step, with a pool smaller than the number of lanes."""
    seen, _ = run([[TERMINATE] * B] * 6, size)
    keys = [bits(key) for lanes in seen for key in lanes.world.key]
    assert len(set(keys)) == len(keys) == 7 * B
    layouts = [layout for lanes in seen[1:] for layout in lanes.world.layout.tolist()]
    first = fresh_pool(size).states.layout.tolist()
    assert layouts == [first[(i + i // size) % size] for i in range(6 * B)]  # only layouts repeat


def test_take_worked_example():
    pool = fresh_pool(8).replace(taken=jnp.array([0, 1, 2, 0]))
    wanted = jnp.array([True, False, True, False])
    states, after = jax.jit(ResetPool.take)(pool, wanted)
    np.testing.assert_array_equal(states.layout, pool.states.layout[np.array([0, 5, 3, 3])])
    assert bits(states.key[2]) != bits(states.key[3])
    assert after.taken.tolist() == [1, 1, 3, 0]
    part, _ = pool.part(jnp.array([2, 1])).take(wanted[1:3])
    assert [bits(key) for key in part.key] == [bits(states.key[i]) for i in (2, 1)], "in whatever order they ask"


def test_a_pool_that_is_not_asked_stays_as_it_is():
    assert not fresh_pool().take(jnp.zeros(B, bool))[1].taken.any()


@pytest.mark.parametrize("history", [1, 2, 4])
def test_observations_are_the_last_frames_of_the_episode(history):
    observe_next = jax.jit(functools.partial(observe, WORLD), static_argnums=2)
    state = reset(jax.random.key(0))
    seen = observe(WORLD, state, None, history)
    for taken in range(6):
        assert seen.frames.shape == (history, *WORLD.image_shape) and seen.frames.dtype == jnp.uint8
        steps = [int(frame[1, 0, 0]) for frame in seen.frames]
        real = min(taken + 1, history)
        assert seen.frames_seen == real
        assert steps[history - real :] == list(range(taken - real + 1, taken + 1))
        assert not seen.frames[: history - real].any()
        state, _ = step(state, jnp.int32(GO))
        seen = observe_next(state, seen, history)


def test_begin_gives_each_lane_the_episode_of_its_key():
    keys = jax.random.split(jax.random.key(1), B)
    lanes = fresh()
    for i, key in enumerate(keys):
        want = observe(WORLD, reset(key), None, HISTORY)
        for got, expected in zip(jax.tree.leaves(lanes.observation), jax.tree.leaves(want), strict=True):
            np.testing.assert_array_equal(got[i], expected)
    assert isinstance(lanes.observation, Observation)
    assert not lanes.closing.any() and not lanes.episode_length.any() and not lanes.episode_return.any()


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
def test_select_takes_whole_lanes(impl):
    def tree(seed):
        rng = np.random.default_rng(seed)
        return {
            "key": jax.random.split(jax.random.key(seed, impl=impl), 4),
            "keys": jax.random.split(jax.random.key(seed, impl=impl), (4, 2)),
            "image": jnp.asarray(rng.integers(0, 256, (4, 2, 3, 3)), jnp.uint8),
            "flag": jnp.asarray(rng.random(4) < 0.5),
            "number": jnp.asarray(rng.normal(size=(4, 1)), jnp.float32),
        }

    choose = jnp.array([True, False, False, True])
    yes, no = tree(1), tree(2)
    got = jax.jit(select)(choose, yes, no)
    for name in got:
        assert got[name].dtype == yes[name].dtype
        for lane in range(4):
            want = (yes if choose[lane] else no)[name][lane]
            a, b = (jax.random.key_data(x) if "key" in name else x for x in (got[name][lane], want))
            np.testing.assert_array_equal(a, b)


def test_resets_are_never_computed_inside_a_step():
    """The point of the pool: a reset under vmap would be paid by every lane in every step."""
    calls = []

    class Counting(Tally):
        def reset(self, key):
            calls.append(key)
            return super().reset(key)

    lanes, pool = fresh(), fresh_pool()
    jax.eval_shape(lambda *args: advance(Counting(), *args, HISTORY), lanes, jnp.zeros(B, jnp.int32), pool)
    assert not calls
