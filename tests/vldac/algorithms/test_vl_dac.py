"""The loss against the paper's equations written out token by token, and its gradients against differences."""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vldac.algorithms.vl_dac import LOG_RATIO_BOUND, VLDACConfig, loss

S, N = 6, 5
CONFIG = VLDACConfig(clip_epsilon=0.2, kl_coefficient=0.05, value_coefficient=0.15)
ARRAYS = (
    "log_probs",
    "old_log_probs",
    "reference_log_probs",
    "token_mask",
    "advantages",
    "values",
    "returns",
    "step_weights",
)


def batch(seed: int = 0, spread: float = 0.3) -> dict[str, np.ndarray]:
    """Random steps, in float32. Answers of 1, N, and N - 1 tokens are among them, and a step of no weight."""
    rng = np.random.default_rng(seed)
    old = rng.uniform(-4, -0.05, (S, N))
    lengths = np.array([1, N, N - 1, *rng.integers(1, N + 1, S - 3)])
    weights = rng.uniform(0.2, 1.0, S)
    weights[-1] = 0.0
    made = {
        "log_probs": old + rng.normal(0, spread, (S, N)),
        "old_log_probs": old,
        "reference_log_probs": old + rng.normal(0, 0.5, (S, N)),
        "advantages": rng.normal(0, 2, S),
        "values": rng.normal(0, 1, S),
        "returns": rng.normal(0, 1, S),
        "step_weights": weights / weights.sum(),
    }
    made = {name: array.astype(np.float32) for name, array in made.items()}
    return made | {"token_mask": np.arange(N) < lengths[:, None]}


def slow(b, config: VLDACConfig, actor: float = 1.0) -> float:
    """Equations 3 to 6 of arXiv 2508.04280, one token after another, in float64."""
    policy = kl = value = 0.0
    for s in range(len(b["values"])):
        tokens = [i for i in range(b["token_mask"].shape[1]) if b["token_mask"][s, i]]
        advantage, weight = float(b["advantages"][s]), float(b["step_weights"][s])
        step_policy = step_kl = 0.0
        for i in tokens:
            log_prob = float(b["log_probs"][s, i])
            r = math.exp(log_prob - float(b["old_log_probs"][s, i]))
            low, high = 1 - config.clip_epsilon, 1 + config.clip_epsilon
            step_policy += min(r * advantage, min(max(r, low), high) * advantage)
            d = float(b["reference_log_probs"][s, i]) - log_prob
            step_kl += math.exp(d) - d - 1
        policy -= weight * step_policy / max(len(tokens), 1)
        kl += weight * step_kl / max(len(tokens), 1)
        value += weight * (float(b["values"][s]) - float(b["returns"][s])) ** 2 / 2
    return actor * (policy + config.kl_coefficient * kl) + config.value_coefficient * value


_fast = {}


def fast(b, config: VLDACConfig = CONFIG, actor: float = 1.0):
    """(loss, metrics), gradients by array: jitted once a config."""
    if config not in _fast:

        def value(floats, mask, actor):
            return loss(**floats, token_mask=mask, config=config, actor=actor)

        _fast[config] = jax.jit(jax.value_and_grad(value, has_aux=True))
    floats = {name: jnp.asarray(b[name]) for name in ARRAYS if name != "token_mask"}
    return _fast[config](floats, jnp.asarray(b["token_mask"]), jnp.float32(actor))


def one(log_prob=-1.0, old=-1.0, reference=None, advantage=1.0, tokens=1, value=0.0, target=0.0, **config):
    """A batch of one step whose tokens are all alike."""
    row = np.ones((1, tokens), np.float32)
    b = {
        "log_probs": log_prob * row,
        "old_log_probs": old * row,
        "reference_log_probs": (log_prob if reference is None else reference) * row,
        "token_mask": row > 0,
        "advantages": np.float32([advantage]),
        "values": np.float32([value]),
        "returns": np.float32([target]),
        "step_weights": np.ones(1, np.float32),
    }
    return fast(b, dataclasses.replace(CONFIG, **config))


