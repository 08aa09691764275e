"""The policy: acting and scoring agree, what is absent does not count, what must not be sampled is not."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vldac import policy as policies
from vldac.params import init_params
from vldac.policy import Policy, PolicyConfig
from vldac.text.tokenizer import decode_answer

HEAD = (8,)
TOKENS = 24  # an answer frame, a few bytes of thought, an action and EOS


@pytest.fixture(scope="module")
def params(tiny):
    drawn = init_params(tiny, jax.random.key(0), HEAD)
    drawn["value"] = jax.tree.map(lambda x: x + 0.1, drawn["value"])  # the last layer starts at zero
    return drawn


@cache
def make(signal, tokenizer, tiny, dtype=jnp.float32, **config):
    return Policy.build(signal, tokenizer, tiny, PolicyConfig(max_tokens=TOKENS, **config), HEAD, dtype)


@cache
def programs(policy):
    """(acts, scores) of a policy, jitted once for all tests that make the same."""

    def run(params, observation, key, silent):
        return policy.act(policy.prepare(params), observation, key, silent)

    return jax.jit(run), jax.jit(policy.log_probs)


def act(policy, params, observation, seed=1, silent=None):
    return programs(policy)[0](params, observation, jax.random.key(seed), silent)


def score(policy, params, observation, response):
    return programs(policy)[1](params, observation, response.tokens, response.mask)


@pytest.mark.parametrize(("decoding", "history"), [("free", 3), ("grammar", 1)])
def test_acting_and_scoring_agree(signal, tokenizer, tiny, params, observations, decoding, history):
    policy = make(
        signal, tokenizer, tiny, decoding=decoding, history=history, temperature=0.7, text_observation=True
    )
    observation = observations(signal, 6, history)
    response = act(policy, params, observation)
    scores = score(policy, params, observation, response)
    np.testing.assert_allclose(scores.log_probs, response.log_probs, atol=1e-4)
    np.testing.assert_allclose(scores.value, response.value, atol=1e-5)
    assert np.std(response.value) > 0 and np.min(response.log_probs) < -0.1, "or nothing was compared"
    value = jax.jit(lambda params: policy.value(policy.prepare(params), observation))(params)
    np.testing.assert_allclose(value, response.value, atol=1e-6)


@pytest.mark.parametrize("decoding", ["free", "grammar"])
def test_in_bfloat16_acting_and_scoring_agree_on_average(signal, tokenizer, tiny, params, observations, decoding):
    policy = make(signal, tokenizer, tiny, dtype=jnp.bfloat16, decoding=decoding)
    observation = observations(signal, 16, 1)
    response = act(policy, params, observation)
    scores = score(policy, params, observation, response)
    assert response.log_probs.dtype == scores.log_probs.dtype == jnp.float32
    ratio = np.abs(np.asarray(scores.log_probs - response.log_probs))[np.asarray(response.mask)]
    assert ratio.mean() < 1e-2


def test_answers_follow_their_logits_and_their_key(signal, tokenizer, tiny, params, observations):
    """Tokens are drawn with the probabilities that are reported: the mean of exp(-log p) estimates the support."""
    policy = make(signal, tokenizer, tiny)
    observation = jax.tree.map(lambda x: jnp.repeat(x[:1], 512, axis=0), observations(signal, 1, 1))
    response = act(policy, params, observation)
    first, log_probs = np.asarray(response.tokens[:, 0]), np.asarray(response.log_probs[:, 0])
    assert len(set(first)) > 5
    likeliest = first[log_probs.argmax()]
    expected = np.exp(log_probs.max())
    assert abs(np.mean(first == likeliest) - expected) < 4 * np.sqrt(expected * (1 - expected) / 512)
    again, other = act(policy, params, observation), act(policy, params, observation, seed=2)
    np.testing.assert_array_equal(again.tokens, response.tokens)
    assert not np.array_equal(other.tokens, response.tokens)


def test_masks_end_with_the_end_of_the_answer(signal, tokenizer, tiny, params, observations):
    policy = make(signal, tokenizer, tiny, decoding="grammar")
    response = jax.device_get(act(policy, params, observations(signal, 16, 1)))
    for tokens, mask in zip(response.tokens, response.mask, strict=True):
        length = mask.sum()
        assert mask[:length].all() and tokens[length - 1] == policy.vocabulary.eos_id
        assert (tokens[: length - 1] != policy.vocabulary.eos_id).all()
        assert (tokens[length:] == policy.vocabulary.pad_id).all()


def test_grammar_answers_name_the_action_that_is_taken(signal, tokenizer, tiny, params, observations):
    import json

    policy = make(signal, tokenizer, tiny, decoding="grammar")
    response = jax.device_get(act(policy, params, observations(signal, 16, 1)))
    for tokens, mask, action in zip(response.tokens, response.mask, response.action, strict=True):
        answer = json.loads(decode_answer(policy.vocabulary, tokens[mask]))
        assert answer["action"] == signal.actions[action]


def test_free_answers_of_noise_are_invalid_and_never_special(signal, tokenizer, tiny, params, observations):
    policy = make(signal, tokenizer, tiny)
    response = jax.device_get(act(policy, params, observations(signal, 64, 1)))
    assert (response.action == -1).all()
    written = response.tokens[response.mask]
    assert len(written) > 1000
    for token in np.unique(written):
        assert policy.vocabulary.bytes_of[token] is not None or token == policy.vocabulary.eos_id


def test_silent_lanes_write_nothing_and_keep_their_value(signal, tokenizer, tiny, params, observations):
    policy = make(signal, tokenizer, tiny)
    observation = observations(signal, 4, 1)
    silent = jnp.array([True, False, True, False])
    response = jax.device_get(act(policy, params, observation, silent=silent))
    loud = jax.device_get(act(policy, params, observation))
    assert not response.mask[[0, 2]].any() and (response.action[[0, 2]] == -1).all()
    assert (response.tokens[[0, 2]] == policy.vocabulary.pad_id).all()
    np.testing.assert_array_equal(response.tokens[[1, 3]], loud.tokens[[1, 3]])
    np.testing.assert_allclose(response.value, loud.value, atol=1e-6)


def test_frames_not_seen_yet_are_as_if_the_history_were_shorter(signal, tokenizer, tiny, params, observations):
    long, short = (make(signal, tokenizer, tiny, history=h, text_observation=True) for h in (4, 2))
    two = observations(signal, 5, 2).replace(frames_seen=jnp.full(5, 2, jnp.int32))
    noise = jnp.full((5, 2, *signal.image_shape), 77, jnp.uint8)  # must not be looked at
    four = two.replace(frames=jnp.concatenate([noise, two.frames], axis=1))
    response = act(short, params, two)
    a, b = score(short, params, two, response), score(long, params, four, response)
    np.testing.assert_allclose(a.log_probs, b.log_probs, atol=1e-4)
    np.testing.assert_allclose(a.value, b.value, atol=1e-5)
    seen = score(long, params, four.replace(frames_seen=jnp.full(5, 4, jnp.int32)), response)
    assert np.abs(np.asarray(a.log_probs - seen.log_probs)).max() > 1e-3


def test_frames_and_text_are_seen(signal, tokenizer, tiny, params, observations):
    policy = make(signal, tokenizer, tiny, text_observation=True)
    observation = observations(signal, 4, 1)
    response = act(policy, params, observation)
    base = score(policy, params, observation, response).log_probs
    dark = observation.replace(frames=observation.frames // 2)
    other = observation.replace(text=(observation.text + 2) % 3 - 1)
    for changed in (dark, other):
        difference = np.abs(np.asarray(score(policy, params, changed, response).log_probs - base)).max(axis=1)
        assert (difference > 1e-3).all()


def test_the_critic_teaches_the_model_nothing(signal, tokenizer, tiny, params, observations):
    policy = make(signal, tokenizer, tiny)
    observation = observations(signal, 4, 1)
    response = act(policy, params, observation)

    def total(params, field):
        return getattr(policy.log_probs(params, observation, response.tokens, response.mask), field).sum()

    grads = jax.jit(jax.grad(total), static_argnums=1)
    by_value, by_policy = grads(params, "value"), grads(params, "log_probs")
    assert all(not np.any(x) for x in jax.tree.leaves(by_value["model"]))
    assert any(np.any(x) for x in jax.tree.leaves(by_value["value"]))
    assert all(not np.any(x) for x in jax.tree.leaves(by_policy["value"]))
    assert all(np.any(x) for x in jax.tree.leaves(by_policy["model"])), "every weight of the model is trained"


def test_first_and_last_token_are_scored(signal, tokenizer, tiny, params, observations):
    policy = make(signal, tokenizer, tiny, decoding="grammar")
    observation = observations(signal, 16, 1)
    response = act(policy, params, observation)
    scores = score(policy, params, observation, response)
    last = np.asarray(response.mask.sum(-1) - 1)
    free = make(signal, tokenizer, tiny)
    unmasked = score(free, params, observation, response)
    # Under the grammar two tokens may begin an answer; without it any may, and the end is as uncertain.
    assert (np.asarray(unmasked.log_probs[:, 0]) < np.asarray(scores.log_probs[:, 0])).all()
    assert (np.asarray(unmasked.log_probs)[np.arange(16), last] < -1e-3).all()
    assert not np.asarray(scores.log_probs)[~np.asarray(response.mask)].any()


@pytest.mark.parametrize(("remat", "unroll"), [("full", False), ("dots", True)])
def test_how_layers_are_gone_through_changes_nothing(signal, tokenizer, tiny, params, observations, remat, unroll):
    plain = make(signal, tokenizer, tiny)
    observation = observations(signal, 2, 1)
    response = act(plain, params, observation)

    def grads(policy):
        def loss(params):
            return policy.log_probs(params, observation, response.tokens, response.mask).log_probs.sum()

        return jax.jit(jax.grad(loss))(params)

    want = grads(plain)
    got = grads(replace(plain, config=replace(plain.config, remat=remat, unroll=unroll)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), want, got)


def test_a_prefix_and_a_sight_that_are_given_change_nothing(signal, tokenizer, tiny, params, observations):
    policy = make(signal, tokenizer, tiny)
    observation = observations(signal, 3, 1)
    response = act(policy, params, observation)
    answers = observation, response.tokens, response.mask
    plain = jax.jit(policy.log_probs)(params, *answers)
    sight = policy.look(policy.prepare(params), observation.frames)
    given = jax.jit(policy.log_probs)(params, *answers, None, sight, policy.prefix(params))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), given, plain)


def test_settings_that_can_not_be_are_named(signal, tokenizer, tiny):
    for wrong, message in (
        ({"history": 0}, "history is 0"),
        ({"max_tokens": 0}, "max_tokens is 0"),
        ({"temperature": 0.0}, "temperature is 0.0"),
        ({"temperature": float("inf")}, "temperature is inf"),
    ):
        with pytest.raises(ValueError, match=message):
            PolicyConfig(**wrong)
    with pytest.raises(ValueError, match="max_tokens is 4; accepted"):
        Policy.build(signal, tokenizer, tiny, PolicyConfig(max_tokens=4, decoding="grammar"), HEAD)


def test_frames_encoded_a_few_at_a_time_are_the_same(signal, tokenizer, tiny, observations, monkeypatch):
    policy = Policy.build(signal, tokenizer, tiny, PolicyConfig(history=3, max_tokens=24), HEAD)
    params = init_params(tiny, jax.random.key(0), HEAD)
    arguments = observations(signal, 4, 3), jnp.full((4, 24), 40, jnp.int32), jnp.ones((4, 24), bool)
    at_once = jax.jit(policy.log_probs)(params, *arguments)
    work = tiny.tower_work(16, 16)
    monkeypatch.setattr(policies, "VISION_BYTES", 5 * work.image_bytes(4))
    assert policies.images_at_once(work, 12, jnp.float32) == 4, "the largest divisor of 12 within 5"
    in_turns = jax.jit(lambda *a: policy.log_probs(*a))(params, *arguments)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), in_turns, at_once)
