"""The vision tower, module by module, against transformers."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers.vision_utils import get_vision_position_ids

from vldac.models.rope import vision_angles

GRIDS = [(2, 2), (2, 6), (6, 4), (8, 10)]
TIGHT = {"atol": 1e-5, "rtol": 0}  # activations are of order 1


@pytest.fixture(scope="module")
def ours(tied):
    return tied.model.visual


@pytest.fixture(scope="module")
def theirs(tied):
    return tied.torch.model.visual


def angles(tied, theirs, grid):
    """((cos, sin) for ours, (cos, sin) for theirs) of one image."""
    vision = tied.config.vision
    head_dim = vision.embed_dim // vision.num_heads
    mine = vision_angles(*grid, vision.spatial_merge_size, head_dim, vision.rope_theta)
    ids = get_vision_position_ids(torch.tensor([[1, *grid]]), vision.spatial_merge_size)
    return tuple(jnp.asarray(x) for x in mine), theirs.rotary_pos_emb(torch.zeros(1), ids)


def hidden(rng, grid, width):
    return rng.normal(size=(grid[0] * grid[1], width)).astype(np.float32)


def test_patch_embedding(tied, ours, theirs, rng):
    patches = rng.normal(size=(10, tied.config.vision.patch_dim)).astype(np.float32)
    wanted = theirs.patch_embed(torch.tensor(patches)).detach()
    np.testing.assert_allclose(ours.patch_embed(jnp.asarray(patches)[None])[0], wanted, **TIGHT)


def test_attention(tied, ours, theirs, rng):
    grid = (4, 6)
    x, (mine, yours) = hidden(rng, grid, 32), angles(tied, theirs, (4, 6))
    wanted = theirs.blocks[1].attn(torch.tensor(x), torch.tensor([0, 24]), yours).detach()
    block = tied.layer(ours.blocks, 1)
    np.testing.assert_allclose(block.attn(jnp.asarray(x)[None], mine)[0], wanted, **TIGHT)


def test_mlp(tied, ours, theirs, rng):
    x = hidden(rng, (2, 2), 32)
    wanted = theirs.blocks[1].mlp(torch.tensor(x)).detach()
    np.testing.assert_allclose(tied.layer(ours.blocks, 1).mlp(jnp.asarray(x)[None])[0], wanted, **TIGHT)


@pytest.mark.parametrize("number", [0, 1])
def test_block(tied, ours, theirs, rng, number):
    x, (mine, yours) = hidden(rng, (2, 6), 32), angles(tied, theirs, (2, 6))
    wanted = theirs.blocks[number](torch.tensor(x), torch.tensor([0, 12]), yours).detach()
    np.testing.assert_allclose(tied.layer(ours.blocks, number)(jnp.asarray(x)[None], mine)[0], wanted, **TIGHT)


def test_patch_merger(tied, ours, theirs, rng):
    x = hidden(rng, (4, 6), 32)
    wanted = theirs.merger(torch.tensor(x)).detach()
    merged = ours.merger(jnp.asarray(x)[None])[0]
    assert merged.shape == (6, tied.config.hidden_size)
    np.testing.assert_allclose(merged, wanted, **TIGHT)


@pytest.mark.parametrize("grid", GRIDS)
def test_tower(tied, ours, theirs, rng, grid):
    patches = rng.normal(size=(2, grid[0] * grid[1], tied.config.vision.patch_dim)).astype(np.float32)
    flat = torch.tensor(patches.reshape(-1, patches.shape[-1]))
    with torch.no_grad():
        wanted = theirs(flat, torch.tensor([[1, *grid]] * 2)).pooler_output.numpy()
    tokens = ours(jnp.asarray(patches), grid)
    assert tokens.shape == (2, grid[0] * grid[1] // 4, tied.config.hidden_size)
    np.testing.assert_allclose(tokens.reshape(wanted.shape), wanted, **TIGHT)