@given(st.integers(0, 10**6), st.sampled_from([0.01, 0.3, 2.0]), st.sampled_from([0.0, 1.0]))
@settings(max_examples=40)
def test_is_the_papers_equations(seed, spread, actor):
    b = batch(seed, spread)
    (total, _), _ = fast(b, CONFIG, actor)
    np.testing.assert_allclose(total, slow(b, CONFIG, actor), rtol=2e-5, atol=1e-5)


@pytest.mark.parametrize(
    "config", [CONFIG, VLDACConfig(clip_epsilon=0.5, kl_coefficient=0.0, value_coefficient=2.0)]
)
def test_gradients_are_finite_differences_of_the_equations(config):
    b = batch(7)
    _, gradients = fast(b, config)
    step = 1e-6
    for name in ("log_probs", "values"):
        want = np.zeros(b[name].shape)
        for index in np.ndindex(want.shape):
            ends = []
            for sign in (1, -1):
                moved = b[name].astype(np.float64)
                moved[index] += sign * step
                ends.append(slow(b | {name: moved}, config))
            want[index] = (ends[0] - ends[1]) / (2 * step)
        np.testing.assert_allclose(gradients[name], want, rtol=1e-3, atol=1e-6)


def test_first_and_last_token_are_trained_and_masked_ones_are_not():
    b = batch(3, spread=0.01)  # nothing is clipped
    _, gradients = fast(b)
    live = b["token_mask"] & (b["step_weights"] > 0)[:, None]
    np.testing.assert_array_equal(np.asarray(gradients["log_probs"]) != 0, live)
    assert live[:, 0].sum() == S - 1 and live[1, N - 1]


@pytest.mark.parametrize("advantage", [-2.0, 0.5])
def test_with_unchanged_parameters_it_is_the_policy_gradient(advantage):
    (total, metrics), gradients = one(advantage=advantage, tokens=4)
    np.testing.assert_allclose(total, -advantage, rtol=1e-6)
    np.testing.assert_allclose(gradients["log_probs"], np.full((1, 4), -advantage / 4), rtol=1e-6)
    assert metrics["ratio_mean"] == 1 and metrics["clip_fraction"] == metrics["log_ratio_abs"] == 0


@pytest.mark.parametrize(
    ("ratio", "advantage", "surrogate", "trained"),
    [
        (1.5, 1.0, 1.2, False),  # good and far up: no further
        (0.5, 1.0, 0.5, True),  # good but less likely than before: back up
        (1.5, -1.0, -1.5, True),  # bad but more likely than before: back down
        (0.5, -1.0, -0.8, False),  # bad and far down: no further
        (1.1, 1.0, 1.1, True),
        (0.9, -1.0, -0.9, True),
    ],
)
def test_clips_only_what_went_far_enough_in_its_direction(ratio, advantage, surrogate, trained):
    (_, metrics), gradients = one(log_prob=-1 + math.log(ratio), advantage=advantage, kl_coefficient=0.0)
    np.testing.assert_allclose(metrics["policy_loss"], -surrogate, rtol=1e-5)
    np.testing.assert_allclose(gradients["log_probs"], [[-ratio * advantage if trained else 0.0]], rtol=1e-5)
    assert metrics["clip_fraction"] == (0 if 0.8 < ratio < 1.2 else 1)


def test_a_long_answer_counts_as_much_as_a_short_one():
    b = batch(0)
    b["step_weights"] = np.full(S, 1 / S, np.float32)
    _, gradients = fast(b | {"log_probs": b["old_log_probs"], "reference_log_probs": b["old_log_probs"]})
    # At ratio one, the sum over a step's tokens of the gradient is -A / S whatever its length is.
    np.testing.assert_allclose(gradients["log_probs"].sum(1), -b["advantages"] / S, rtol=1e-5)
    assert len(set(b["token_mask"].sum(1))) > 2


@given(st.floats(-3, 3))
@settings(max_examples=25)
def test_k3_is_never_negative_and_pulls_towards_the_reference(difference):
    (_, metrics), gradients = one(log_prob=-1.0, reference=-1.0 + difference, advantage=0.0, kl_coefficient=1.0)
    kl = metrics["kl_reference"]
    np.testing.assert_allclose(kl, math.exp(difference) - difference - 1, rtol=1e-4, atol=1e-6)
    assert kl >= -1e-6
    np.testing.assert_allclose(gradients["log_probs"], [[1 - math.exp(difference)]], rtol=1e-4, atol=1e-6)


