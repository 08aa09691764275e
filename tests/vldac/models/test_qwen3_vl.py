"""What is Qwen3-VL's own: its configuration, interpolated positions, deepstack, interleaved M-RoPE."""

from __future__ import annotations

import copy
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from flax import nnx
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLTextRotaryEmbedding
from transformers.models.qwen3_vl.processing_qwen3_vl import Qwen3VLProcessor
from transformers.vision_utils import get_vision_interpolation_indices_and_weights

from vldac.models import ImageConfig, Inputs, Qwen3VL, Qwen3VLConfig, config_from_hf
from vldac.models.qwen3_vl import DeepstackVisionConfig, deepstack_levels, interpolation, put
from vldac.models.rope import mrope_angles

# The config.json of the 4B checkpoint as it is on the hub.
PUBLISHED = {
    "architectures": ["Qwen3VLForConditionalGeneration"],
    "image_token_id": 151655,
    "model_type": "qwen3_vl",
    "text_config": {
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": 151643,
        "dtype": "bfloat16",
        "eos_token_id": 151645,
        "head_dim": 128,
        "hidden_act": "silu",
        "hidden_size": 2560,
        "initializer_range": 0.02,
        "intermediate_size": 9728,
        "max_position_embeddings": 262144,
        "model_type": "qwen3_vl_text",
        "num_attention_heads": 32,
        "num_hidden_layers": 36,
        "num_key_value_heads": 8,
        "rms_norm_eps": 1e-06,
        "rope_scaling": {"mrope_interleaved": True, "mrope_section": [24, 20, 20], "rope_type": "default"},
        "rope_theta": 5000000,
        "tie_word_embeddings": True,
        "use_cache": True,
        "vocab_size": 151936,
    },
    "tie_word_embeddings": True,
    "transformers_version": "4.57.0.dev0",
    "video_token_id": 151656,
    "vision_config": {
        "deepstack_visual_indexes": [5, 11, 17],
        "depth": 24,
        "hidden_act": "gelu_pytorch_tanh",
        "hidden_size": 1024,
        "in_channels": 3,
        "initializer_range": 0.02,
        "intermediate_size": 4096,
        "model_type": "qwen3_vl",
        "num_heads": 16,
        "num_position_embeddings": 2304,
        "out_hidden_size": 2560,
        "patch_size": 16,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
    },
    "vision_end_token_id": 151653,
    "vision_start_token_id": 151652,
}
PUBLISHED_PREPROCESSOR = {
    "size": {"longest_edge": 16777216, "shortest_edge": 65536},
    "patch_size": 16,
    "temporal_patch_size": 2,
    "merge_size": 2,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    "processor_class": "Qwen3VLProcessor",
    "image_processor_type": "Qwen2VLImageProcessorFast",
}
SIZES = {  # what the other checkpoints' files say instead
    "2B": {
        "text_config": {
            "hidden_size": 2048,
            "intermediate_size": 6144,
            "num_attention_heads": 16,
            "num_hidden_layers": 28,
        },
        "vision_config": {"out_hidden_size": 2048},
    },
    "4B": {},
    "8B": {
        "text_config": {"hidden_size": 4096, "intermediate_size": 12288, "tie_word_embeddings": False},
        "tie_word_embeddings": False,
        "vision_config": {
            "deepstack_visual_indexes": [8, 16, 24],
            "depth": 27,
            "hidden_size": 1152,
            "intermediate_size": 4304,
            "out_hidden_size": 4096,
        },
    },
}


def published(**changes):
    fields = copy.deepcopy(PUBLISHED) | changes
    for part in ("text_config", "vision_config"):
        fields[part] = copy.deepcopy(PUBLISHED[part]) | changes.get(part, {})
    return fields


