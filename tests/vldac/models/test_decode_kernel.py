"""decode_attend() against attend(): the kernels' bodies interpreted anywhere, and compiled on a GPU."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vldac.models.attention import attend
from vldac.models.decode_kernel import BLOCK, decode_attend, takes


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


@pytest.mark.parametrize(
    ("batch", "heads", "kv_heads", "slots", "prefix"),
    [
        pytest.param(3, 7, 1, 9, 5, id="seven heads of one key"),
        pytest.param(8, 4, 2, BLOCK + 3, BLOCK + 1, id="several blocks, lanes together"),
        pytest.param(2, 4, 4, 2 * BLOCK, 0, id="no prefix"),
    ],
)
def test_interpreted_equals_the_products(rng, batch, heads, kv_heads, slots, prefix):
    inputs = make(rng, batch, heads, kv_heads, slots, prefix)
    got = jax.jit(lambda *a: decode_attend(*a, interpret=True))(*inputs)
    np.testing.assert_allclose(got, attend(*inputs), atol=2e-5)


def test_is_not_taken_where_it_would_not_run():
    assert not takes(jnp.zeros((2, 1, 4, 128), jnp.float32))
    assert not takes(jnp.zeros((2, 1, 4, 96), jnp.bfloat16))
    assert not takes(jnp.zeros((2, 2, 4, 128), jnp.bfloat16))
    if jax.default_backend() == "cpu":
        assert not takes(jnp.zeros((2, 1, 4, 128), jnp.bfloat16))


@pytest.mark.gpu
@pytest.mark.parametrize("prefix", [0, 50, 300])
@pytest.mark.parametrize("batch", [3, 256])
def test_compiled_equals_the_products(rng, batch, prefix):
    inputs = make(rng, batch, 28, 4, 164, prefix, 128, jnp.bfloat16)
    assert takes(inputs[0])
    got, want = jax.jit(decode_attend)(*inputs), attend(*(x for x in jax.tree.map(_wide, inputs)))
    np.testing.assert_allclose(got.astype(jnp.float32), want, atol=2e-2)


def _wide(x):
    return x.astype(jnp.float32) if x.dtype == jnp.bfloat16 else x
