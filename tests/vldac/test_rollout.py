"""Rollouts: what is recorded is what happened, and what an invalid answer does is what was asked for."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vldac.answers import Prepared, Response
from vldac.lanes import begin
from vldac.policy import Policy, PolicyConfig
from vldac.rollout import RolloutConfig, rollout, rollout_metrics


class Scripted(Policy):
    """Says -1, 0 or 1 by chance; its value tells which frame it saw."""

    def __init__(self):
        object.__setattr__(self, "config", PolicyConfig(history=2, max_tokens=3))

    def prepare(self, params):
        return Prepared(params=params, prefix=None, layers=None)

    def look(self, prepared, frames):
        return frames[:, :, 8:9, 8:9, 1].astype(jnp.float32)[..., None]

    def value(self, prepared, observation, sight):
        np.testing.assert_equal(sight.shape, (len(observation.text), 2, 1, 1, 1))
        return observation.frames[:, -1, 8, 8, 1].astype(jnp.float32) + 1.0

    def act(self, prepared, observation, key, silent, sight):
        lanes = len(observation.frames_seen)
        action = jnp.where(silent, -1, jax.vmap(lambda key: jax.random.randint(key, (), -1, 2, jnp.int32))(key))
        tokens = jnp.zeros((lanes, 3), jnp.int32)
        return Response(
            tokens=tokens,
            log_probs=tokens.astype(jnp.float32),
            mask=jnp.broadcast_to(~silent[:, None], tokens.shape),
            grammar_state=action,
            action=action,
            value=self.value(prepared, observation, sight),
        )


@pytest.fixture(scope="module")
def run(signal):
    def go(invalid, worlds=16, steps=12, seed=0):
        config = RolloutConfig(worlds=worlds, steps=steps, invalid=invalid, invalid_penalty=0.25)
        lanes = begin(signal, jax.random.split(jax.random.key(seed), worlds), 2)
        gather = jax.jit(lambda lanes, key: rollout(Scripted(), signal, None, lanes, key, config))
        return jax.device_get(gather(lanes, jax.random.key(seed + 1)))

    return go


def green(frame):
    return frame[..., 8, 8, 1] > 100


@pytest.mark.parametrize("invalid", ["noop", "penalty", "random"])
def test_what_an_invalid_answer_does(run, invalid):
    _, t = run(invalid)
    said, valid = t.response.action, t.valid
    right = np.where(green(t.observation.frames[:, :, -1]), 1, 0)
    missed = valid & (said == -1)
    assert missed.sum() > 10
    if invalid == "random":
        # A random action is right half of the time; the record still says that the answer was invalid.
        assert 0.2 < t.success[missed].mean() < 0.8
    else:
        assert not t.success[missed].any()
        np.testing.assert_allclose(t.reward[missed], -0.25 if invalid == "penalty" else 0.0)
    spoken = valid & (said >= 0)
    np.testing.assert_array_equal(t.success[spoken], said[spoken] == right[spoken])
    np.testing.assert_array_equal(t.reward[spoken], (said[spoken] == right[spoken]).astype(np.float32))


def test_an_invalid_answer_costs_reward_unless_asked_otherwise():
    assert RolloutConfig().invalid == "penalty" and RolloutConfig().invalid_penalty > 0


def test_episodes_are_bookkept_as_a_loop_would(run, signal):
    _, t = run("noop", steps=20)
    for lane in range(t.valid.shape[1]):
        length, total, closing = 0, 0.0, False
        for step in range(t.valid.shape[0]):
            seen = t.observation.frames_seen[step, lane]
            assert seen == min(length + 1, 2)
            if seen < 2:
                assert not t.observation.frames[step, lane, 0].any()
            if closing:  # only shows the last observation of a truncated episode
                assert not t.valid[step, lane] and not t.ended[step, lane] and t.reward[step, lane] == 0
                assert not t.response.mask[step, lane].any()
                length, total, closing = 0, 0.0, False
                continue
            assert t.valid[step, lane]
            length, total = length + 1, total + t.reward[step, lane]
            assert t.episode_length[step, lane] == length and t.episode_return[step, lane] == total
            assert t.truncated[step, lane] == (length == signal.max_steps)
            assert t.ended[step, lane] == (t.terminated[step, lane] or t.truncated[step, lane])
            if t.terminated[step, lane]:
                length, total = 0, 0.0
            closing = bool(t.truncated[step, lane] and not t.terminated[step, lane])
    assert (~t.valid).sum() > 0 and t.terminated.sum() > 0


def test_next_values_are_of_the_observation_that_a_step_led_to(run):
    lanes, t = run("noop")
    value = np.asarray(t.response.value)
    np.testing.assert_array_equal(t.next_values[:-1], value[1:])
    np.testing.assert_array_equal(t.next_values[-1], lanes.observation.frames[:, -1, 8, 8, 1] + 1.0)
    cut = t.truncated & ~t.terminated
    assert not t.valid[1:][cut[:-1]].any(), "the row behind a truncated step shows that episode's last observation"


def test_episodes_are_fresh_and_the_next_rollout_goes_on(run, signal):
    lanes, t = run("noop", worlds=64, steps=16)
    assert len({key.tobytes() for key in np.asarray(jax.random.key_data(lanes.world.key))}) == 64
    starts = t.observation.frames_seen == 1
    assert 0.4 < green(t.observation.frames[:, :, -1])[starts].mean() < 0.6
    going_on = lanes.episode_length > 0
    np.testing.assert_array_equal(lanes.episode_length[going_on], t.episode_length[-1][going_on])


def test_metrics_are_means_over_what_happened(run):
    _, t = run("noop")
    metrics = jax.device_get(jax.jit(rollout_metrics)(t))
    valid, ended = t.valid, t.ended
    assert metrics["env_steps"] == valid.sum() and metrics["episodes"] == ended.sum()
    np.testing.assert_allclose(metrics["success_rate"], t.success[ended].mean(), rtol=1e-6)
    np.testing.assert_allclose(metrics["parse_failure_rate"], (t.response.action[valid] < 0).mean(), rtol=1e-6)
    np.testing.assert_allclose(metrics["episode_length"], t.episode_length[ended].mean(), rtol=1e-6)
    assert metrics["tokens"] == 3 * valid.sum()


def test_settings_that_can_not_be_are_named():
    with pytest.raises(ValueError, match="worlds is 0; accepted"):
        RolloutConfig(worlds=0)
    with pytest.raises(ValueError, match="reset_pool is -1"):
        RolloutConfig(reset_pool=-1)
    with pytest.raises(ValueError, match="invalid_penalty nan; accepted: finite, 0 or more"):
        RolloutConfig(invalid_penalty=float("nan"))
