"""GAE against sums written out episode by episode."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from vldac.returns import gae, normalise

T, B = 9, 3
fast = jax.jit(gae)
scale = jax.jit(normalise)


def slow(rewards, values, next_values, terminated, truncated, gamma, gae_lambda):
    """Eq. 16 of arXiv 1506.02438 for one lane: each advantage is a sum over what is left of its episode."""
    episodes, begun = [], 0
    for t in range(len(rewards)):
        if terminated[t] or truncated[t] or t == len(rewards) - 1:
            episodes.append(range(begun, t + 1))
            begun = t + 1
    advantages = np.zeros(len(rewards))
    for episode in episodes:
        for t in episode:
            for k, u in enumerate(range(t, episode.stop)):
                follows = 0.0 if terminated[u] else float(next_values[u])
                delta = float(rewards[u]) + gamma * follows - float(values[u])
                advantages[t] += (gamma * gae_lambda) ** k * delta
    return advantages


def floats(shape):
    return hnp.arrays(np.float32, shape, elements=st.floats(-10, 10, width=32))


@given(
    rewards=floats((T, B)),
    values=floats((T, B)),
    next_values=floats((T, B)),
    terminated=hnp.arrays(bool, (T, B)),
    truncated=hnp.arrays(bool, (T, B)),
    gamma=st.sampled_from([0.0, 0.9, 0.99, 1.0]),
    gae_lambda=st.sampled_from([0.0, 0.5, 0.95, 1.0]),
)
@settings(max_examples=80)
def test_is_the_sum_over_the_rest_of_the_episode(
    rewards, values, next_values, terminated, truncated, gamma, gae_lambda
):
    arrays = (rewards, values, next_values, terminated, truncated)
    advantages, returns = fast(*arrays, jnp.float32(gamma), jnp.float32(gae_lambda))
    for lane in range(B):
        want = slow(*(array[:, lane] for array in arrays), gamma, gae_lambda)
        np.testing.assert_allclose(advantages[:, lane], want, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(returns, advantages + values, rtol=1e-6)


def one_lane(rewards, next_values, terminated, truncated, values=None, gamma=1.0, gae_lambda=1.0):
    n = len(rewards)
    arrays = [jnp.asarray(x, jnp.float32) for x in (rewards, values or [0] * n, next_values)]
    ends = [jnp.asarray(x, bool) for x in (terminated, truncated)]
    return [np.asarray(x) for x in gae(*arrays, *ends, gamma, gae_lambda)]


def test_worked_example():
    advantages, returns = one_lane([1, 1, 1, 1], [0, 0, 0, 5], [0, 1, 0, 0], [0, 0, 0, 1])
    np.testing.assert_array_equal(advantages, [2, 1, 7, 6])
    np.testing.assert_array_equal(returns, [2, 1, 7, 6])


def test_an_episode_that_goes_on_bootstraps_from_the_last_observation():
    advantages, _ = one_lane([1, 1], [0, 4], [0, 0], [0, 0], gamma=0.5)
    np.testing.assert_allclose(advantages, [1 + 0.5 * (1 + 0.5 * 4), 1 + 0.5 * 4])


def test_terminated_wins_where_both_ends_are_set():
    both, _ = one_lane([1, 1, 1], [0, 9, 0], [0, 1, 1], [0, 1, 0])
    only, _ = one_lane([1, 1, 1], [0, 9, 0], [0, 1, 1], [0, 0, 0])
    np.testing.assert_array_equal(both, only)


@pytest.mark.parametrize("garbage", [np.nan, np.inf])
def test_the_value_after_the_end_is_not_used(garbage):
    advantages, _ = one_lane([1, 1, 1], [0, garbage, 0], [0, 1, 1], [0, 0, 0])
    np.testing.assert_array_equal(advantages, [2, 1, 1])


def test_nothing_leaks_back_from_the_next_episode():
    ends = ([0, 1, 0, 0, 0], [0, 0, 0, 1, 0])
    a, _ = one_lane([1, 2, 3, 4, 5], [1, 2, 3, 4, 5], *ends, values=[5, 4, 3, 2, 1], gamma=0.9, gae_lambda=0.8)
    b, _ = one_lane([1, 2, 3, 4, -9], [1, 2, 3, 4, 99], *ends, values=[5, 4, 3, 2, 50], gamma=0.9, gae_lambda=0.8)
    np.testing.assert_array_equal(a[:4], b[:4])
    assert a[4] != b[4]


def test_lambda_one_is_the_discounted_return_and_lambda_zero_the_one_step_error():
    rewards, values, after = [1, 2, 3], [0.5, -1, 2], [-1, 2, 7]
    monte_carlo, returns = one_lane(rewards, after, [0, 0, 1], [0, 0, 0], values=values, gamma=0.9)
    # The values telescope away: each return is the discounted sum of rewards.
    np.testing.assert_allclose(returns, [1 + 0.9 * 2 + 0.81 * 3, 2 + 0.9 * 3, 3], rtol=1e-6)
    np.testing.assert_allclose(monte_carlo, returns - np.float32(values), rtol=1e-6)
    one_step, _ = one_lane(rewards, after, [0, 0, 1], [0, 0, 0], values=values, gamma=0.9, gae_lambda=0.0)
    np.testing.assert_allclose(one_step, [1 + 0.9 * -1 - 0.5, 2 + 0.9 * 2 + 1, 3 - 2], rtol=1e-6)


@pytest.mark.parametrize("lanes", [(), (2,), (2, 3)])
def test_whatever_follows_time_is_carried_along(lanes):
    rng = np.random.default_rng(0)
    numbers = rng.normal(size=(3, 4, *lanes)).astype(np.float32)
    ends = rng.random((2, 4, *lanes)) < 0.3
    got, _ = gae(*map(jnp.asarray, (*numbers, *ends)), 0.9, 0.95)
    for lane in np.ndindex(lanes):
        column = (slice(None), *lane)
        want = slow(*(x[column] for x in (*numbers, *ends)), 0.9, 0.95)
        np.testing.assert_allclose(np.asarray(got)[column], want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kept", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("gamma", [0.9, jnp.float32(0.9)])
def test_values_may_be_kept_in_less_than_rewards(kept, gamma):
    rng = np.random.default_rng(0)
    rewards, ends = jnp.asarray(rng.normal(size=(T, B)), jnp.float32), jnp.asarray(rng.random((2, T, B)) < 0.2)
    values, next_values = (jnp.asarray(rng.normal(size=(T, B))).astype(kept) for _ in range(2))
    advantages, returns = gae(rewards, values, next_values, *ends, gamma, 0.95)
    want, _ = gae(rewards, values.astype(jnp.float32), next_values.astype(jnp.float32), *ends, 0.9, 0.95)
    assert advantages.dtype == returns.dtype == jnp.float32
    np.testing.assert_allclose(advantages, want, atol=0.1)


def test_normalise_worked_example():
    got = normalise(jnp.array([1.0, 3.0, 99.0]), jnp.array([True, True, False]))
    np.testing.assert_allclose(got, [-1, 1, 0], atol=1e-6)


@given(hnp.arrays(np.float32, 12, elements=st.floats(-100, 100, width=32)), hnp.arrays(bool, 12))
@settings(max_examples=60)
def test_normalise_is_numpys(x, mask):
    got = np.asarray(scale(x, mask))
    assert np.isfinite(got).all() and not got[~mask].any()
    entries = x[mask].astype(np.float64)
    if len(entries) and entries.std() > 1e-3:
        np.testing.assert_allclose(got[mask], (entries - entries.mean()) / entries.std(), rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("garbage", [np.nan, np.inf, -np.inf])
def test_normalise_ignores_what_is_masked(garbage):
    got = normalise(jnp.array([1.0, garbage, 3.0]), jnp.array([True, False, True]))
    np.testing.assert_allclose(got, [-1, 0, 1], atol=1e-6)


@given(st.floats(-1000, 1000, width=32), st.integers(1, 12))
@settings(max_examples=60)
def test_normalise_makes_nothing_out_of_equal_entries(value, count):
    got = scale(np.full(12, value, np.float32), np.arange(12) < count)
    np.testing.assert_allclose(got, np.zeros(12), atol=0.05)


def test_normalise_of_nothing_is_nothing():
    np.testing.assert_array_equal(normalise(jnp.ones(3), jnp.zeros(3, bool)), np.zeros(3))
