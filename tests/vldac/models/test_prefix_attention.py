"""The kernels over a shared prefix against plain products: interpreted anywhere, and compiled on a GPU."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vldac.models import attention, prefix_attention
from vldac.models.attention import attend, causal_mask
from vldac.models.prefix_attention import BLOCK, prefix_attend


def make(rng, batch, asking, slots, heads, kv_heads, prefix, width, dtype=jnp.float32):
    """(query, key, value, mask, prefix): the last `asking` of `slots` causal slots, some of which are absent."""

    def normal(*shape):
        return jnp.asarray(rng.normal(size=shape), dtype)

    mask = causal_mask(jnp.asarray(rng.random((batch, slots)) < 0.7))[:, slots - asking :]
    shared = normal(1, kv_heads, prefix, width), normal(1, kv_heads, prefix, width)
    own = normal(batch, kv_heads, slots, width), normal(batch, kv_heads, slots, width)
    return normal(batch, asking, heads, width), *own, mask, shared


def value_and_gradients(function, query, key, value, mask, prefix):
    """(result, derivatives by query, key, value and prefix) of a sum whose terms all count differently."""

    def total(query, key, value, prefix):
        out = function(query, key, value, mask, prefix)
        return (out.astype(jnp.float32) * jnp.cos(jnp.arange(out.size).reshape(out.shape))).sum(), out

    return jax.jit(jax.grad(total, argnums=(0, 1, 2, 3), has_aux=True))(query, key, value, prefix)


def assert_equal(ours, exact, relative):
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(exact), strict=True):
        assert a.shape == b.shape
        b = np.asarray(b, np.float32)
        np.testing.assert_allclose(np.asarray(a, np.float32), b, atol=relative * np.abs(b).max(), rtol=0)


@pytest.mark.parametrize(
    ("batch", "asking", "slots", "heads", "kv_heads", "prefix", "width"),
    [
        pytest.param(2, 9, 9, 4, 4, 5, 16, id="less than a block of everything"),
        pytest.param(3, BLOCK + 6, BLOCK + 6, 6, 2, BLOCK + 1, 16, id="blocks across heads, ends of all kinds"),
        pytest.param(2, BLOCK + 1, 2 * BLOCK + 3, 7, 1, 2 * BLOCK, 32, id="only the last slots ask"),
    ],
)
def test_interpreted_equals_the_products(rng, batch, asking, slots, heads, kv_heads, prefix, width):
    inputs = make(rng, batch, asking, slots, heads, kv_heads, prefix, width)
    ours = value_and_gradients(partial(prefix_attend, interpret=True), *inputs)
    assert_equal(ours, value_and_gradients(attend, *inputs), 2e-6)


def test_a_lane_that_sees_nothing_of_its_own_takes_nothing_of_it(rng):
    """Nor does a scale of another size, or what lies in absent slots, matter."""
    query, key, value, mask, prefix = make(rng, 2, 5, 5, 4, 2, 3, 16)
    mask = mask.at[0].set(False).at[1, :, 4].set(False)
    key, value = key.at[1, :, 4].set(1e4), value.at[1, :, 4].set(1e4)
    inputs = query, key, value, mask, prefix
    ours = value_and_gradients(partial(prefix_attend, scale=0.7, interpret=True), *inputs)
    assert_equal(ours, value_and_gradients(partial(attend, scale=0.7), *inputs), 2e-6)
    assert not np.any(ours[0][1][0]) and not np.any(ours[0][2][0])


@pytest.mark.parametrize("own, shared", [(100.0, 1.0), (1.0, 100.0), (-100.0, -100.0)])
def test_huge_scores_stay_finite(rng, own, shared):
    query, key, value, mask, prefix = make(rng, 2, 5, 5, 4, 2, 3, 16)
    inputs = query * 10, key * own, value, mask, (prefix[0] * shared, prefix[1])
    ours = value_and_gradients(partial(prefix_attend, interpret=True), *inputs)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(ours))
    assert_equal(ours[1], attend(*inputs), 1e-5)


@settings(max_examples=15, deadline=None)
@given(st.data())
def test_what_the_kernels_are_told_of_a_mask_is_the_mask(data):
    """Bit by bit; and no block that is seen lies behind `last` or before `first`."""
    slots, keys, group = (data.draw(st.integers(1, most)) for most in (2 * BLOCK, 3 * BLOCK, 3))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    mask = rng.random((2, slots, keys)) < data.draw(st.sampled_from([0.0, 0.01, 0.5, 1.0]))
    bits, last, first = (np.asarray(x) for x in prefix_attention._plan(jnp.asarray(mask), group))
    assert bits.shape[1] % 2 == 0
    unpacked = np.unpackbits(bits.swapaxes(1, 2).copy().view(np.uint8), axis=2, bitorder="little")
    np.testing.assert_array_equal(unpacked[:, :, :keys], mask)
    assert not unpacked[:, :, keys:].any()
    for lane in range(2):
        rows = np.tile(mask[lane], (group, 1))  # row r is slot r mod S
        for block, up_to in enumerate(last[lane]):
            seen = np.flatnonzero(rows[block * BLOCK : (block + 1) * BLOCK].any(axis=0))
            assert up_to == (seen.max() // BLOCK + 1 if len(seen) else 0)
        for block, begin in enumerate(first[lane]):
            asking = np.flatnonzero(mask[lane, :, block * BLOCK : (block + 1) * BLOCK].any(axis=1))
            assert begin == (asking.min() // BLOCK if len(asking) else -(-slots // BLOCK))


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("heads", "kv_heads", "width"), [(12, 2, 128), (28, 4, 128), (14, 2, 64)], ids=["2B", "7B", "half as wide"]
)
@pytest.mark.parametrize("asking", [162, 120])
def test_compiled_equals_the_products(rng, heads, kv_heads, width, asking):
    assert attention.has_kernel(jnp.bfloat16, width) and prefix_attention.fits(width)
    inputs = make(rng, 8, asking, 162, heads, kv_heads, 300, width, jnp.bfloat16)
    wide = jax.tree.map(lambda x: x if x.dtype == bool else x.astype(jnp.float32), inputs)
    with jax.default_matmul_precision("float32"):
        exact = value_and_gradients(attend, *wide)
    assert_equal(value_and_gradients(attend, *inputs), exact, 0.02)
