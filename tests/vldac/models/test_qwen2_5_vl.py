"""What is Qwen2.5-VL's own: its configuration, and windows."""

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
from transformers.vision_utils import get_vision_window_index

from vldac.models import ImageConfig, Qwen2_5VL, Qwen2_5VLConfig, config_from_hf, layers
from vldac.models.qwen2_5_vl import WindowedVisionConfig, window_mask

# The config.json of the 3B checkpoint as it is on the hub.
PUBLISHED = {
    "architectures": ["Qwen2_5_VLForConditionalGeneration"],
    "attention_dropout": 0.0,
    "bos_token_id": 151643,
    "eos_token_id": 151645,
    "vision_start_token_id": 151652,
    "vision_end_token_id": 151653,
    "vision_token_id": 151654,
    "image_token_id": 151655,
    "video_token_id": 151656,
    "hidden_act": "silu",
    "hidden_size": 2048,
    "initializer_range": 0.02,
    "intermediate_size": 11008,
    "max_position_embeddings": 128000,
    "max_window_layers": 70,
    "model_type": "qwen2_5_vl",
    "num_attention_heads": 16,
    "num_hidden_layers": 36,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0,
    "sliding_window": 32768,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.41.2",
    "use_cache": True,
    "use_sliding_window": False,
    "vision_config": {
        "depth": 32,
        "hidden_act": "silu",
        "hidden_size": 1280,
        "intermediate_size": 3420,
        "num_heads": 16,
        "in_chans": 3,
        "out_hidden_size": 2048,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "spatial_patch_size": 14,
        "window_size": 112,
        "fullatt_block_indexes": [7, 15, 23, 31],
        "tokens_per_second": 2,
        "temporal_patch_size": 2,
    },
    "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
    "vocab_size": 151936,
}
SIZES = {  # what the other checkpoint's file says instead
    "3B": {},
    "7B": {
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "max_window_layers": 28,
        "num_attention_heads": 28,
        "num_hidden_layers": 28,
        "num_key_value_heads": 4,
        "tie_word_embeddings": False,
        "vision_config": {"out_hidden_size": 3584},
        "vocab_size": 152064,
    },
}


def published(**changes):
    fields = copy.deepcopy(PUBLISHED) | changes
    fields["vision_config"] = PUBLISHED["vision_config"] | changes.get("vision_config", {})
    return fields


def test_the_published_3b_config():
    config = config_from_hf(PUBLISHED)
    assert isinstance(config, Qwen2_5VLConfig)
    text = config.text
    assert (text.head_dim, text.mrope_section, text.mrope_interleaved) == (128, (16, 24, 24), False)
    assert (text.rope_theta, text.rms_norm_eps, text.qkv_bias, text.qk_norm) == (1e6, 1e-6, True, False)
    assert config.vision == WindowedVisionConfig(
        depth=32,
        embed_dim=1280,
        num_heads=16,
        mlp_dim=3420,
        patch_size=14,
        spatial_merge_size=2,
        temporal_patch_size=2,
        window_size=112,
        full_attention_blocks=(7, 15, 23, 31),
        tokens_per_second=2.0,
    )
    assert config.vision.window_patches == 8
    assert config.image == ImageConfig(min_pixels=3136, max_pixels=28 * 28 * 1280)  # the image processor's own
    assert config.special_ids == (151655, 151652, 151653, 151656)
    span = config.image_span(224, 224)
    assert (span.before, span.token_id, span.after, span.tokens) == ((151652,), 151655, (151653,), 64)


@pytest.mark.parametrize(
    ("size", "text", "vision"), [("3B", 3_085_938_688, 668_684_288), ("7B", 7_615_616_512, 676_550_144)]
)
def test_published_sizes_have_the_published_number_of_parameters(size, text, vision):
    config = config_from_hf(published(**SIZES[size]))
    params = nnx.state(nnx.eval_shape(lambda: Qwen2_5VL(config, rngs=nnx.Rngs(0))))
    assert sum(x.size for x in jax.tree.leaves(params["visual"])) == vision
    assert sum(x.size for x in jax.tree.leaves(params)) == text + vision


