"""Preprocessing on the device against the Pillow image processor.

Pillow 13 takes the two passes of a resize in the order that it expects to be cheaper. `two_passes` holds it to
width first, which is what every older version does and what is implemented here; one test lets it loose.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize as their_smart_resize

from vldac.models import ImageConfig, VisionConfig, image_grid
from vldac.models.image import (
    patch_grid,
    preprocess,
    preprocess_square,
    resize,
    resize_weights,
    smart_resize,
)

VISION = VisionConfig(
    depth=1, embed_dim=8, num_heads=1, mlp_dim=8, patch_size=4, spatial_merge_size=2, temporal_patch_size=2
)
RESIZES = [  # from, to
    ((60, 80), (64, 80)),  # one pass
    ((60, 80), (60, 96)),
    ((17, 23), (17, 23)),  # none
    ((7, 5), (40, 24)),
    ((1, 3), (8, 16)),
    ((64, 64), (24, 56)),
    ((100, 37), (16, 64)),  # down one way, up the other
    ((300, 200), (8, 8)),
    ((480, 31), (48, 16)),
]


PILLOW_RESIZE = PIL.Image.Image.resize


def two_passes(image, size, *args, **kwargs):
    """`Image.resize`, width first whatever the version of Pillow."""
    return PILLOW_RESIZE(PILLOW_RESIZE(image, (size[0], image.size[1]), *args, **kwargs), size, *args, **kwargs)


def preprocessed(images, vision, image_config):
    """`preprocess` under jit, where it belongs: (patches, grid)."""
    patches = jax.jit(lambda images: preprocess(images, vision, image_config)[0])(images)
    return patches, patch_grid(*images.shape[1:3], vision, image_config)


def pictures(rng, height, width, count=2):
    """Noise, which overshoots everywhere, and a hard black and white edge, which must clip at both ends."""
    noise = rng.integers(0, 256, (count - 1, height, width, 3), np.uint8)
    edge = np.zeros((1, height, width, 3), np.uint8)
    edge[:, height // 3 :, width // 3 :] = 255
    return np.concatenate([noise, edge])


@pytest.mark.parametrize("kernel", ["bicubic", "bilinear"])
@pytest.mark.parametrize(("old", "new"), RESIZES)
def test_resize_gives_pillows_bytes(rng, old, new, kernel):
    images = pictures(rng, *old)
    ours = jax.jit(lambda images: resize(images, *new, kernel))(images)
    assert ours.dtype == jnp.uint8
    for got, image in zip(ours, images, strict=True):
        wanted = two_passes(PIL.Image.fromarray(image), new[::-1], PIL.Image.Resampling[kernel.upper()])
        np.testing.assert_array_equal(got, np.asarray(wanted))


def test_resizing_beyond_what_is_exact_is_refused():
    resize(jnp.zeros((1, 512, 2, 3), jnp.uint8), 8, 2)
    with pytest.raises(ValueError, match=r"513 pixels to 8; accepted: at most 64"):
        resize(jnp.zeros((1, 513, 2, 3), jnp.uint8), 8, 2)


@pytest.mark.parametrize("kernel", ["bicubic", "bilinear"])
def test_weights_sum_to_one(kernel):
    for old, new in ((60, 64), (3, 16), (300, 8)):
        np.testing.assert_allclose(resize_weights(old, new, kernel).sum(axis=1), 1, atol=1e-12)


@given(
    height=st.integers(1, 4000),
    width=st.integers(1, 4000),
    factor=st.sampled_from([8, 16, 28, 32]),
    least=st.sampled_from([16 * 16, 56 * 56, 256 * 28 * 28]),
    most=st.sampled_from([257 * 28 * 28, 28 * 28 * 1280, 12_845_056]),
)
def test_smart_resize_equals_transformers(height, width, factor, least, most):
    if max(height, width) > 200 * min(height, width):
        with pytest.raises(
            ValueError, match=f"image is {height}x{width}; accepted: an aspect ratio of at most 200"
        ):
            smart_resize(height, width, factor, least, most)
        with pytest.raises(ValueError, match="aspect ratio"):
            their_smart_resize(height, width, factor, least, most)
    else:
        assert smart_resize(height, width, factor, least, most) == their_smart_resize(
            height, width, factor, least, most
        )


@pytest.mark.parametrize(
    ("height", "width", "least", "most"),
    [
        (60, 80, 56 * 56, 28 * 28 * 1280),  # the default bounds
        (10, 33, 56 * 56, 28 * 28 * 1280),
        (210, 150, 56 * 56, 96 * 96),
        (64, 64, 8 * 8, 64 * 64),  # fits as it is
        (20, 20, 8 * 8, 64 * 64),  # 2.5 blocks: halves go to even
        (61, 43, 100 * 100, 28 * 28 * 1280),
        (33, 200, 8 * 8, 24 * 24),
    ],
)
def test_preprocess_equals_the_pillow_processor(rng, monkeypatch, height, width, least, most):
    monkeypatch.setattr(PIL.Image.Image, "resize", two_passes)
    size = {"shortest_edge": least, "longest_edge": most}
    processor = Qwen2VLImageProcessorPil(patch_size=4, merge_size=2, temporal_patch_size=2, size=size)
    image_config = ImageConfig.from_hf(processor.to_dict(), VISION)
    images = pictures(rng, height, width, count=3)
    theirs = processor(list(images), return_tensors="np")
    ours, grid = preprocessed(images, VISION, image_config)
    assert (theirs["image_grid_thw"] == [1, *grid]).all()
    assert ours.shape == (3, grid[0] * grid[1], VISION.patch_dim) and ours.dtype == jnp.float32
    # exact up to the last bit of the normalisation: values reach 2.2
    np.testing.assert_allclose(ours.reshape(-1, ours.shape[-1]), theirs["pixel_values"], atol=1e-6, rtol=0)


def test_the_published_sizes_equal_the_pillow_processor(rng, monkeypatch):
    monkeypatch.setattr(PIL.Image.Image, "resize", two_passes)
    vision = dataclasses.replace(VISION, patch_size=14)
    image = pictures(rng, 60, 80, count=1)
    theirs = Qwen2VLImageProcessorPil()(list(image), return_tensors="np")
    ours, grid = preprocessed(image, vision, ImageConfig())
    assert ours.shape[1:] == theirs["pixel_values"].shape == (grid[0] * grid[1], 1176)
    np.testing.assert_allclose(ours[0], theirs["pixel_values"], atol=1e-6, rtol=0)


@pytest.mark.parametrize(("height", "width", "side"), [(60, 80, 24), (15, 31, 40), (24, 24, 24), (60, 80, 896)])
def test_preprocess_square_equals_gemmas_pillow_processor(rng, monkeypatch, height, width, side):
    monkeypatch.setattr(PIL.Image.Image, "resize", two_passes)
    mean, std = ((0.5, 0.4, 0.6), (0.5, 0.6, 0.4)) if side == 24 else ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    processor = Gemma3ImageProcessorPil(size={"height": side, "width": side}, image_mean=mean, image_std=std)
    images = pictures(rng, height, width)
    theirs = np.stack(processor(list(images), return_tensors="np")["pixel_values"])
    ours = jax.jit(lambda images: preprocess_square(images, side, mean, std))(images)
    assert ours.dtype == jnp.float32
    # exact up to the last bit of the normalisation: values reach 1.7
    np.testing.assert_allclose(ours, theirs.transpose(0, 2, 3, 1), atol=1e-6, rtol=0)


def test_the_order_of_pillows_passes_changes_a_smooth_picture_by_a_rounding():
    y, x = np.mgrid[:60, :80]
    image = np.stack([128 + 90 * np.sin(x / 9), 255 * y / 60, 128 + 90 * np.cos((x + y) / 7)], axis=-1).astype(
        np.uint8
    )
    wanted = np.asarray(PIL.Image.fromarray(image).resize((84, 56), PIL.Image.Resampling.BICUBIC)).astype(int)
    assert np.abs(np.asarray(resize(jnp.asarray(image)[None], 56, 84))[0] - wanted).max() <= 1


def test_image_grid_is_in_tokens(tied):
    assert image_grid(tied.config, 15, 31) == (2, 4)
    assert tied.config.image_span(24, 16).tokens == 6
    assert tied.model.encode_images(jnp.zeros((2, 24, 16, 3), jnp.uint8)).features.shape == (2, 6, 48)
