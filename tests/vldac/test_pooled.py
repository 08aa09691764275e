"""Lanes that work off a queue of worlds give the trajectory of worlds that go in step."""

from __future__ import annotations

import functools
import re
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vldac.lanes import begin
from vldac.params import init_params
from vldac.policy import Policy, PolicyConfig
from vldac.rollout import RolloutConfig, rollout, rollout_metrics

HEAD = (8,)
CONFIG = RolloutConfig(worlds=7, steps=6, invalid="random", reset_pool=5)


class Brief(Policy):
    """Ends its answers early, and at different lengths."""

    def _mask_logits(self, logits, states, tokens_left):
        return super()._mask_logits(logits, states, tokens_left).at[:, self.vocabulary.eos_id].add(4.5)


@pytest.fixture(scope="module")
def run(signal, tokenizer, tiny):
    policy = Brief.build(signal, tokenizer, tiny, PolicyConfig(history=2, max_tokens=12, temperature=3.0), HEAD)
    params = init_params(tiny, jax.random.key(0), HEAD)
    params["value"] = jax.tree.map(lambda x: x + 0.1, params["value"])  # the last layer starts at zero
    lanes = begin(signal, jax.random.split(jax.random.key(1), CONFIG.worlds), 2)

    @functools.cache
    def go(**options):
        """(worlds, trajectory, the compiled program)"""
        config, key = replace(CONFIG, **options), jax.random.key(2)
        gather = jax.jit(lambda params, key: rollout(policy, signal, params, lanes, key, config))
        gather = gather.lower(params, key).compile()
        return *jax.device_get(gather(params, key)), gather.as_text()

    return go


@pytest.fixture(scope="module")
def in_step(run):
    return run()


@pytest.mark.parametrize(("lanes", "refill"), [(3, 2), (7, 1)])
def test_the_trajectory_is_that_of_worlds_in_step(run, in_step, lanes, refill):
    worlds, trajectory, _ = run(lanes=lanes, refill=refill)
    wanted_worlds, wanted, _ = in_step
    lengths = wanted.response.mask.sum(-1)[wanted.valid]
    assert lengths.min() < 4 and lengths.max() == 12 and len(set(lengths)) > 4, "no answer waits for another"
    assert (~wanted.valid).any() and wanted.terminated.any(), "or no episode ended one way or the other"

    def assert_alike(a, b):
        if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        if jnp.issubdtype(a.dtype, jnp.floating):
            np.testing.assert_allclose(a, b, atol=1e-5, rtol=1e-5)
        else:
            np.testing.assert_array_equal(a, b)

    any_tokens = jnp.int32(0)
    jax.tree.map(assert_alike, trajectory.replace(lane_tokens=any_tokens), wanted.replace(lane_tokens=any_tokens))
    jax.tree.map(assert_alike, worlds, wanted_worlds)


def test_lanes_are_used_better_than_in_step(run, in_step):
    _, pooled, _ = run(lanes=3, refill=2)
    _, wanted, _ = in_step
    longest = wanted.response.mask.sum(-1).max(axis=1)
    assert wanted.lane_tokens == (np.maximum(longest, 1) - 1).sum() * CONFIG.worlds
    metrics = jax.jit(rollout_metrics)
    uses = [float(metrics(trajectory)["lane_use"]) for trajectory in (wanted, pooled)]
    followers = wanted.response.mask[..., 1:].sum()
    np.testing.assert_allclose(uses[0], followers / wanted.lane_tokens, rtol=1e-6)
    assert pooled.lane_tokens % 3 == 0 and uses[0] < uses[1] <= 1


def test_keys_and_values_are_written_in_place(run):
    """Copied once, when their lanes are made, and by neither loop."""
    program = run(lanes=3, refill=2)[-1]
    loops, entry = program.split("\nENTRY ")
    slots = max(map(int, re.findall(r"f32\[3,2,(\d+),8\]", program)))  # 3 lanes, 2 heads of 8
    shape = f"f32[3,2,{slots},8]"
    assert f"= {shape}" in loops and f"= {shape}" in entry
    assert not re.search(rf"= {re.escape(shape)}\S* (copy|transpose|select)\(", loops)


def test_settings_that_can_not_be_are_named():
    with pytest.raises(ValueError, match="lanes is 9; accepted: 0 to worlds, which is 8"):
        RolloutConfig(worlds=8, lanes=9)
    with pytest.raises(ValueError, match="refill is 5; accepted: 0 to lanes, which is 4"):
        RolloutConfig(worlds=8, lanes=4, refill=5)
    assert RolloutConfig(worlds=64, lanes=32).refill_size == 4