def test_k3_estimates_the_kl_of_the_policy_to_the_reference():
    rng = np.random.default_rng(0)
    p, q = rng.dirichlet(np.ones(5), 2)
    # Its mean over tokens drawn from the policy, exactly: the step weights are the policy's probabilities.
    b = {
        "log_probs": np.log(p)[:, None],
        "old_log_probs": np.log(p)[:, None],
        "reference_log_probs": np.log(q)[:, None],
        "token_mask": np.ones((5, 1), bool),
        **{name: np.zeros(5) for name in ("advantages", "values", "returns")},
        "step_weights": p,
    }
    b = {name: array if array.dtype == bool else array.astype(np.float32) for name, array in b.items()}
    (_, metrics), _ = fast(b)
    np.testing.assert_allclose(metrics["kl_reference"], (p * np.log(p / q)).sum(), rtol=1e-4)


@pytest.mark.parametrize("garbage", [np.nan, np.inf, -np.inf, -1e30, 3e38])
@pytest.mark.parametrize("where", ["log_probs", "old_log_probs", "reference_log_probs"])
def test_masked_tokens_are_irrelevant_whatever_they_hold(garbage, where):
    b = batch(1)
    spoilt = b | {where: np.where(b["token_mask"], b[where], np.float32(garbage))}
    for x, y in zip(jax.tree.leaves(fast(b)), jax.tree.leaves(fast(spoilt)), strict=True):
        np.testing.assert_array_equal(x, y)
    # And nothing can be told from a longer padding either.
    padded = {
        name: np.pad(b[name], [(0, 0), (0, 3)], constant_values=0 if name == "token_mask" else garbage)
        for name in ARRAYS
        if b[name].ndim == 2
    }
    np.testing.assert_allclose(fast(b | padded)[0][0], fast(b)[0][0], rtol=1e-6)


def test_masked_tokens_are_irrelevant_without_a_compiler_too():
    """Compiled, x * mask may become a select and hide what 0 * NaN would do."""
    b = batch(1)
    holes = {name: np.where(b["token_mask"], b[name], np.float32(np.nan)) for name in ARRAYS[:3]}
    spoilt = jax.tree.map(jnp.asarray, b | holes)
    with jax.disable_jit():
        got = jax.grad(lambda x: loss(**spoilt | {"log_probs": x}, config=CONFIG)[0])(spoilt["log_probs"])
    np.testing.assert_allclose(got, fast(b)[1]["log_probs"], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("log_prob", [-1e4, -200.0, -90.0, -1.0, 0.0])
@pytest.mark.parametrize("advantage", [-3.0, 0.0, 3.0])
def test_is_finite_however_far_a_ratio_runs(log_prob, advantage):
    for old in (-1e4, -200.0, -1.0):
        for reference in (-1e4, -1.0):
            everything = one(log_prob=log_prob, old=old, reference=reference, advantage=advantage)
            assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(everything))
            # Nor does the global norm of the gradients overflow.
            assert np.isfinite(np.square(everything[1]["log_probs"]).sum(dtype=np.float32))


def test_the_bound_of_ratios_is_far_from_any_that_is_trained():
    far = LOG_RATIO_BOUND - 1
    _, gradients = one(log_prob=0.0, old=-far, advantage=-1.0, kl_coefficient=0.0)
    np.testing.assert_allclose(gradients["log_probs"], [[math.exp(far)]], rtol=1e-4)


def test_an_answer_without_tokens_leaves_only_the_value():
    b = batch(2)
    b["token_mask"] = b["token_mask"] & (np.arange(S) != 1)[:, None]
    (total, _), gradients = fast(b)
    np.testing.assert_allclose(total, slow(b, CONFIG), rtol=1e-5)
    assert not np.asarray(gradients["log_probs"])[1].any() and np.asarray(gradients["values"])[1] != 0


