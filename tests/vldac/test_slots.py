"""A world whose actions have slots goes through the whole loop: sampled, stepped, learnt from, evaluated."""

from __future__ import annotations

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

import envs_jax
from envs_jax.world import spoken
from tests.chores import Chores
from vldac import imitation
from vldac.evaluate.worlds import play_policy, play_scripted
from vldac.imitation import Imitation, ImitationConfig
from vldac.lanes import begin
from vldac.models import ImageConfig
from vldac.params import init_params
from vldac.policy import Policy, PolicyConfig
from vldac.rollout import RolloutConfig, rollout
from vldac.text.answer import thoughts_of
from vldac.text.fragments import AnswerWriter
from vldac.text.grammar import ActionGrammar
from vldac.text.tokenizer import BYTE_TOKENIZER, byte_alphabet, encode, load_tokenizer, vocabulary

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
    np.testing.assert_allclose(scores.log_probs, answers.log_probs, atol=1e-4)
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
    for _ in range(29):  # the same program
        state, last = imitation.jit_run(setup, 2, state)
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


@pytest.mark.slow  # the page of a shop takes minutes to compile here; the small world above is compared every time
@pytest.mark.parametrize("decoding", ["grammar", "free"])
def test_the_shops_importance_ratio_is_one_while_nothing_has_been_learnt(decoding, tokenizer, tiny):
    """A world with slots at its real size: a page of a shop, its text, and searches written word by word."""
    world = envs_jax.make("shop/small")
    model = dataclasses.replace(tiny, image=ImageConfig(min_pixels=16 * 16, max_pixels=48 * 48))
    config = PolicyConfig(max_tokens=64, decoding=decoding, text_observation=True, text_tokens=48)
    policy = Policy.build(world, tokenizer, model, config, HEAD)
    params = init_params(model, jax.random.key(0), HEAD)
    _, trajectory = jax.jit(rollout, static_argnums=(0, 1, 5))(
        policy,
        world,
        params,
        begin(world, jax.random.split(jax.random.key(1), 8), 1),
        jax.random.key(2),
        RolloutConfig(worlds=8, steps=2, invalid="random"),
    )
    observation, answers = jax.tree.map(
        lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), (trajectory.observation, trajectory.response)
    )
    scores = jax.jit(policy.log_probs)(params, observation, answers.tokens, answers.mask)
    log_ratio = np.abs(np.asarray(scores.log_probs - answers.log_probs))[np.asarray(answers.mask)]
    assert log_ratio.max() < 1e-4
    assert log_ratio.size > 300 and np.asarray(answers.log_probs).min() < -1, "or nothing was compared"
    if decoding == "grammar":
        assert set(np.asarray(answers.action)[:, 0].tolist()) == {0, 1}, "searches and clicks"


@pytest.fixture(scope="module")
def large_tokenizer(tmp_path_factory):
    """A byte-level BPE of 150,000 tokens, of the kinds that large models have, made up on the spot.

    Pseudo-words with and without a space before them, with capitals, quotes and endings; numbers, runs of JSON's
    punctuation, pieces that end an answer, Chinese and accented characters; and every beginning of all these,
    as merges have it.
    """
    rng = np.random.default_rng(0)
    spelled = {byte: letter for letter, byte in byte_alphabet().items()}
    tokens, merges = dict.fromkeys(spelled[byte] for byte in range(256)), []

    def add(text):
        letters = "".join(spelled[byte] for byte in text.encode())
        for end in range(2, len(letters) + 1):
            if letters[:end] not in tokens:
                tokens[letters[:end]] = None
                merges.append((letters[: end - 1], letters[end - 1]))

    for text in (
        '{"',
        '":',
        '": "',
        '", "',
        '"}',
        ']"}',
        " {",
        ' "',
        '\\"',
        "\\n",
        "[",
        "]",
        "click[",
        "search[",
        '"action',
    ):
        add(text)
    for number in range(1000):
        add(f"{number}")
        add(f" {number}")
    for code in (*range(0xA0, 0x600), *range(0x4E00, 0x9000)):
        add(chr(code))
    parts = (*"bcdfghjklmnprstvwz", "st", "tr", "ch", "pl", ""), (*"aeiou", "ea", "ou"), ("", *"nrst", "ng", "ck")
    shapes = "{}", " {}", '"{}', "{}s", " {}ing", '{}"', "{}_", "{}]"
    while len(tokens) < 150_000:
        syllables = rng.integers(1, 4)
        word = "".join("".join(three) for three in zip(*(rng.choice(p, syllables) for p in parts), strict=True))
        add(" " + word)
        add(shapes[rng.integers(len(shapes))].format(word.capitalize() if rng.random() < 0.2 else word))
    built = Tokenizer(models.BPE({token: number for number, token in enumerate(tokens)}, merges))
    built.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    built.decoder = decoders.ByteLevel()
    config = json.loads((BYTE_TOKENIZER / "tokenizer_config.json").read_text())
    special = config["pad_token"], config["eos_token"], *config["additional_special_tokens"]
    built.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in dict.fromkeys(special)])
    folder = tmp_path_factory.mktemp("large")
    built.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return load_tokenizer(folder)


@pytest.mark.parametrize("name", ["shop/web_shop", pytest.param("household/any", marks=pytest.mark.slow)])
def test_the_grammar_of_free_form_actions_stays_small_with_a_vocabulary_of_150_thousand(name, large_tokenizer):
    """Hundreds of words in several places, tokens across every border: a few megabytes, read as spoken."""
    world, tokens = envs_jax.make(name), vocabulary(large_tokenizer)
    assert tokens.size > 150_000
    assert sum(len(slot.words) for slot in world.slots.values()) > 250

    def records(key):
        state = world.reset(key)
        return jnp.stack([world.sample(state, key), world.expert(state, key)])

    said = np.asarray(jax.jit(jax.vmap(records))(jax.random.split(jax.random.key(0), 32)))
    said = np.unique(said.reshape(-1, said.shape[-1]), axis=0)
    answers = [
        encode(large_tokenizer, f'{{"thoughts": "gå 我 on", "action": "{spoken(world, record)}"}}')
        for record in said
    ]
    rows, mask = np.full((len(said), 96), tokens.eos_id, np.int32), np.zeros((len(said), 96), bool)
    for row, real, answer in zip(rows, mask, answers, strict=True):
        row[: len(answer)], real[: len(answer) + 1] = answer, True
    for decoding in ("grammar", "free"):
        grammar = ActionGrammar.build(world.actions, tokens, decoding, world.slots)
        assert grammar.next_state.nbytes < 8e6, grammar.next_state.shape
        assert sum(leaf.nbytes for leaf in jax.tree.leaves(grammar.reader)) < 8e6
        read = jax.jit(grammar.record)(jnp.asarray(rows), jnp.asarray(mask))
        np.testing.assert_array_equal(read, said)
