"""A Gemma 3 acts in a world: what it is shown, what it may say, and how likely that is, are torch's."""

from __future__ import annotations

import jax
import numpy as np
import pytest
import torch
import transformers
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil

from vldac.models import Gemma3, Gemma3Config, hf
from vldac.params import init_params
from vldac.policy import Policy, PolicyConfig

HEAD = (8,)
LANES, HISTORY, TOKENS = 6, 3, 24


def torch_twin(config, params) -> transformers.Gemma3ForConditionalGeneration:
    text, vision = config.text, config.vision
    kinds = ["sliding_attention" if local else "full_attention" for local in text.local.layers]
    theirs = transformers.Gemma3Config(
        text_config={
            "vocab_size": text.vocab_size,
            "hidden_size": text.hidden_size,
            "intermediate_size": text.intermediate_size,
            "num_hidden_layers": text.num_hidden_layers,
            "num_attention_heads": text.num_attention_heads,
            "num_key_value_heads": text.num_key_value_heads,
            "head_dim": text.head_dim,
            "query_pre_attn_scalar": 25,
            "sliding_window": text.local.window,
            "layer_types": kinds,
            "rope_parameters": {
                "full_attention": {
                    "rope_type": "linear",
                    "factor": text.rope_factor,
                    "rope_theta": text.rope_theta,
                },
                "sliding_attention": {"rope_type": "default", "rope_theta": text.local.rope_theta},
            },
            "initializer_range": text.initializer_range,
        },
        vision_config={
            "model_type": "siglip_vision_model",
            "hidden_size": vision.hidden_size,
            "intermediate_size": vision.intermediate_size,
            "num_hidden_layers": vision.num_hidden_layers,
            "num_attention_heads": vision.num_attention_heads,
            "image_size": vision.image_size,
            "patch_size": vision.patch_size,
            "vision_use_head": False,
        },
        mm_tokens_per_image=config.tokens_per_image,
        image_token_index=config.image_token_id,
        boi_token_index=config.boi_token_id,
        eoi_token_index=config.eoi_token_id,
        initializer_range=vision.initializer_range,
    )
    assert Gemma3Config.from_hf(theirs) == config
    model = transformers.Gemma3ForConditionalGeneration(theirs).eval()
    tensors = {name: torch.tensor(value) for name, value in hf.to_hf(Gemma3, params).items()}
    missing, unexpected = model.load_state_dict(tensors, strict=False)
    assert missing == ["lm_head.weight"] and not unexpected
    return model


@pytest.fixture(scope="module")
def policy(signal, gemma_tokenizer, tiny_gemma) -> Policy:
    return Policy.build(
        signal,
        gemma_tokenizer(False),
        tiny_gemma,
        PolicyConfig(history=HISTORY, max_tokens=TOKENS, text_observation=True, temperature=0.8),
        HEAD,
    )


@pytest.fixture(scope="module")
def params(tiny_gemma):
    drawn = init_params(tiny_gemma, jax.random.key(0), HEAD)
    drawn["value"] = jax.tree.map(lambda x: x + 0.1, drawn["value"])  # the last layer starts at zero
    return drawn


@pytest.fixture(scope="module")
def played(signal, policy, params, observations):
    """(observation, the answers to it)"""
    observation = observations(signal, LANES, HISTORY)
    act = jax.jit(lambda params, key: policy.act(policy.prepare(params), observation, key))
    return observation, jax.device_get(act(params, jax.random.key(1)))


def test_prompts_and_answers_are_longer_than_the_window(policy, tiny_gemma, played):
    window = tiny_gemma.text.local.window
    assert len(policy.prompt.prefix) > window and policy.prompt.context_slots > 2 * window
    assert (played[1].mask.sum(axis=1) > window).any(), "none outgrows the window by itself"


def test_acting_and_scoring_agree(policy, params, played):
    observation, response = played
    scores = jax.jit(policy.log_probs)(params, observation, response.tokens, response.mask)
    np.testing.assert_allclose(scores.log_probs, response.log_probs, atol=1e-4, rtol=0)
    np.testing.assert_allclose(scores.value, response.value, atol=1e-5)
    assert np.std(response.value) > 0 and np.min(response.log_probs) < -0.1, "or nothing was compared"


def test_nothing_is_sampled_that_is_no_text(policy, tiny_gemma, played):
    response = played[1]
    written = response.tokens[response.mask]
    for token in np.unique(written):
        assert policy.vocabulary.bytes_of[token] is not None or token == policy.vocabulary.eos_id
    assert not set(tiny_gemma.special_ids) & set(written.tolist())
    allowed = np.asarray(policy.grammar.allowed(policy.grammar.initial(1), TOKENS))[0]
    text = [spelled is not None for spelled in policy.vocabulary.bytes_of]
    text[policy.vocabulary.eos_id] = True
    np.testing.assert_array_equal(allowed, text)
    assert not allowed[list(tiny_gemma.special_ids)].any()


def test_log_probs_are_those_of_torch(policy, params, tiny_gemma, played):
    observation, response = played
    slots = jax.device_get(jax.vmap(policy.prompt.context)(observation.frames_seen, observation.text))
    theirs = torch_twin(tiny_gemma, params["model"])
    processor = Gemma3ImageProcessorPil(size={"height": 16, "width": 16})
    banned = [
        i for i, text in enumerate(policy.vocabulary.bytes_of) if text is None and i != policy.vocabulary.eos_id
    ]
    for lane in range(LANES):
        answer = response.tokens[lane][response.mask[lane]]
        prompt = [*policy.prompt.prefix, *slots.tokens[lane][slots.valid[lane]]]
        ids = torch.tensor([[*map(int, prompt), *map(int, answer)]])
        seen = int(observation.frames_seen[lane])
        images = processor(list(np.asarray(observation.frames[lane, -seen:])), return_tensors="pt")
        with torch.no_grad():
            logits = theirs(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                token_type_ids=(ids == tiny_gemma.image_token_id).int(),
                pixel_values=images["pixel_values"],
            ).logits[0]
        logits[:, banned] = -torch.inf
        log_probs = torch.log_softmax(logits / 0.8, dim=-1)[len(prompt) - 1 : -1]
        want = log_probs.gather(1, ids[0, len(prompt) :, None])[:, 0]
        np.testing.assert_allclose(response.log_probs[lane, : len(answer)], want, atol=1e-4)
