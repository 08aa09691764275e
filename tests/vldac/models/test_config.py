"""Reading configurations, and refusing what is not implemented."""

from __future__ import annotations

import dataclasses
import json

import jax
import pytest
import transformers
from flax import nnx

from vldac.models import ImageConfig, Qwen2VL, Qwen2VLConfig, TextConfig, VisionConfig, image_grid, nano

# The config.json of the 2B checkpoint as it is on the hub: flat, "mrope", the vision tower's own spellings.
PUBLISHED = {
    "architectures": ["Qwen2VLForConditionalGeneration"],
    "attention_dropout": 0.0,
    "bos_token_id": 151643,
    "eos_token_id": 151645,
    "vision_start_token_id": 151652,
    "vision_end_token_id": 151653,
    "vision_token_id": 151654,
    "image_token_id": 151655,
    "video_token_id": 151656,
    "hidden_act": "silu",
    "hidden_size": 1536,
    "initializer_range": 0.02,
    "intermediate_size": 8960,
    "max_position_embeddings": 32768,
    "max_window_layers": 28,
    "model_type": "qwen2_vl",
    "num_attention_heads": 12,
    "num_hidden_layers": 28,
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
        "embed_dim": 1280,
        "mlp_ratio": 4,
        "num_heads": 16,
        "in_chans": 3,
        "hidden_size": 1536,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "spatial_patch_size": 14,
        "temporal_patch_size": 2,
    },
    "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
    "vocab_size": 151936,
}
PUBLISHED_PREPROCESSOR = {
    "min_pixels": 3136,
    "max_pixels": 12845056,
    "patch_size": 14,
    "temporal_patch_size": 2,
    "merge_size": 2,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "image_processor_type": "Qwen2VLImageProcessor",
    "processor_class": "Qwen2VLProcessor",
}


def test_the_published_2b_config():
    config = Qwen2VLConfig.from_hf(PUBLISHED, PUBLISHED_PREPROCESSOR)
    assert config.text == TextConfig(
        vocab_size=151936,
        hidden_size=1536,
        intermediate_size=8960,
        num_hidden_layers=28,
        num_attention_heads=12,
        num_key_value_heads=2,
        head_dim=128,
        rms_norm_eps=1e-6,
        rope_theta=1e6,
        mrope_section=(16, 24, 24),
        tie_word_embeddings=True,
    )
    assert config.vision == VisionConfig(
        depth=32,
        embed_dim=1280,
        num_heads=16,
        mlp_dim=5120,
        patch_size=14,
        spatial_merge_size=2,
        temporal_patch_size=2,
    )
    assert config.vision.patch_dim == 1176
    ids = (151655, 151652, 151653, 151656)
    assert (config.image_token_id, config.vision_start_token_id) == ids[:2]
    assert (config.vision_end_token_id, config.video_token_id) == ids[2:]
    assert config.image == ImageConfig(min_pixels=3136, max_pixels=12845056)
    assert image_grid(config, 224, 224) == (8, 8)
    assert config.vocab_size == 151936 and config.hidden_size == 1536


def test_the_published_2b_config_has_the_published_number_of_parameters():
    config = Qwen2VLConfig.from_hf(PUBLISHED)
    model = nnx.eval_shape(lambda: Qwen2VL(config, rngs=nnx.Rngs(0)))
    assert sum(x.size for x in jax.tree.leaves(nnx.state(model))) == 2_208_985_600


@pytest.mark.parametrize("tied", [False, True])
def test_every_spelling_of_a_config_reads_the_same(make_torch_config, preprocessor, tied, tmp_path):
    config = make_torch_config(tied)
    wanted = Qwen2VLConfig.from_hf(config, preprocessor)
    assert wanted.text.tie_word_embeddings is tied
    assert wanted.text.mrope_section == (1, 2, 3) and wanted.text.rope_theta == 5000.0
    assert Qwen2VLConfig.from_hf(config.to_dict(), preprocessor) == wanted
    config.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert "text_config" in saved
    assert Qwen2VLConfig.from_hf(saved, preprocessor) == wanted
    assert Qwen2VLConfig.from_hf(transformers.AutoConfig.from_pretrained(tmp_path), preprocessor) == wanted
    text = {k: v for k, v in saved["text_config"].items() if k not in ("model_type", "rope_parameters")}
    flat = {k: v for k, v in saved.items() if k != "text_config"} | text
    flat |= {
        "model_type": "qwen2_vl",
        "rope_theta": 5000.0,
        "rope_scaling": {"type": "mrope", "mrope_section": [1, 2, 3]},
        "tie_word_embeddings": tied,
    }
    assert Qwen2VLConfig.from_hf(flat, preprocessor) == wanted


