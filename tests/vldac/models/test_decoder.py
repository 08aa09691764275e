"""The decoder, module by module, against transformers."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
import torch

from vldac.models.attention import causal_mask
from vldac.models.decoder import View
from vldac.models.inputs import Inputs
from vldac.models.rope import mrope_angles

B, S = 2, 9
TIGHT = {"atol": 1e-5, "rtol": 0}  # activations are of order 1


@pytest.fixture(scope="module")
def ours(tied):
    return tied.model.language_model


@pytest.fixture(scope="module")
def theirs(tied):
    return tied.torch.model.language_model


@pytest.fixture(scope="module")
def inputs(tied, theirs):
    """(x, positions, our view, their angles): positions differ in all three axes."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=(B, S, tied.config.hidden_size)).astype(np.float32)
    positions = np.sort(rng.integers(0, 40, (B, 3, S)), axis=-1)
    text = tied.config.text
    mine = mrope_angles(jnp.asarray(positions), text.rope_theta, text.mrope_section)
    yours = theirs.rotary_emb(torch.zeros(1), torch.tensor(positions).permute(1, 0, 2))
    return x, positions, View(*mine, causal_mask(jnp.ones((B, S), bool))), yours


@pytest.mark.parametrize("number", [0, 2])
def test_attention(tied, ours, theirs, inputs, number):
    x, _, mine, yours = inputs
    wanted, _ = theirs.layers[number].self_attn(torch.tensor(x), position_embeddings=yours)
    attended, (key, value) = tied.layer(ours.layers, number).self_attn(jnp.asarray(x), mine)
    assert key.shape == value.shape == (B, 2, S, 12)
    np.testing.assert_allclose(attended, wanted.detach(), **TIGHT)


def test_mlp(tied, ours, theirs, inputs):
    x = inputs[0]
    wanted = theirs.layers[1].mlp(torch.tensor(x)).detach()
    np.testing.assert_allclose(tied.layer(ours.layers, 1).mlp(jnp.asarray(x)), wanted, **TIGHT)


@pytest.mark.parametrize("number", [0, 1, 2])
def test_layer(tied, ours, theirs, inputs, number):
    x, _, mine, yours = inputs
    wanted = theirs.layers[number](torch.tensor(x), position_embeddings=yours).detach()
    got, _ = tied.layer(ours.layers, number)(jnp.asarray(x), mine)
    np.testing.assert_allclose(got, wanted, **TIGHT)


def test_whole_decoder(ours, theirs, inputs):
    x, positions, *_ = inputs
    with torch.no_grad():
        wanted = theirs(
            inputs_embeds=torch.tensor(x), position_ids=torch.tensor(positions).permute(1, 0, 2)
        ).last_hidden_state
    hidden, _ = ours.forward(Inputs(jnp.asarray(x), jnp.asarray(positions), jnp.ones((B, S), bool)))
    np.testing.assert_allclose(hidden, wanted, **TIGHT)
