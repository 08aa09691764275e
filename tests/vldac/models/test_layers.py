"""Norms, activation and products against torch; stacks against their layers one by one."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from transformers.activations import ACT2FN
from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VLRMSNorm

from vldac.models.layers import (
    Embedding,
    LayerNorm,
    Linear,
    LoRAParam,
    RMSNorm,
    gated,
    project,
    quick_gelu,
    scan_stack,
    stack,
    unstack,
)


def copy_parameters(ours, theirs):
    for name, parameter in theirs.named_parameters():
        getattr(ours, name)[...] = jnp.asarray(parameter.detach().float().numpy())


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_rms_norm_equals_transformers(rng, scale):
    theirs, ours = Qwen2VLRMSNorm(32, eps=1e-5), RMSNorm(32, eps=1e-5)
    torch.nn.init.normal_(theirs.weight)
    copy_parameters(ours, theirs)
    x = (rng.normal(size=(2, 3, 32)) * scale).astype(np.float32)
    np.testing.assert_allclose(ours(jnp.asarray(x)), theirs(torch.tensor(x)).detach(), atol=2e-6, rtol=0)


@pytest.mark.parametrize(("shift", "atol"), [(0.0, 2e-6), (30.0, 4e-5)])  # 30: the mean takes bits away
def test_layer_norm_equals_torch(rng, shift, atol):
    theirs, ours = torch.nn.LayerNorm(32, eps=1e-6), LayerNorm(32, eps=1e-6)
    torch.nn.init.normal_(theirs.weight)
    torch.nn.init.normal_(theirs.bias)
    copy_parameters(ours, theirs)
    x = (rng.normal(size=(2, 3, 32)) + shift).astype(np.float32)
    np.testing.assert_allclose(ours(jnp.asarray(x)), theirs(torch.tensor(x)).detach(), atol=atol, rtol=0)


def test_norms_of_bfloat16_are_computed_in_float32(rng):
    x = jnp.asarray(rng.normal(size=(4, 512)) + 20, jnp.bfloat16)
    for norm, theirs in (
        (RMSNorm(512, eps=1e-6), Qwen2VLRMSNorm(512, eps=1e-6)),
        (LayerNorm(512, eps=1e-6), torch.nn.LayerNorm(512, eps=1e-6)),
    ):
        assert norm(x).dtype == jnp.bfloat16
        wanted = theirs(torch.tensor(np.asarray(x, np.float32))).detach()
        # one rounding to bfloat16, half a unit in the 8th bit, of values up to 4
        np.testing.assert_allclose(np.asarray(norm(x), np.float32), wanted, atol=4 * 2**-8, rtol=0)


def test_quick_gelu_equals_transformers():
    x = np.linspace(-20, 20, 401, dtype=np.float32)
    np.testing.assert_allclose(
        quick_gelu(jnp.asarray(x)), ACT2FN["quick_gelu"](torch.tensor(x)), atol=2e-6, rtol=0
    )


@pytest.mark.parametrize("name", ["silu", "gelu_pytorch_tanh"])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_gated_product_and_its_derivatives_are_torchs_in_float32_rounded_once(rng, name, dtype):
    gate, up, outer = (jnp.asarray(2 * rng.normal(size=(3, 5, 40)), dtype) for _ in range(3))
    activation = {"silu": jax.nn.silu, "gelu_pytorch_tanh": jax.nn.gelu}[name]
    ours, pull_back = jax.vjp(lambda gate, up: gated(activation, gate, up), gate, up)
    factors = [torch.tensor(np.asarray(x, np.float32), requires_grad=True) for x in (gate, up)]
    theirs = ACT2FN[name](factors[0]) * factors[1]
    theirs.backward(torch.tensor(np.asarray(outer, np.float32)))
    rounding = 2.0**-8 if dtype == jnp.bfloat16 else 0.0
    for mine, yours in zip((ours, *pull_back(outer)), (theirs, *(x.grad for x in factors)), strict=True):
        assert mine.dtype == dtype
        np.testing.assert_allclose(mine.astype(jnp.float32), yours.detach(), rtol=rounding + 1e-5, atol=5e-5)


@pytest.mark.parametrize("bias", [False, True])
def test_linear_has_torchs_weight_layout(rng, bias):
    theirs, ours = torch.nn.Linear(5, 7, bias=bias), Linear(5, 7, bias=bias, std=1.0, rngs=nnx.Rngs(0))
    copy_parameters(ours, theirs)
    x = rng.normal(size=(2, 3, 5)).astype(np.float32)
    np.testing.assert_allclose(ours(jnp.asarray(x)), theirs(torch.tensor(x)).detach(), atol=1e-6, rtol=0)


def test_parameters_are_kept_in_one_dtype_and_used_in_another(rng):
    linear = Linear(5, 7, bias=True, std=1.0, rngs=nnx.Rngs(0), dtype=jnp.bfloat16)
    embedding = Embedding(9, 5, std=1.0, rngs=nnx.Rngs(0), dtype=jnp.bfloat16, param_dtype=jnp.float32)
    assert linear.weight[...].dtype == linear.bias[...].dtype == embedding.weight[...].dtype == jnp.float32
    hidden = embedding(jnp.array([1, 8]))
    assert hidden.dtype == linear(hidden).dtype == jnp.bfloat16
    assert embedding.attend(hidden).dtype == jnp.float32


def make_stack(count=3):
    return stack(lambda rngs: Linear(4, 4, bias=True, std=0.5, rngs=rngs), count, nnx.Rngs(0))


def test_layers_of_a_stack_are_drawn_apart_and_with_the_asked_spread():
    weights = np.asarray(
        stack(lambda rngs: Linear(64, 64, bias=True, std=0.5, rngs=rngs), 3, nnx.Rngs(0)).weight[...]
    )
    assert weights.shape == (3, 64, 64)
    assert all(abs(np.corrcoef(weights[a].ravel(), weights[b].ravel())[0, 1]) < 0.05 for a, b in ((0, 1), (1, 2)))
    np.testing.assert_allclose(weights.std(axis=(1, 2)), 0.5, rtol=0.05)


def test_a_scanned_stack_equals_its_layers_one_after_another(rng):
    stacked = make_stack()
    x = jnp.asarray(rng.normal(size=(2, 4)), jnp.float32)
    extra = jnp.arange(3.0)

    def step(layer, x, extra):
        return jnp.tanh(layer(x)) + extra, x.sum()

    out, sums = scan_stack(stacked, step, x, extra)
    graphdef, _ = nnx.split(stacked)
    wanted_sums = []
    for number, params in enumerate(unstack(stacked)):
        wanted_sums.append(x.sum())
        x, _ = step(nnx.merge(graphdef, params), x, extra[number])
    np.testing.assert_allclose(out, x, atol=1e-6)
    np.testing.assert_allclose(sums, jnp.stack(wanted_sums), atol=1e-6)


def test_unstack_casts_when_asked():
    assert {x.dtype for x in jax.tree.leaves(unstack(make_stack(), jnp.bfloat16))} == {jnp.dtype(jnp.bfloat16)}
    assert {x.dtype for x in jax.tree.leaves(unstack(make_stack()))} == {jnp.dtype(jnp.float32)}


def test_unknown_remat_is_refused():
    with pytest.raises((ValueError, TypeError), match="'none', 'dots', 'full'"):
        scan_stack(make_stack(), lambda layer, x, _: (layer(x), None), jnp.ones(4), remat="some")


def test_layers_of_one_input_make_together_what_each_makes_alone(rng):
    """With and without adapters and biases, wider and narrower than what they read."""
    x, layers = jnp.asarray(rng.normal(size=(3, 10, 6)), jnp.float32), []
    for number, size in enumerate((4, 9, 2, 12, 3)):
        layer = Linear(6, size, bias=number % 2 == 0, std=0.5, rngs=nnx.Rngs(number))
        if number != 2:
            layer.lora_A = LoRAParam(jnp.asarray(rng.normal(size=(2, 6)), jnp.float32))
            layer.lora_B = LoRAParam(jnp.asarray(rng.normal(size=(size, 2)), jnp.float32))
        layers.append(layer)
    for together, layer in zip(project(layers, x), layers, strict=True):
        np.testing.assert_allclose(together, layer(x), atol=1e-5)


def test_an_adapted_layer_with_a_bias_adds_everything(rng):
    layer = Linear(6, 4, bias=True, std=0.5, rngs=nnx.Rngs(0))
    layer.bias[...] = jnp.arange(4.0)
    plain = nnx.clone(layer)
    low, up = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((2, 6), (4, 2)))
    layer.lora_A, layer.lora_B = LoRAParam(low), LoRAParam(up)
    layer.lora_scale = 3.0
    x = jnp.asarray(rng.normal(size=(5, 6)), jnp.float32)
    expected = plain(x) + 3.0 * (x @ low.T) @ up.T
    np.testing.assert_allclose(layer(x), expected, atol=1e-5)