def test_warm_up_trains_the_critic_alone():
    b = batch(4)
    (total, metrics), gradients = fast(b, actor=0.0)
    weighted = (b["step_weights"] * 0.5 * np.square(b["values"] - b["returns"])).sum()
    np.testing.assert_allclose(total, CONFIG.value_coefficient * weighted, rtol=1e-5)
    np.testing.assert_allclose(metrics["value_loss"], weighted, rtol=1e-5)
    np.testing.assert_array_equal(gradients["log_probs"], np.zeros((S, N)))
    np.testing.assert_array_equal(gradients["values"], fast(b)[1]["values"])


def test_the_value_is_regressed_once_a_step_and_unclipped():
    for tokens in (1, 4):
        (_, metrics), gradients = one(value=3.0, target=-7.0, tokens=tokens)
        assert metrics["value_loss"] == 50
        np.testing.assert_allclose(gradients["values"], [CONFIG.value_coefficient * 10], rtol=1e-6)


def test_steps_count_by_their_weight_and_not_at_all_without():
    b = batch(5)
    other = {name: array.copy() for name, array in b.items()}
    for name in ARRAYS[:3] + ARRAYS[4:7]:  # all but the mask and the weights
        other[name][-1] += 1
    for x, y in zip(jax.tree.leaves(fast(b)[0]), jax.tree.leaves(fast(other)[0]), strict=True):
        np.testing.assert_array_equal(x, y)

    doubled = b | {"step_weights": 2 * b["step_weights"]}
    np.testing.assert_allclose(fast(doubled)[0][0], 2 * fast(b)[0][0], rtol=1e-6)


def test_micro_batches_add_up():
    b = batch(6)
    whole, gradients = fast(b)
    parts = [fast({name: array[i : i + 2] for name, array in b.items()}) for i in (0, 2, 4)]
    together = jax.tree.map(lambda *part: sum(part), *[part[0] for part in parts])
    for got, want in zip(jax.tree.leaves(together), jax.tree.leaves(whole), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
    for name in ("log_probs", "values"):
        np.testing.assert_allclose(np.concatenate([part[1][name] for part in parts]), gradients[name], rtol=1e-5)


def test_metrics_are_what_they_are_called():
    b = batch(8)
    (total, metrics), _ = fast(b)
    live, weights = b["token_mask"], b["step_weights"].astype(np.float64)
    log_ratio = np.where(live, b["log_probs"] - b["old_log_probs"], 0).astype(np.float64)
    ratio = np.exp(log_ratio)

    def mean(x):
        return (weights * (x * live).sum(1) / live.sum(1)).sum()

    want = {
        "ratio_mean": mean(ratio),
        "log_ratio_abs": mean(np.abs(log_ratio)),
        "clip_fraction": mean(np.abs(ratio - 1) > CONFIG.clip_epsilon),
        "kl_old": mean(ratio - 1 - log_ratio),
        "loss": total,
    }
    for name, value in want.items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-4, err_msg=name)
    together = metrics["policy_loss"] + CONFIG.kl_coefficient * metrics["kl_reference"]
    np.testing.assert_allclose(total, together + CONFIG.value_coefficient * metrics["value_loss"], rtol=1e-5)


@pytest.mark.parametrize(
    ("field", "value", "accepted"),
    [
        ("gamma", 1.01, "0 to 1"),
        ("gamma", float("nan"), "0 to 1"),
        ("gae_lambda", -0.1, "0 to 1"),
        ("clip_epsilon", 0.0, "between 0 and 1"),
        ("clip_epsilon", 1.0, "between 0 and 1"),
        ("kl_coefficient", -1e-9, "0 or more"),
        ("value_coefficient", float("nan"), "0 or more"),
        ("value_coefficient", float("inf"), "0 or more"),
        ("critic_warmup", -1, "0 or more"),
    ],
)
def test_impossible_settings_are_named(field, value, accepted):
    with pytest.raises(ValueError, match=rf"^{field} is {value}; accepted: {accepted}$"):
        VLDACConfig(**{field: value})


def test_the_borders_of_settings_are_possible():
    VLDACConfig(gamma=0.0, gae_lambda=1.0, kl_coefficient=0.0, value_coefficient=0.0, critic_warmup=0)
