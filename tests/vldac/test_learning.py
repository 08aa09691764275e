"""The whole loop learns: imitation teaches the words, reinforcement learning what they are good for."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vldac import imitation, train
from vldac.algorithms.vl_dac import VLDACConfig
from vldac.evaluate.worlds import play_policy
from vldac.imitation import Imitation, ImitationConfig
from vldac.params import init_params
from vldac.policy import Policy, PolicyConfig
from vldac.rollout import RolloutConfig
from vldac.state import OptimizerConfig, Setup
from vldac.text.answer import thoughts_of
from vldac.text.fragments import AnswerWriter
from vldac.text.tokenizer import decode_answer

HEAD = (16,)
TOKENS = 24


@pytest.fixture(scope="module")
def policy(signal, tokenizer, tiny):
    return Policy.build(signal, tokenizer, tiny, PolicyConfig(max_tokens=TOKENS), HEAD)


@pytest.fixture(scope="module")
def teacher(signal, tokenizer, policy):
    writer = AnswerWriter.build(signal.phrases, signal.actions, tokenizer, policy.vocabulary, TOKENS)
    config = ImitationConfig(steps=150, worlds=16, window=2, learning_rate=6e-3, expert_fraction=0.0)
    return Imitation(signal, policy, writer, config)


@pytest.fixture(scope="module")
def taught(teacher, tiny):
    """(parameters after the warm start, its metrics in tenths)."""
    state = imitation.init(teacher, init_params(tiny, jax.random.key(0), HEAD), jax.random.key(1))
    history = []
    for _ in range(10):
        state, metrics = imitation.jit_run(teacher, 15, state)
        history.append(jax.device_get(metrics))
    return state.params, history


@pytest.fixture(scope="module")
def judge(policy, signal):
    play = jax.jit(play_policy, static_argnums=(0, 1, 4, 5, 6))
    return lambda params, seed=7: jax.device_get(play(policy, signal, params, jax.random.key(seed), 256, 64, 4))


def test_demonstrations_say_what_is_seen_and_name_what_is_done(signal, policy, teacher, tiny):
    state = imitation.init(teacher, init_params(tiny, jax.random.key(0), HEAD), jax.random.key(3))
    expert = Imitation(signal, policy, teacher.writer, ImitationConfig(worlds=16, window=4, expert_fraction=1.0))
    for setup, share in ((teacher, (0.25, 0.75)), (expert, (1.0, 1.0))):
        _, rows = jax.jit(imitation.demonstrate, static_argnums=0)(setup, state.lanes, state.key)
        rows, right = jax.device_get(rows), []
        for i in np.flatnonzero(rows.valid):
            answer = decode_answer(policy.vocabulary, rows.tokens[i][rows.mask[i]])
            colour = "green" if rows.observation.frames[i, -1, 8, 8, 1] > 100 else "red"
            assert thoughts_of(answer) == colour
            right.append(answer.endswith(f'"{"go" if colour == "green" else "stop"}"}}'))
        assert share[0] <= np.mean(right) <= share[1]


def test_a_warm_start_teaches_to_see_and_to_answer_but_not_what_to_do(taught, judge, policy):
    params, history = taught
    assert history[-1]["loss"] < 0.1 < history[0]["loss"]
    results, recording = judge(params)
    assert results.invalid.sum() < 0.05 * results.length.sum()
    says = [
        thoughts_of(decode_answer(policy.vocabulary, recording.tokens[i, 0][recording.mask[i, 0]]))
        for i in range(4)
    ]
    sees = ["green" if recording.frames[i, 0, 8, 8, 1] > 100 else "red" for i in range(4)]
    assert says == sees
    assert 1.5 < results.length.mean() < 2.2, "a guess is right every second time: 1.75 steps"


def test_reinforcement_learning_finds_out_what_to_do(taught, judge, signal, policy):
    """Random actions take 1.75 steps on the mean; an agent that uses what it sees takes 1."""
    params, _ = taught
    setup = Setup(
        signal,
        policy,
        iterations=12,
        rollout=RolloutConfig(worlds=32, steps=4),
        algorithm=VLDACConfig(gamma=0.5, critic_warmup=1, kl_coefficient=0.01),
        optimizer=OptimizerConfig(learning_rate=2e-3, final_learning_rate=1e-4, minibatch=64),
    )
    state = train.init(setup, jax.tree.map(jnp.copy, params), jax.random.key(4))
    for _ in range(setup.iterations):
        state, metrics = train.jit_iteration(setup, state)
    before, _ = judge(params)
    after, _ = judge(state.params)
    assert after.length.mean() < 1.15 < 1.5 < before.length.mean()
    assert after.success.mean() > 0.99
    assert float(metrics["train/kl_reference"]) > 0.01, "it has left the reference"
    assert all(np.isfinite(float(value)) for name, value in metrics.items() if name.startswith("train/"))


def test_a_world_without_any_text_is_learnt_from_as_any_other(signal, tokenizer, tiny):
    """By tracing: what it says of itself is an array of nothing, which `envs_jax.check` takes for good."""

    class Mute(type(signal)):
        def describe(self, state):
            return jnp.zeros(0, jnp.int32)

        explain = describe

    world = Mute(phrases=())
    policy = Policy.build(world, tokenizer, tiny, PolicyConfig(max_tokens=TOKENS, text_observation=True), HEAD)
    writer = AnswerWriter.build(world.phrases, world.actions, tokenizer, policy.vocabulary, TOKENS)
    teaching = Imitation(world, policy, writer, ImitationConfig(steps=1, worlds=4))
    setup = Setup(world, policy, 1, RolloutConfig(worlds=4, steps=2), optimizer=OptimizerConfig(minibatch=8))

    def both(params):
        taught, _ = imitation.run(teaching, 1, imitation.init(teaching, params, jax.random.key(1)))
        return train.iteration(setup, train.init(setup, taught.params, jax.random.key(2)))

    state, _ = jax.eval_shape(both, init_params(tiny, jax.random.key(0), HEAD))
    assert state.lanes.observation.text.shape == (4, 1)


def test_settings_that_can_not_be_are_named():
    for name, value in (("steps", -1), ("worlds", 0), ("learning_rate", np.inf), ("expert_fraction", 1.5)):
        with pytest.raises(ValueError, match=f"{name} is {value}"):
            ImitationConfig(**{name: value})