@pytest.mark.parametrize("tied", [False, True])
def test_every_spelling_of_a_config_reads_the_same(tiny_config, preprocessor, tied, tmp_path):
    config = tiny_config("qwen2_5_vl", tied)
    wanted = Qwen2_5VLConfig.from_hf(config, preprocessor)
    assert wanted.text.tie_word_embeddings is tied and wanted.vision.full_attention_blocks == (1,)
    assert Qwen2_5VLConfig.from_hf(config.to_dict(), preprocessor) == wanted
    config.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert config_from_hf(saved, preprocessor) == wanted
    assert config_from_hf(transformers.AutoConfig.from_pretrained(tmp_path), preprocessor) == wanted
    text = {k: v for k, v in saved["text_config"].items() if k not in ("model_type", "rope_parameters")}
    flat = {k: v for k, v in saved.items() if k != "text_config"} | text
    flat |= {
        "model_type": "qwen2_5_vl",
        "rope_theta": 5000.0,
        "rope_scaling": {"type": "mrope", "mrope_section": [1, 2, 3]},
        "tie_word_embeddings": tied,
    }
    assert config_from_hf(flat, preprocessor) == wanted


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'; accepted: 'silu'"),
        ({"use_sliding_window": True, "max_window_layers": 3}, "layer_types is .*; accepted: {'full_attention'}"),
        ({"rope_scaling": {"rope_type": "linear", "factor": 2.0}}, "rope_type is 'linear'; accepted: 'default'"),
        ({"vision_config": {"hidden_act": "gelu"}}, "vision hidden_act is 'gelu'; accepted: 'silu'"),
        ({"vision_config": {"out_hidden_size": 1024}}, "vision out_hidden_size is 1024; accepted: 2048"),
        ({"vision_config": {"window_size": 27}}, "window_size is 27; accepted: a merge block's 28 pixels or more"),
        ({"vision_config": {"patch_size": [14, 14]}}, r"vision patch_size is \[14, 14\]; accepted: one whole"),
    ],
)
def test_what_is_not_implemented_is_refused_flat_and_nested(change, message):
    with pytest.raises(ValueError, match=message):
        config_from_hf(published(**change))
    nested = {"model_type": "qwen2_5_vl", "vision_config": PUBLISHED["vision_config"]}
    nested |= {name: value for name, value in PUBLISHED.items() if name.endswith("_token_id")}
    nested["text_config"] = {name: value for name, value in PUBLISHED.items() if name not in nested}
    assert config_from_hf(nested) == config_from_hf(PUBLISHED)
    if "vision_config" in change:
        nested["vision_config"] = nested["vision_config"] | change["vision_config"]
    else:
        nested["text_config"] |= change
    with pytest.raises(ValueError, match=message):
        config_from_hf(nested)


@pytest.mark.parametrize("grid", [(4, 4), (2, 6), (6, 4), (8, 8), (10, 10), (14, 6)])
@pytest.mark.parametrize("window", [4, 6])
def test_windows_are_those_of_transformers(grid, window):
    index, ends = get_vision_window_index(torch.tensor([[1, *grid]]), 2, window * 14, 14)
    number = np.empty(grid[0] * grid[1] // 4, int)  # of the window that each merge block lies in
    number[index] = np.searchsorted(np.asarray(ends) // 4, np.arange(len(index)), side="right")
    number = np.repeat(number, 4)
    np.testing.assert_array_equal(window_mask(grid, window, 2), number[:, None] == number)


def test_windows_are_squares_and_no_band():
    mask = window_mask((8, 8), 4, 2)
    assert mask.sum(axis=0).tolist() == [16] * 64
    assert mask[0, 16] and not mask[0, 8]  # the second row's first merge block is nearer than the first's third


@pytest.mark.parametrize(
    "grid", [(4, 4), (8, 8), (6, 10)]
)  # one window, four, two rows of three with ragged edges
def test_tower_equals_torch(tiny_pair, rng, grid):
    pair = tiny_pair("qwen2_5_vl")
    patches = rng.normal(size=(2, grid[0] * grid[1], pair.config.vision.patch_dim)).astype(np.float32)
    flat = torch.tensor(patches.reshape(-1, patches.shape[-1]))
    with torch.no_grad():
        wanted = pair.torch.model.visual(flat, torch.tensor([[1, *grid]] * 2)).pooler_output.numpy()
    tokens = jax.jit(lambda patches: pair.model.visual(patches, grid))(jnp.asarray(patches))
    np.testing.assert_allclose(tokens.reshape(wanted.shape), wanted, atol=1e-5, rtol=0)


def test_windowed_and_full_blocks_are_one_scan(tiny_pair, monkeypatch):
    monkeypatch.setattr(layers, "UNROLLED", 0)
    pair = tiny_pair("qwen2_5_vl")
    program = jax.make_jaxpr(lambda patches: pair.model.visual(patches, (6, 10)))
    shape = jax.ShapeDtypeStruct((1, 60, pair.config.vision.patch_dim), jnp.float32)
    assert str(program(shape)).count(" scan[") == 1
