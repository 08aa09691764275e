"""What is Gemma 3's alone: its configuration, its embedding's factor, its tower's turns."""

from __future__ import annotations

import copy
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from flax import nnx

from tests.published import GEMMA_3_4B as PUBLISHED
from vldac.models import Gemma3Config, config_from_hf, siglip
from vldac.models.siglip import SiglipConfig

PUBLISHED_PREPROCESSOR = {
    "do_convert_rgb": None,
    "do_normalize": True,
    "do_pan_and_scan": None,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_processor_type": "Gemma3ImageProcessor",
    "image_seq_length": 256,
    "image_std": [0.5, 0.5, 0.5],
    "pan_and_scan_max_num_crops": None,
    "pan_and_scan_min_crop_size": None,
    "pan_and_scan_min_ratio_to_activate": None,
    "processor_class": "Gemma3Processor",
    "resample": 2,
    "rescale_factor": 0.00392156862745098,
    "size": {"height": 896, "width": 896},
}


def changed(part: str | None, **fields):
    config = copy.deepcopy(PUBLISHED)
    (config if part is None else config[part]).update(fields)
    return config


def test_the_published_config_is_read_with_the_defaults_it_leaves_out():
    config = config_from_hf(PUBLISHED, PUBLISHED_PREPROCESSOR)
    text = config.text
    assert isinstance(config, Gemma3Config)
    assert (text.vocab_size, text.head_dim) == (262208, 256)
    assert (text.num_attention_heads, text.num_key_value_heads) == (8, 4)
    assert (text.rms_norm_eps, text.query_scale, text.embedding_scale) == (1e-6, 1 / 16, 2560**0.5)
    assert (text.rope_theta, text.rope_factor, text.mrope_section) == (1e6, 8.0, (128, 0, 0))
    assert (text.local.window, text.local.rope_theta) == (1024, 10_000.0)
    assert [layer for layer, local in enumerate(text.local.layers) if not local] == [5, 11, 17, 23, 29]
    assert text.tie_word_embeddings and text.qk_norm and not text.qkv_bias
    assert config.vision.patches_per_side == 64 and config.vision.layer_norm_eps == 1e-6
    assert config.special_ids == (262144, 255999, 256000)
    assert config == config_from_hf(PUBLISHED)  # the processor's file says what is assumed without it
    span = config.image_span(60, 80)
    assert (span.text_before, *span.before, span.token_id) == ("\n\n", 255999, 262144)
    assert (*span.after, span.text_after, span.extent) == (256000, "\n\n", 256)
    np.testing.assert_array_equal(span.offsets, np.broadcast_to(np.arange(256), (3, 256)))


def test_every_form_of_a_config_is_read_alike():
    fields = copy.deepcopy(PUBLISHED)
    loaded = transformers.AutoConfig.for_model(fields.pop("model_type"), **fields)
    saved = loaded.to_dict()
    assert "rope_parameters" in saved["text_config"] and "rope_scaling" not in saved["text_config"]
    assert config_from_hf(loaded) == config_from_hf(saved) == config_from_hf(PUBLISHED)
    old = changed("text_config", rope_theta=5e5, rope_local_base_freq=2e4, sliding_window_pattern=2, head_dim=128)
    text = config_from_hf(old).text
    assert (text.rope_theta, text.local.rope_theta, text.local.layers[:4]) == (
        5e5,
        2e4,
        (True, False, True, False),
    )
    assert (text.head_dim, text.query_scale) == (128, 1 / 16)


def test_without_local_layers_there_is_no_window():
    config = config_from_hf(changed("text_config", sliding_window_pattern=1))
    assert config.text.local is None and config.text.rope_factor == 8.0


