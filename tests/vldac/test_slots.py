"""A world whose actions have slots goes through the whole loop: sampled, stepped, learnt from, evaluated."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from envs_jax.world import spoken
from tests.chores import Chores
from vldac import imitation
from vldac.evaluate.worlds import play_policy, play_scripted
from vldac.imitation import Imitation, ImitationConfig
from vldac.lanes import begin
from vldac.policy import Policy, PolicyConfig, init_params
from vldac.rollout import RolloutConfig, rollout
from vldac.text.answer import thoughts_of
from vldac.text.fragments import AnswerWriter

HEAD = (8,)
TOKENS = 90
WORLD = Chores()


@pytest.fixture(scope="module", params=["grammar", "free"])
def policy(request, tokenizer, tiny):
    return Policy.build(WORLD, tokenizer, tiny, PolicyConfig(max_tokens=TOKENS, decoding=request.param), HEAD)


@pytest.mark.parametrize("lanes", [0, 2])
def test_a_rollout_carries_records_and_its_answers_score_as_they_were_sampled(policy, tiny, lanes):
    config = RolloutConfig(worlds=4, steps=2, lanes=lanes, invalid="random")
    params = init_params(tiny, jax.random.key(0), HEAD)
    keys = jax.random.split(jax.random.key(1), 4)
    _, trajectory = jax.jit(rollout, static_argnums=(0, 1, 5))(
        policy, WORLD, params, begin(WORLD, keys, 1), jax.random.key(2), config
    )
    response = trajectory.response
    assert response.action.shape == (2, 4, 4)
    flat = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), (trajectory.observation, response))
    observation, answers = flat
    scores = jax.jit(policy.log_probs)(params, observation, answers.tokens, answers.mask)
    np.testing.assert_allclose(scores.log_probs, answers.log_probs, atol=1e-3)
    for tokens, mask, record in zip(answers.tokens, answers.mask, answers.action, strict=True):
        text = b"".join(policy.vocabulary.bytes_of[int(token)] or b"" for token in tokens[mask])
        said = spoken(WORLD, np.asarray(record))
        if policy.config.decoding == "grammar" and mask.any() and bool((tokens == policy.vocabulary.eos_id).any()):
            assert said is not None and text.endswith(f'"action": "{said}"}}'.encode())
        if policy.config.decoding == "free":
            assert said is None or said.encode() in text


def test_the_expert_writes_records_that_are_read_back(policy, tokenizer):
    writer = AnswerWriter.build(WORLD.phrases, WORLD.actions, tokenizer, policy.vocabulary, TOKENS, WORLD.slots)
    records = np.array([[0, -1, -1, -1], [1, 2, 1, -1], [2, 0, -1, -1], [3, 1, -1, -1], [3, 2, 0, 1]], np.int32)
    phrases = jnp.broadcast_to(jnp.array([0, 3]), (len(records), 2))
    tokens, mask = jax.vmap(writer.write)(phrases, jnp.asarray(records))
    np.testing.assert_array_equal(policy.grammar.record(tokens, mask), records)
    for row, real, record in zip(tokens, mask, records, strict=True):
        text = b"".join(policy.vocabulary.bytes_of[int(token)] or b"" for token in row[real]).decode()
        assert text.endswith(f'"action": "{spoken(WORLD, record)}"}}')
        assert thoughts_of(text) == "thing two"


@pytest.mark.parametrize("policy", ["grammar"], indirect=True)
def test_imitation_learns_to_write_records(policy, tokenizer, tiny):
    writer = AnswerWriter.build(WORLD.phrases, WORLD.actions, tokenizer, policy.vocabulary, TOKENS, WORLD.slots)
    setup = Imitation(WORLD, policy, writer, ImitationConfig(steps=60, worlds=8, window=2, learning_rate=1e-2))
    state = imitation.init(setup, init_params(tiny, jax.random.key(0), HEAD), jax.random.key(1))
    state, first = imitation.jit_run(setup, 2, state)
    state, last = imitation.jit_run(setup, 58, state)
    assert last["loss"] < 0.7 * first["loss"]
    results, recording = jax.jit(lambda params, key: play_policy(policy, WORLD, params, key, 4, 4, record=2))(
        state.params, jax.random.key(3)
    )
    assert recording.action.shape == (2, WORLD.max_steps, 4)
    assert (results.length >= 1).all() and (results.invalid <= results.length).all()


def test_expert_and_chance_are_played():
    expert, chance = jax.jit(lambda key: play_scripted(WORLD, key, 32))(jax.random.key(0))
    assert expert.success.all() and (expert.length == 1).all()
    assert chance.success.mean() < 0.8 and not chance.invalid.any()