def test_the_published_4b_config():
    config = config_from_hf(PUBLISHED, PUBLISHED_PREPROCESSOR)
    assert isinstance(config, Qwen3VLConfig)
    text = config.text
    assert (text.num_attention_heads * text.head_dim, text.hidden_size) == (4096, 2560)
    assert (text.mrope_section, text.mrope_interleaved) == ((24, 20, 20), True)
    assert (text.rope_theta, text.rms_norm_eps, text.qkv_bias, text.qk_norm) == (5e6, 1e-6, False, True)
    assert config.vision == DeepstackVisionConfig(
        depth=24,
        embed_dim=1024,
        num_heads=16,
        mlp_dim=4096,
        patch_size=16,
        spatial_merge_size=2,
        temporal_patch_size=2,
        num_position_embeddings=2304,
        deepstack_blocks=(5, 11, 17),
    )
    assert (config.vision.patch_dim, config.vision.positions_per_side) == (1536, 48)
    assert config.image == ImageConfig(65536, 16777216, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    assert config.special_ids == (151655, 151652, 151653, 151656)
    assert config.image_span(512, 512).tokens == 256
    assert config.image_span(60, 80).tokens == 70  # at least 65536 pixels: 224x320


def test_without_a_file_preprocessing_is_the_published_checkpoints():
    assert config_from_hf(PUBLISHED) == config_from_hf(PUBLISHED, PUBLISHED_PREPROCESSOR)


def test_a_preprocessor_of_other_patches_is_refused():
    with pytest.raises(ValueError, match="preprocessor patch_size is 14; accepted: 16"):
        config_from_hf(PUBLISHED, PUBLISHED_PREPROCESSOR | {"patch_size": 14})


@pytest.mark.parametrize(
    ("size", "text", "vision"),
    [
        ("2B", 1_720_574_976, 406_957_056),
        ("4B", 4_022_468_096, 415_347_712),
        ("8B", 8_190_735_360, 576_388_336),
    ],
)
def test_published_sizes_have_the_published_number_of_parameters(size, text, vision):
    config = config_from_hf(published(**SIZES[size]))
    params = nnx.state(nnx.eval_shape(lambda: Qwen3VL(config, rngs=nnx.Rngs(0))))
    assert sum(x.size for x in jax.tree.leaves(params["visual"])) == vision
    assert sum(x.size for x in jax.tree.leaves(params)) == text + vision


@pytest.mark.parametrize("tied", [False, True])
def test_every_spelling_of_a_config_reads_the_same(tiny_config, preprocessor, tied, tmp_path):
    config = tiny_config("qwen3_vl", tied)
    wanted = Qwen3VLConfig.from_hf(config, preprocessor)
    assert wanted.text.tie_word_embeddings is tied and wanted.vision.deepstack_blocks == (1, 2)
    assert (wanted.text.mrope_section, wanted.text.rope_theta) == ((4, 2, 2), 5000.0)
    assert Qwen3VLConfig.from_hf(config.to_dict(), preprocessor) == wanted
    config.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert config_from_hf(saved, preprocessor) == wanted
    assert config_from_hf(transformers.AutoConfig.from_pretrained(tmp_path), preprocessor) == wanted
    rope = saved["text_config"].pop("rope_parameters")
    saved["text_config"] |= {"rope_theta": rope.pop("rope_theta"), "rope_scaling": rope}  # as on the hub
    assert config_from_hf(saved, preprocessor) == wanted


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("text_config", {"hidden_act": "gelu"}, "hidden_act is 'gelu'; accepted: 'silu'"),
        ("text_config", {"attention_bias": True}, "attention_bias is True; accepted: False"),
        ("text_config", {"attention_dropout": 0.1}, "attention_dropout is 0.1; accepted: 0.0"),
        ("text_config", {"head_dim": 96}, "mrope_section is .* whose sum is head_dim / 2 = 48"),
        (
            "text_config",
            {"rope_scaling": {"mrope_interleaved": False, "mrope_section": [24, 20, 20]}},
            "mrope_interleaved is False; accepted: True",
        ),
        ("text_config", {"rope_scaling": {"rope_type": "linear", "factor": 2.0}}, "rope_type is 'linear'"),
        ("text_config", {"num_hidden_layers": 2}, "deepstack_blocks names 3 blocks; accepted: at most 2"),
        ("vision_config", {"hidden_act": "gelu"}, "vision hidden_act is 'gelu'; accepted: 'gelu_pytorch_tanh'"),
        ("vision_config", {"out_hidden_size": 1024}, "vision out_hidden_size is 1024; accepted: 2560"),
        (
            "vision_config",
            {"num_position_embeddings": 2305},
            "num_position_embeddings is 2305; accepted: a square",
        ),
        ("vision_config", {"deepstack_visual_indexes": [5, 24]}, r"deepstack_blocks is \(5, 24\); accepted: incr"),
        ("vision_config", {"deepstack_visual_indexes": [11, 5]}, r"deepstack_blocks is \(11, 5\); accepted: incr"),
        ("vision_config", {"deepstack_visual_indexes": []}, r"deepstack_blocks is \(\); accepted: increasing"),
    ],
)
def test_what_is_not_implemented_is_refused(part, change, message):
    with pytest.raises(ValueError, match=message):
        config_from_hf(published(**{part: change}))


