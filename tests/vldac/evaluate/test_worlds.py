"""Evaluation: every episode is played to its end and counted once, whatever the number of lanes."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vldac.evaluate.worlds import Decision, play, play_scripted

EPISODES = 23


def told(states, observation, memory, key, idle):
    """Right, wrong or invalid, as the state's own key says: the same whatever else is played beside it."""
    draw = jax.vmap(lambda key: jax.random.randint(key, (), 0, 4, jnp.int32))(states.key)
    right = states.green.astype(jnp.int32)
    action = jnp.where(draw == 0, right, jnp.where(draw == 1, -1, 1 - right))
    tokens = jnp.stack([action, memory, jnp.zeros_like(action)], axis=1)
    return Decision(action=action, tokens=tokens, mask=~idle[:, None] & (jnp.arange(3) < 2))


def remember(observation, memory):
    """Frames seen, as far as one who is told of every observation once can know."""
    return (
        observation.frames_seen if memory is None else jnp.minimum(memory * (observation.frames_seen > 1) + 1, 2)
    )


@pytest.fixture(scope="module")
def loop(signal):
    """The same episodes by a loop, one after another."""
    reset_key, _ = jax.random.split(jax.random.key(0))
    step = jax.jit(signal.step)
    played = []
    for key in jax.random.split(reset_key, EPISODES):
        state, rows, over = signal.reset(key), [], False
        while not over:
            draw = int(jax.random.randint(state.key, (), 0, 4, jnp.int32))
            right = int(state.green)
            action = right if draw == 0 else -1 if draw == 1 else 1 - right
            frame = np.asarray(signal.render(state))
            state, outcome = step(state, jnp.int32(action))
            rows.append((frame, action, float(outcome.reward)))
            over = bool(outcome.terminated | outcome.truncated)
        played.append((rows, bool(outcome.success)))
    return played


@pytest.mark.parametrize("lanes", [1, 4, 100])
def test_episodes_are_those_of_a_loop(signal, loop, lanes):
    run = jax.jit(lambda key: play(signal, told, key, EPISODES, lanes, 2, 5, 3, remember))
    results, recording = jax.device_get(run(jax.random.key(0)))
    for i, (rows, success) in enumerate(loop):
        assert results.length[i] == len(rows) and results.success[i] == success
        assert results.episode_return[i] == sum(reward for _, _, reward in rows)
        assert results.invalid[i] == sum(action == -1 for _, action, _ in rows)
        assert results.tokens[i] == 2 * len(rows)
    for i, (rows, _) in enumerate(loop[:5]):
        for t, (frame, action, reward) in enumerate(rows):
            np.testing.assert_array_equal(recording.frames[i, t], frame)
            assert recording.action[i, t] == action and recording.reward[i, t] == reward
            np.testing.assert_array_equal(recording.tokens[i, t], [action, min(t + 1, 2), 0])
            assert recording.mask[i, t].tolist() == [True, True, False]
        assert not recording.frames[i, len(rows) :].any()


def test_experts_and_chance(signal):
    expert, chance = jax.device_get(jax.jit(lambda key: play_scripted(signal, key, 400))(jax.random.key(1)))
    assert expert.success.all() and (expert.length == 1).all()
    assert abs(chance.success.mean() - 7 / 8) < 0.07 and abs(chance.length.mean() - 1.75) < 0.15
    assert not expert.invalid.any() and not expert.tokens.any()


def test_an_episode_without_end_is_cut_at_the_worlds_horizon(signal):
    """The world says 3 steps and means 40; without the cut one that never ends would be played for ever."""

    class Longer(type(signal)):
        def step(self, state, action):
            return dataclasses.replace(signal, max_steps=40).step(state, action)

    def wrong(states, observation, memory, key, idle):
        nothing = jnp.zeros((len(idle), 0), jnp.int32)
        return Decision(action=1 - states.green.astype(jnp.int32), tokens=nothing, mask=nothing.astype(bool))

    results, recording = jax.jit(lambda key: play(Longer(), wrong, key, 5, 2, record=1))(jax.random.key(0))
    assert (results.length == 3).all() and not results.success.any()
    assert recording.action.shape == (1, 3) and recording.frames.any((2, 3, 4)).all()


def test_a_world_says_its_horizon(signal):
    with pytest.raises(ValueError, match="max_steps is None; accepted: a positive int"):
        play(dataclasses.replace(signal, max_steps=None), told, jax.random.key(0), 2, 2)
