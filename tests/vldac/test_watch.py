"""Early signs: repetition, sameness, and updates that must not be made."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vldac import learning, train, watch
from vldac.algorithms.vl_dac import VLDACConfig
from vldac.params import init_params
from vldac.policy import Policy, PolicyConfig
from vldac.rollout import RolloutConfig, rollout
from vldac.state import OptimizerConfig, Setup

HEAD = (8,)


def measured(answers: list[list[int]], length: int = 8) -> dict[str, float]:
    tokens, mask = np.zeros((len(answers), 1, length), np.int32), np.zeros((len(answers), 1, length), bool)
    for row, answer in enumerate(answers):
        tokens[row, 0, : len(answer)], mask[row, 0, : len(answer)] = answer, True
    return {k: float(v) for k, v in jax.jit(watch.answer_metrics)(jnp.asarray(tokens), jnp.asarray(mask)).items()}


def test_repetition_and_distinct_answers_are_counted():
    found = measured([[5, 5, 5], [5, 6], [], [5, 6], [5, 6, 0]])
    assert found["answers"] == 4
    assert found["answers_distinct"] == pytest.approx(3 / 4)  # token 0 at the end makes another answer
    assert found["answer_repetition"] == pytest.approx(2 / 6)


def test_distinct_answers_equal_a_set_of_random_ones():
    rng = np.random.default_rng(0)
    answers = [rng.integers(0, 3, rng.integers(0, 5)).tolist() for _ in range(300)]
    real = [tuple(answer) for answer in answers if answer]
    assert measured(answers)["answers_distinct"] == pytest.approx(len(set(real)) / len(real), abs=1e-6)


SOUND = {
    "rollout/answer_repetition": 0.05,
    "rollout/answers": 64.0,
    "rollout/answers_distinct": 0.5,
    "rollout/parse_failure_rate": 0.1,
    "train/logprob_mismatch": 1e-6,
    "train/updates_skipped": 0.0,
}


@pytest.mark.parametrize(
    ("change", "name", "words"),
    [
        ({"rollout/answer_repetition": 0.95}, "repeating", "95% of the tokens repeat"),
        ({"rollout/answers_distinct": 1 / 64}, "identical", "all 64 answers are the same"),
        ({"rollout/parse_failure_rate": 0.95}, "unreadable", "95% of the answers name no action"),
        ({"train/logprob_mismatch": 2e-3}, "mismatch", "0.002 between acting and learning"),
        ({"train/updates_skipped": 2.0}, "skipped", "above --optimizer.max_loss"),
    ],
)
def test_what_goes_wrong_is_named(change, name, words):
    assert watch.conditions(SOUND, "float32") == {}
    found = watch.conditions(SOUND | change, "float32")
    assert set(found) == {name} and words in found[name]


def test_bfloat16_is_allowed_more_and_few_answers_may_be_alike():
    assert not watch.conditions(SOUND | {"train/logprob_mismatch": 2e-3}, "bfloat16")
    few = {"rollout/answers": 8.0, "rollout/answers_distinct": 1 / 8}
    assert not watch.conditions(SOUND | few, "float32")


@pytest.fixture(scope="module")
def begun(signal, tokenizer, tiny):
    """(setup, state, trajectory)"""
    policy = Policy.build(signal, tokenizer, tiny, PolicyConfig(max_tokens=24, decoding="grammar"), HEAD)
    setup = Setup(
        signal,
        policy,
        10,
        RolloutConfig(worlds=8, steps=2),
        VLDACConfig(critic_warmup=0),
        OptimizerConfig(learning_rate=3e-3, minibatch=8, max_loss=1e3),
    )
    state = train.init(setup, init_params(tiny, jax.random.key(0), HEAD), jax.random.key(1))
    gather = jax.jit(lambda s: rollout(policy, signal, s.policy_params, s.lanes, s.key, setup.rollout)[1])
    return setup, state, gather(state)


def test_an_update_that_is_not_sound_changes_nothing_and_is_counted(begun):
    setup, state, trajectory = begun
    update = jax.jit(lambda s, t: learning.update(setup, s, t, jax.random.key(5)))

    def changed(params):
        pairs = zip(jax.tree.leaves(params), jax.tree.leaves(state.params), strict=True)
        return any(np.any(a != b) for a, b in pairs)

    params, _, skipped, metrics = update(state, trajectory)
    assert changed(params) and int(skipped) == 0 and float(metrics["updates_skipped"]) == 0
    for reward in (jnp.nan, 1e6):  # not a number; a value loss beyond max_loss
        broken = replace(trajectory, reward=jnp.full_like(trajectory.reward, reward))
        params, opt_state, skipped, metrics = update(state, broken)
        assert not changed(params)
        jax.tree.map(np.testing.assert_array_equal, opt_state, state.opt_state)
        assert int(skipped) == float(metrics["updates_skipped"]) == setup.updates
        _, _, again, _ = update(state.replace(skipped=skipped), broken)
        assert int(again) == 2 * setup.updates, "in a row, over iterations"
        _, _, cured, _ = update(state.replace(skipped=skipped), trajectory)
        assert int(cured) == 0