@pytest.mark.parametrize("side", [5, 48])
def test_interpolation_is_that_of_transformers(side):
    grids = [(2, 2), (2, 6), (6, 4), (8, 10), (14, 20), (48, 48), (62, 50)]
    for grid in grids:
        indices, weights = get_vision_interpolation_indices_and_weights(
            torch.tensor([[1, *grid]]), side, "bilinear", align_corners=True, spatial_merge_size=2
        )
        ours, our_weights = interpolation(grid, side, 2)
        np.testing.assert_array_equal(ours, indices)
        np.testing.assert_array_equal(our_weights, weights)


@pytest.mark.parametrize("frames", [1, 2, 4, 5, 7, 32, 33])
@pytest.mark.parametrize("fps", [0.3, 2.0, 10.0])  # ties to round at the last
def test_the_time_of_every_step_is_told_as_transformers_tells_it(frames, fps):
    """With an odd number of frames, too: the last one, which is there twice, is not half a frame later."""
    spans = config_from_hf(PUBLISHED).video_spans(frames, 64, 64, fps)
    wanted = Qwen3VLProcessor._calculate_timestamps(None, list(range(frames)), fps, 2)
    assert [span.text_before for span in spans] == [f"<{second:.1f} seconds>" for second in wanted]


@pytest.mark.parametrize("blocks", [(0,), (3,), (0, 3), (1, 2), (0, 1, 2, 3)])
def test_deepstack_keeps_the_outputs_of_the_named_blocks(blocks):
    kept = jnp.full((2, len(blocks)), -1.0)
    for number, level in enumerate(deepstack_levels(blocks, depth=4)):
        kept = put(kept, jnp.full(2, float(number)), jnp.int32(level))
    assert kept[0].tolist() == list(blocks)


def test_tower_equals_torch_on_every_level(tiny_pair, rng):
    pair, grid = tiny_pair("qwen3_vl"), (6, 10)
    patches = rng.normal(size=(2, 60, pair.config.vision.patch_dim)).astype(np.float32)
    flat = torch.tensor(patches.reshape(-1, patches.shape[-1]))
    with torch.no_grad():
        theirs = pair.torch.model.visual(flat, torch.tensor([[1, *grid]] * 2))
    visual = jax.jit(lambda patches: pair.model.visual(patches, grid))(jnp.asarray(patches))
    for ours, wanted in zip(
        (visual.features, *visual.deepstack), (theirs.pooler_output, *theirs.deepstack_features), strict=True
    ):
        np.testing.assert_allclose(ours.reshape(wanted.shape), wanted.numpy(), atol=1e-5, rtol=0)


def test_interleaved_angles_equal_transformers_at_the_published_sizes(rng):
    text = config_from_hf(PUBLISHED).text
    positions = rng.integers(0, 300, (2, 3, 50))
    theirs = Qwen3VLTextRotaryEmbedding(transformers.Qwen3VLTextConfig(**PUBLISHED["text_config"]))
    wanted = theirs(torch.zeros(1), torch.tensor(positions).permute(1, 0, 2))
    ours = mrope_angles(jnp.asarray(positions), text.rope_theta, text.mrope_section, text.mrope_interleaved)
    for a, b in zip(ours, wanted, strict=True):
        # a frequency may differ in its last bit, which 300 positions multiply
        np.testing.assert_allclose(a, b[..., : text.head_dim // 2].numpy(), atol=3e-5, rtol=0)


def test_decoder_equals_torch_where_positions_differ_on_all_axes(tiny_pair, rng):
    pair = tiny_pair("qwen3_vl")
    x = rng.normal(size=(2, 9, 48)).astype(np.float32)
    positions = np.sort(rng.integers(0, 40, (2, 3, 9)), axis=-1).astype(np.int32)
    with torch.no_grad():
        wanted = pair.torch.model.language_model(
            inputs_embeds=torch.tensor(x), position_ids=torch.tensor(positions).permute(1, 0, 2)
        ).last_hidden_state
    inputs = Inputs(jnp.asarray(x), jnp.asarray(positions), jnp.ones((2, 9), bool))
    hidden, _ = jax.jit(lambda inputs: pair.model.language_model.forward(inputs))(inputs)
    np.testing.assert_allclose(hidden, wanted, atol=1e-5, rtol=0)
