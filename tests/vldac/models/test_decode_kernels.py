"""The kernels of decoding against the decoder's ordinary path: interpreted anywhere, and compiled on a GPU."""

from __future__ import annotations

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from vldac.models import decode_kernels
from vldac.models.attention import attend
from vldac.models.config import TextConfig
from vldac.models.decode_kernels.attention import BLOCK
from vldac.models.decoder import Decoder
from vldac.models.kv_cache import KVCache
from vldac.models.layers import Linear, LoRAParam, RMSNorm


def make(rng, batch, heads, kv_heads, slots, prefix, width=64, dtype=jnp.float32):
    def normal(*shape):
        return jnp.asarray(rng.normal(size=shape), dtype)

    mask = rng.random((batch, 1, slots)) < 0.5
    mask[:, :, slots // 2 :] = False  # what is not filled yet
    mask[:, :, 0] = True
    shared = (normal(1, kv_heads, prefix, width), normal(1, kv_heads, prefix, width)) if prefix else None
    # What lies in slots that are not filled is never to matter, whatever it is.
    key, value = normal(batch, kv_heads, slots, width), normal(batch, kv_heads, slots, width)
    key, value = (x.at[:, :, slots - 1].set(1e4) for x in (key, value))
    return normal(batch, 1, heads, width), key, value, jnp.asarray(mask), shared


def attend_by_kernels(query, key, value, mask, shared, interpret=False):
    """`decode_attend` of what `attend` takes."""
    batch, _, heads, width = query.shape
    kv_heads = key.shape[1]
    q = query.reshape(batch, kv_heads, -1, width).swapaxes(0, 1).reshape(kv_heads, -1, width)
    out = decode_kernels.decode_attend(q, key, value, mask[:, 0], shared, interpret=interpret)
    return out.reshape(batch, 1, heads, width)


@pytest.mark.parametrize(
    ("batch", "heads", "kv_heads", "slots", "prefix"),
    [
        pytest.param(3, 7, 1, 9, 5, id="seven heads of one key"),
        pytest.param(8, 4, 2, BLOCK + 3, BLOCK + 1, id="several blocks, lanes together"),
        pytest.param(2, 4, 4, 2 * BLOCK, 0, id="no prefix"),
    ],
)
def test_interpreted_attention_equals_the_products(rng, batch, heads, kv_heads, slots, prefix):
    inputs = make(rng, batch, heads, kv_heads, slots, prefix)
    got = jax.jit(lambda *a: attend_by_kernels(*a, interpret=True))(*inputs)
    np.testing.assert_allclose(got, attend(*inputs), atol=2e-5)


def test_is_not_taken_where_it_would_not_run():
    assert not decode_kernels.takes(jnp.float32, 128)
    assert not decode_kernels.takes(jnp.bfloat16, 96)
    if jax.default_backend() == "cpu":
        assert not decode_kernels.takes(jnp.bfloat16, 128)


@pytest.mark.gpu
@pytest.mark.parametrize("prefix", [0, 50, 300])
@pytest.mark.parametrize("batch", [3, 256])
def test_compiled_attention_equals_the_products(rng, batch, prefix):
    inputs = make(rng, batch, 28, 4, 164, prefix, 128, jnp.bfloat16)
    got, want = jax.jit(attend_by_kernels)(*inputs), attend(*jax.tree.map(_wide, inputs))
    np.testing.assert_allclose(got.astype(jnp.float32), want, atol=2e-2)


PLAIN = TextConfig(
    vocab_size=8,
    hidden_size=48,
    intermediate_size=200,
    num_hidden_layers=2,
    num_attention_heads=6,
    num_key_value_heads=2,
    head_dim=64,
    rms_norm_eps=1e-6,
    rope_theta=1e4,
    mrope_section=(16, 8, 8),
    tie_word_embeddings=True,
)
EVERYWHERE = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def decoder_step(rng, config, rank, adapted, batch, per_lane, dtype, slots=7, shared=5):
    """A decoder of that configuration and the arguments of one step of it."""
    decoder = Decoder(config, rngs=nnx.Rngs(0), dtype=dtype, param_dtype=jnp.float32)

    def normal(*shape, dtype=jnp.float32):
        return jnp.asarray(rng.normal(size=shape), dtype)

    for path, layer in nnx.iter_modules(decoder):
        if isinstance(layer, Linear) and layer.bias is not None:
            layer.bias[...] = normal(*layer.bias.shape)
        if isinstance(layer, Linear) and path[-1] in adapted:
            *stacked, out_features, in_features = layer.weight.shape
            layer.lora_A = LoRAParam(normal(*stacked, rank, in_features) / 7)
            layer.lora_B = LoRAParam(normal(*stacked, out_features, rank) / 4)
            layer.lora_scale = 0.5
        if isinstance(layer, RMSNorm):
            layer.weight[...] += normal(*layer.weight.shape) / 4

    def cache(batch, slots):
        shape = batch, config.num_key_value_heads, slots, config.head_dim
        layers = (tuple(normal(*shape, dtype=dtype) for _ in range(config.num_hidden_layers)) for _ in range(2))
        return KVCache(*layers, positions=jnp.zeros((batch, slots), jnp.int32))

    index = np.array([i % 3 + 2 for i in range(batch)]) if per_lane else np.array(3)
    valid = np.arange(slots) <= np.broadcast_to(index, (batch,))[:, None]
    valid[:, 1] = False
    positions = jnp.asarray(rng.integers(0, 40, (batch, 3)), jnp.int32)
    arguments = (
        normal(batch, config.hidden_size),  # as what it is added to
        positions,
        cache(batch, slots),
        jnp.asarray(index, jnp.int32),
        jnp.asarray(valid),
        cache(1, shared),
    )
    return decoder, decoder.decode_layers(), arguments


def step_by_kernels(decoder, layers, arguments, interpret):
    embedding, positions, cache, index, valid, prefix = arguments
    view = decoder._view(positions[:, :, None], valid[:, None], decoder.config.rope_theta)
    step = jax.jit(partial(decoder._step_by_kernels, interpret=interpret))
    return step(layers, embedding, view, cache, index, prefix)


@pytest.mark.parametrize(
    ("changes", "rank", "adapted", "batch", "per_lane"),
    [
        pytest.param({}, 16, EVERYWHERE, 4, False, id="adapters everywhere"),
        pytest.param({}, 3, ("q_proj", "v_proj", "up_proj", "down_proj"), 3, True, id="some, own slots"),
        pytest.param({"qk_norm": True, "qkv_bias": False}, 0, (), 5, True, id="norms of heads, no adapter"),
    ],
)
def test_interpreted_step_equals_the_ordinary_one(rng, changes, rank, adapted, batch, per_lane):
    config = dataclasses.replace(PLAIN, **changes)
    decoder, layers, arguments = decoder_step(rng, config, rank, adapted, batch, per_lane, jnp.float32)
    want, cache = jax.jit(decoder.decode_step)(layers, *arguments)
    got, keys, values = step_by_kernels(decoder, layers, arguments, interpret=True)
    np.testing.assert_allclose(got, want, atol=2e-5)
    for ours, theirs in zip((*keys, *values), (*cache.k, *cache.v), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-5)


@pytest.mark.gpu
@pytest.mark.parametrize("adapted", [(), EVERYWHERE])
def test_compiled_step_equals_the_ordinary_one(rng, adapted):
    config = dataclasses.replace(
        PLAIN, hidden_size=896, num_attention_heads=14, head_dim=128, mrope_section=(32, 16, 16)
    )
    decoder, layers, arguments = decoder_step(rng, config, 16, adapted, 37, True, jnp.bfloat16, 164, 300)
    embedding, positions, cache, index, valid, prefix = arguments
    view = decoder._view(positions[:, :, None], valid[:, None], config.rope_theta)
    want, wanted_keys, wanted_values = decoder._step(layers, embedding, [view], cache, index, prefix)
    got, keys, values = step_by_kernels(decoder, layers, arguments, interpret=False)
    for ours, theirs in zip((got, *keys, *values), (want, *wanted_keys, *wanted_values), strict=True):
        difference = jnp.abs(_wide(ours) - _wide(theirs))
        assert difference.mean() < 2e-2 * jnp.abs(_wide(theirs)).mean()


def _wide(x):
    return x.astype(jnp.float32) if x.dtype == jnp.bfloat16 else x