@pytest.mark.parametrize(
    ("part", "field", "value", "message"),
    [
        ("text_config", "final_logit_softcapping", 30.0, "final_logit_softcapping is 30.0; accepted: None"),
        ("text_config", "attn_logit_softcapping", 50.0, "attn_logit_softcapping is 50.0; accepted: None"),
        ("text_config", "use_bidirectional_attention", True, "use_bidirectional_attention is True"),
        ("text_config", "hidden_activation", "silu", "hidden_activation is 'silu'"),
        ("text_config", "attention_bias", True, "attention_bias is True"),
        ("text_config", "attention_dropout", 0.1, "attention_dropout is 0.1"),
        ("text_config", "sliding_window", None, "sliding_window is None; accepted: 1 or more"),
        ("text_config", "rope_scaling", {"rope_type": "dynamic", "factor": 2.0}, "rope_type is 'dynamic'"),
        ("vision_config", "vision_use_head", True, "vision_use_head is True"),
        ("vision_config", "hidden_act", "gelu", "vision hidden_act is 'gelu'"),
        ("vision_config", "num_channels", 1, "vision num_channels is 1"),
        ("vision_config", "patch_size", 15, "image_size is 896; accepted: a multiple of patch_size, which is 15"),
        ("vision_config", "patch_size", [14, 14], r"vision patch_size is \[14, 14\]; accepted: one whole number"),
        ("vision_config", "num_attention_heads", 7, "hidden_size is 1152; accepted: a multiple of"),
        (None, "mm_tokens_per_image", 9, "tokens_per_image is 9; accepted: the square of a divisor of 64"),
        (None, "mm_tokens_per_image", 32, "tokens_per_image is 32; accepted: the square"),
    ],
)
def test_what_is_not_implemented_is_refused_by_name(part, field, value, message):
    with pytest.raises(ValueError, match=message):
        config_from_hf(changed(part, **{field: value}))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("do_pan_and_scan", True, "preprocessor do_pan_and_scan is True; accepted: False"),
        ("size", {"height": 448, "width": 448}, r"preprocessor size is .*448.*; accepted: .*896"),
        ("resample", 3, "preprocessor resample is 3; accepted: 2"),
        ("image_seq_length", 64, "preprocessor image_seq_length is 64; accepted: 256"),
        ("do_resize", False, "preprocessor do_resize is False"),
        ("image_mean", 0.5, "preprocessor image_mean is 0.5; accepted: three numbers"),
    ],
)
def test_preprocessors_that_do_not_fit_are_refused_by_name(field, value, message):
    with pytest.raises(ValueError, match=message):
        config_from_hf(PUBLISHED, PUBLISHED_PREPROCESSOR | {field: value})


def test_embeddings_are_scaled_by_a_factor_rounded_as_torch_rounds_it(gemma, rng):
    """sqrt(48) is 6.9282 and in bfloat16 6.9375; visual tokens get no factor."""
    ids = rng.integers(0, 90, 40)
    theirs = copy.deepcopy(gemma.torch.get_input_embeddings())
    for dtype, theirs_dtype in ((jnp.float32, torch.float32), (jnp.bfloat16, torch.bfloat16)):
        graphdef = gemma.graphdef if dtype == jnp.float32 else gemma.half
        ours = gemma.replace(graphdef=graphdef).model.embed(jnp.asarray(ids))
        with torch.no_grad():
            wanted = theirs.to(theirs_dtype)(torch.tensor(ids)).float().numpy()
        assert ours.dtype == dtype
        np.testing.assert_array_equal(np.asarray(ours, np.float32), wanted)


def test_images_that_take_turns_attend_as_all_at_once(monkeypatch, rng):
    query, key, value, target = (jnp.asarray(rng.normal(size=(5, 6, 2, 4)), jnp.float32) for _ in range(4))

    def results(at_once):
        monkeypatch.setattr(siglip, "SCORES_AT_ONCE", at_once)

        def total(*qkv):
            out = siglip.attend_in_turns(qkv[0], qkv[1].swapaxes(1, 2), qkv[2].swapaxes(1, 2))
            return (out * target).sum(), out

        return jax.jit(jax.grad(total, argnums=(0, 1, 2), has_aux=True))(query, key, value)

    wanted = results(2**28)
    for at_once in (1, 2 * 2 * 6 * 6):  # one by one; two by two, and one left
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6, rtol=0), results(at_once), wanted)


def test_turns_bound_what_exists_at_a_time(monkeypatch):
    query = jax.ShapeDtypeStruct((8, 256, 2, 4), jnp.float32)
    key = jax.ShapeDtypeStruct((8, 2, 256, 4), jnp.float32)

    def scores(at_once):
        monkeypatch.setattr(siglip, "SCORES_AT_ONCE", at_once)
        program = str(jax.make_jaxpr(lambda *qkv: siglip.attend_in_turns(*qkv))(query, key, key))
        return {
            images for images in range(1, 9) if re.search(rf"f32\[({images},|{images},1,)2,256,256\]", program)
        }

    assert scores(2**28) == {8}
    assert scores(2 * 2 * 256**2) == {2}


def test_patches_are_row_by_row():
    config = SiglipConfig(4, 2, 8, 8, 1, 1)
    embed = siglip.PatchEmbedding(config, rngs=nnx.Rngs(0), dtype=jnp.float32, param_dtype=jnp.float32)
    pixels = jnp.zeros((1, 4, 4, 3)).at[0, :2, 2:].set(1.0)
    assert np.flatnonzero(np.abs(embed(pixels)).sum(axis=(0, 2))).tolist() == [1]
