"""Rotary tables and positions against transformers' own functions."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers.models.qwen2_vl.modeling_qwen2_vl import apply_rotary_pos_emb
from transformers.vision_utils import get_vision_position_ids

from vldac.models import image_position_extent, image_position_offsets
from vldac.models.rope import mrope_angles, rotate, vision_angles

GRIDS = [(2, 2), (2, 6), (6, 2), (4, 4), (8, 10)]


def theirs_and_ours(pair, positions):
    text = pair.config.text
    cos, sin = pair.torch.model.language_model.rotary_emb(
        torch.zeros(1), torch.tensor(positions).permute(1, 0, 2)
    )  # [B, S, D], both halves alike
    half = text.head_dim // 2
    theirs = cos[..., :half].numpy(), sin[..., :half].numpy()
    return theirs, mrope_angles(jnp.asarray(positions), text.rope_theta, text.mrope_section)


def test_mrope_angles_equal_transformers(tied, rng):
    positions = rng.integers(0, 500, (2, 3, 40))
    theirs, ours = theirs_and_ours(tied, positions)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6, rtol=0)


def test_mrope_angles_stay_right_far_from_the_start(tied, rng):
    positions = rng.integers(0, 30_000, (1, 3, 200))
    theirs, ours = theirs_and_ours(tied, positions)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6, rtol=0)


def test_each_section_turns_with_its_own_position():
    def angles(positions):
        cos, _ = mrope_angles(jnp.asarray(positions)[None, :, None], 100.0, (2, 1, 1))
        return np.asarray(cos[0, 0])

    still = angles([0, 0, 0])
    for axis, turned in ((0, [0, 1]), (1, [2]), (2, [3])):
        positions = [0, 0, 0]
        positions[axis] = 2
        assert np.flatnonzero(angles(positions) != still).tolist() == turned


def test_rotation_equals_transformers(rng):
    x = rng.normal(size=(2, 5, 3, 12)).astype(np.float32)
    angles = rng.normal(size=(2, 5, 6)).astype(np.float32)
    cos, sin = np.cos(angles), np.sin(angles)
    whole = [torch.tensor(np.concatenate([half, half], axis=-1)) for half in (cos, sin)]
    wanted, _ = apply_rotary_pos_emb(torch.tensor(x), torch.tensor(x), *whole, unsqueeze_dim=2)
    ours = rotate(jnp.asarray(x), jnp.asarray(cos), jnp.asarray(sin))
    np.testing.assert_allclose(ours, wanted.numpy(), atol=1e-6, rtol=0)


def test_a_bfloat16_vector_is_turned_in_float32_and_rounded_once(rng):
    x = jnp.asarray(rng.normal(size=(1, 4, 1, 8)), jnp.bfloat16)
    cos, sin = mrope_angles(jnp.asarray(rng.integers(300, 900, (1, 3, 4))), 1e4, (1, 1, 2))
    turned = rotate(x, cos, sin)
    assert turned.dtype == jnp.bfloat16
    np.testing.assert_array_equal(turned, rotate(x.astype(jnp.float32), cos, sin).astype(jnp.bfloat16))


@pytest.mark.parametrize("grid", GRIDS)
def test_vision_angles_equal_transformers(tied, grid):
    vision = tied.config.vision
    ids = get_vision_position_ids(torch.tensor([[1, *grid]]), vision.spatial_merge_size)
    cos, sin = tied.torch.model.visual.rotary_pos_emb(torch.zeros(1), ids)
    head_dim = vision.embed_dim // vision.num_heads
    ours = vision_angles(*grid, vision.spatial_merge_size, head_dim, vision.rope_theta)
    for a, b in zip(ours, (cos, sin), strict=True):
        np.testing.assert_allclose(a[0], b.numpy()[:, : head_dim // 2], atol=1e-6, rtol=0)


@pytest.mark.parametrize("grid", GRIDS)
def test_image_positions_equal_transformers(tied, grid):
    theirs = tied.torch.model.get_vision_position_ids(0, torch.tensor([1, *grid]), 1, 1)
    np.testing.assert_array_equal(image_position_offsets(*grid), theirs.numpy())
    assert image_position_extent(*grid) == theirs.max() + 1