def test_a_mapping_is_only_read():
    before = json.dumps(PUBLISHED)
    Qwen2VLConfig.from_hf(PUBLISHED)
    assert json.dumps(PUBLISHED) == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "qwen2_5_vl"}, "model_type is 'qwen2_5_vl'; accepted: 'qwen2_vl'"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'; accepted: 'silu'"),
        ({"use_sliding_window": True, "max_window_layers": 3}, "layer_types is .*; accepted: {'full_attention'}"),
        ({"attention_dropout": 0.1}, "attention_dropout is 0.1; accepted: 0.0"),
        ({"num_attention_heads": 13}, "accepted"),
        ({"num_key_value_heads": 5}, "num_key_value_heads is 5; accepted: a divisor of num_attention_heads"),
        ({"rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 25]}}, r"mrope_section is \(16, 24, 25\)"),
        (
            {"rope_scaling": {"rope_type": "linear", "factor": 2.0, "mrope_section": [16, 24, 24]}},
            "rope_type is 'linear'; accepted: 'default'",
        ),
        ({"vision_config": {"hidden_size": 1024}}, "vision hidden_size is 1024; accepted: 1536"),
        ({"vision_config": {"hidden_act": "gelu"}}, "vision hidden_act is 'gelu'; accepted: 'quick_gelu'"),
        ({"vision_config": {"num_heads": 3}}, "embed_dim is 1280; accepted: a multiple of 4 x num_heads = 12"),
        (
            {"vision_config": {"patch_size": [14, 14]}},
            r"vision patch_size is \[14, 14\]; accepted: one whole number",
        ),
    ],
)
def test_what_is_not_implemented_is_refused(change, message):
    fields = {**PUBLISHED, **change}
    if "vision_config" in change:
        fields["vision_config"] = PUBLISHED["vision_config"] | change["vision_config"]
    with pytest.raises(ValueError, match=message):
        Qwen2VLConfig.from_hf(fields)


def test_another_architectures_config_object_is_refused():
    with pytest.raises(ValueError, match="model_type is 'qwen2'; accepted: 'qwen2_vl'"):
        Qwen2VLConfig.from_hf(transformers.AutoConfig.for_model("qwen2"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"patch_size": 16}, "preprocessor patch_size is 16; accepted: 14"),
        ({"merge_size": 1}, "preprocessor merge_size is 1; accepted: 2"),
        ({"resample": 2}, "preprocessor resample is 2; accepted: 3"),
        ({"do_resize": False}, "preprocessor do_resize is False; accepted: True"),
        ({"rescale_factor": 1.0}, "preprocessor rescale_factor is 1.0; accepted: 0.0039"),
        ({"image_mean": [0.5]}, r"preprocessor image_mean is \[0.5\]; accepted: three numbers"),
        ({"image_std": 0.5}, "preprocessor image_std is 0.5; accepted: three numbers"),
        (
            {"min_pixels": 4000, "max_pixels": 3999},
            "min_pixels, max_pixels are 4000, 3999; accepted: 0 < min <= max",
        ),
    ],
)
def test_preprocessing_that_is_not_implemented_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        Qwen2VLConfig.from_hf(PUBLISHED, PUBLISHED_PREPROCESSOR | change)


@pytest.mark.parametrize(
    "spelling",
    [
        {"min_pixels": 400, "max_pixels": 900, "size": {"shortest_edge": 1, "longest_edge": 2}},
        {"size": {"shortest_edge": 400, "longest_edge": 900}},
        {"size": {"min_pixels": 400, "max_pixels": 900}},
    ],
)
def test_pixel_bounds_in_every_spelling(spelling):
    image = Qwen2VLConfig.from_hf(PUBLISHED, spelling).image
    assert (image.min_pixels, image.max_pixels) == (400, 900)


def test_nano_is_a_million_parameters_and_twenty_tokens_a_frame():
    config = nano(270, image_token_id=260, vision_start_token_id=261, vision_end_token_id=262)
    model = nnx.eval_shape(lambda: Qwen2VL(config, rngs=nnx.Rngs(0)))
    assert 0.9e6 < sum(x.size for x in jax.tree.leaves(nnx.state(model))) < 1.2e6
    assert image_grid(config, 60, 80) == (4, 5)
    assert config.vocab_size == 320  # 270 padded to whole rows of 64
    assert config.video_token_id is None


@pytest.mark.parametrize("name", ["vocab_size", "num_attention_heads", "num_key_value_heads", "num_hidden_layers"])
def test_sizes_are_positive(name):
    text = nano(270, image_token_id=1, vision_start_token_id=2, vision_end_token_id=3).text
    with pytest.raises(ValueError, match=f"{name} is 0; accepted: 1 or more"):
        dataclasses.replace(text, **{name: 0})
