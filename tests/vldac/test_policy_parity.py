"""What a policy gives an answer is what the torch model gives it after the same prompt, packed, and its frames."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import torch
import transformers
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from vldac.models import Qwen2VL, config_from_hf, hf
from vldac.params import init_params
from vldac.policy import Policy, PolicyConfig
from vldac.text.tokenizer import IMAGE, VISION_END, VISION_START, special_id, vocabulary

HEAD = (8,)
PREPROCESSOR = {
    "patch_size": 4,
    "merge_size": 2,
    "temporal_patch_size": 2,
    "size": {"shortest_edge": 256, "longest_edge": 28 * 28 * 1280},
}


def qwen2_vl(config) -> transformers.Qwen2VLConfig:
    """What transformers calls the tiny Qwen2-VL."""
    text, vision = config.text, config.vision
    return transformers.Qwen2VLConfig(
        text_config={
            "vocab_size": text.vocab_size,
            "hidden_size": text.hidden_size,
            "intermediate_size": text.intermediate_size,
            "num_hidden_layers": text.num_hidden_layers,
            "num_attention_heads": text.num_attention_heads,
            "num_key_value_heads": text.num_key_value_heads,
            "rms_norm_eps": text.rms_norm_eps,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": text.rope_theta,
                "mrope_section": list(text.mrope_section),
            },
        },
        vision_config={
            "depth": vision.depth,
            "embed_dim": vision.embed_dim,
            "hidden_size": text.hidden_size,
            "num_heads": vision.num_heads,
            "mlp_ratio": vision.mlp_dim // vision.embed_dim,
            "patch_size": vision.patch_size,
            "spatial_merge_size": vision.spatial_merge_size,
            "temporal_patch_size": vision.temporal_patch_size,
        },
        image_token_id=config.image_token_id,
        vision_start_token_id=config.vision_start_token_id,
        vision_end_token_id=config.vision_end_token_id,
        tie_word_embeddings=True,
    )


def qwen3_vl(tokenizer) -> transformers.Qwen3VLConfig:
    """Two levels of deepstack."""
    return transformers.Qwen3VLConfig(
        text_config={
            "vocab_size": -(-vocabulary(tokenizer).size // 64) * 64,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "initializer_range": 0.2,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [4, 2, 2]},
        },
        vision_config={
            "depth": 3,
            "hidden_size": 16,
            "intermediate_size": 32,
            "out_hidden_size": 32,
            "num_heads": 2,
            "patch_size": 4,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "num_position_embeddings": 9,
            "deepstack_visual_indexes": [0, 1],
            "initializer_range": 0.2,
        },
        image_token_id=special_id(tokenizer, IMAGE),
        vision_start_token_id=special_id(tokenizer, VISION_START),
        vision_end_token_id=special_id(tokenizer, VISION_END),
        video_token_id=special_id(tokenizer, VISION_END),  # this tokenizer has none
        tie_word_embeddings=True,
    )


def build(signal, tokenizer, config) -> Policy:
    options = PolicyConfig(history=3, max_tokens=24, text_observation=True, temperature=0.8)
    return Policy.build(signal, tokenizer, config, options, HEAD)


def assert_log_probs_are_those_of(theirs, policy, config, observation, tokens, mask, log_probs):
    slots = jax.device_get(jax.vmap(policy.prompt.context)(observation.frames_seen, observation.text))
    processor = Qwen2VLImageProcessorPil(**PREPROCESSOR)
    banned = [
        i for i, text in enumerate(policy.vocabulary.bytes_of) if text is None and i != policy.vocabulary.eos_id
    ]
    for lane in range(len(tokens)):
        answer = np.asarray(tokens[lane])[np.asarray(mask[lane])]
        prompt = [*policy.prompt.prefix, *slots.tokens[lane][slots.valid[lane]]]
        ids = torch.tensor([[*map(int, prompt), *map(int, answer)]])
        seen = int(observation.frames_seen[lane])
        images = processor(list(np.asarray(observation.frames[lane, -seen:])), return_tensors="pt")
        with torch.no_grad():
            logits = theirs(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                mm_token_type_ids=(ids == config.image_token_id).int(),
                **images,
            ).logits[0]
        logits[:, banned] = -torch.inf
        wanted = torch.log_softmax(logits / 0.8, dim=-1)[len(prompt) - 1 : -1]
        wanted = wanted.gather(1, ids[0, len(prompt) :, None])[:, 0]
        np.testing.assert_allclose(log_probs[lane, : len(answer)], wanted, atol=1e-4)


def test_log_probs_are_those_of_torch(signal, tokenizer, tiny, observations):
    policy = build(signal, tokenizer, tiny)
    params = init_params(tiny, jax.random.key(0), HEAD)
    observation = observations(signal, 6, 3)
    response = jax.jit(lambda p, key: policy.act(policy.prepare(p), observation, key))(params, jax.random.key(1))
    theirs = transformers.Qwen2VLForConditionalGeneration(qwen2_vl(tiny)).eval()
    tensors = {name: torch.tensor(value) for name, value in hf.to_hf(Qwen2VL, params["model"]).items()}
    missing, unexpected = theirs.load_state_dict(tensors, strict=False)
    assert missing == ["lm_head.weight"] and not unexpected
    assert_log_probs_are_those_of(
        theirs, policy, tiny, observation, response.tokens, response.mask, response.log_probs
    )


def test_scores_with_deepstack_are_those_of_torch(signal, tokenizer, observations):
    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    theirs = transformers.Qwen3VLForConditionalGeneration(qwen3_vl(tokenizer)).eval()
    config = config_from_hf(theirs.config, PREPROCESSOR)
    model = hf.from_hf(config, {name: tensor.numpy() for name, tensor in theirs.state_dict().items()})
    policy = build(signal, tokenizer, config)
    params = init_params(config, jax.random.key(0), HEAD, model=model)
    observation = observations(signal, 3, 3)
    text = [i for i, spelled in enumerate(policy.vocabulary.bytes_of) if spelled is not None]
    tokens = jnp.asarray(rng.choice(text, (3, 24)), jnp.int32)
    mask = jnp.arange(24) < jnp.asarray([[24], [3], [11]])
    log_probs = jax.jit(policy.log_probs)(params, observation, tokens, mask).log_probs
    assert_log_probs_are_those_of(theirs, policy, config, observation, tokens, mask, log_probs)


def test_frames_encoded_as_they_come_into_view_are_seen_alike(signal, tokenizer, observations):
    """With deepstack, whose levels have to come along, too."""
    config = config_from_hf(qwen3_vl(tokenizer), PREPROCESSOR)
    policy = build(signal, tokenizer, config)
    params = init_params(config, jax.random.key(0), HEAD)
    params["value"] = jax.tree.map(lambda x: x + 0.1, params["value"])  # the last layer starts at zero
    observation = observations(signal, 5, 3)

    @jax.jit
    def values(params):
        prepared = policy.prepare(params)
        sight = policy.look(prepared, observation.frames)
        before = jnp.full_like(sight[:, :1], 3.0)  # of a frame that has left
        sight = policy.look_on(prepared, observation, jnp.concatenate([before, sight[:, :-1]], axis=1))
        wrong = sight.at[:, :, 1:].multiply(0.5)
        return policy.value(prepared, observation), *(
            policy.value(prepared, observation, x) for x in (sight, wrong)
        )

    whole, seen, wrong = values(params)
    np.testing.assert_allclose(seen, whole, atol=1e-5)
    assert np.abs(np.asarray(wrong - whole)).max() > 1e-3, "deepstack is not looked at"
