"""attend() against a softmax written out head by head in NumPy."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vldac.models import attention
from vldac.models.attention import attend, causal_mask

B, S, T, P, D = 3, 4, 7, 5, 6


def softmax_attention(query, key, value, mask, prefix):
    """One batch row, one query, one head at a time, in float64."""
    out = np.zeros(query.shape)
    heads, kv_heads = query.shape[2], key.shape[1]
    for b, s, n in np.ndindex(query.shape[:3]):
        k = n // (heads // kv_heads)
        keys, values = key[b, k][mask[b, s]], value[b, k][mask[b, s]]
        if prefix is not None:
            keys, values = np.concatenate([prefix[0][0, k], keys]), np.concatenate([prefix[1][0, k], values])
        scores = keys @ query[b, s, n].astype(np.float64) / np.sqrt(query.shape[-1])
        weights = np.exp(scores - scores.max())
        out[b, s, n] = weights @ values / weights.sum()
    return out


def make(rng, heads, kv_heads):
    def normal(*shape):
        return rng.normal(size=shape).astype(np.float32)

    query, key, value = normal(B, S, heads, D), normal(B, kv_heads, T, D), normal(B, kv_heads, T, D)
    prefix = normal(1, kv_heads, P, D), normal(1, kv_heads, P, D)
    mask = rng.random((B, S, T)) < 0.5
    mask[..., 2] = True
    return query, key, value, mask, prefix


def on_device(*arrays):
    return jax.tree.map(jnp.asarray, arrays)


@pytest.mark.parametrize(("heads", "kv_heads"), [(1, 1), (4, 4), (4, 2), (6, 2), (6, 1)])
@pytest.mark.parametrize("with_prefix", [False, True])
def test_equals_a_plain_softmax(rng, heads, kv_heads, with_prefix):
    query, key, value, mask, prefix = make(rng, heads, kv_heads)
    prefix = prefix if with_prefix else None
    ours = jax.jit(attend)(*on_device(query, key, value, mask, prefix))
    np.testing.assert_allclose(ours, softmax_attention(query, key, value, mask, prefix), atol=2e-6, rtol=0)


def test_no_mask_sees_everything(rng):
    query, key, value, mask, prefix = make(rng, 4, 2)
    ours = attend(*on_device(query, key, value), None, on_device(*prefix))
    everything = np.ones_like(mask)
    np.testing.assert_allclose(ours, softmax_attention(query, key, value, everything, prefix), atol=2e-6, rtol=0)


def test_gradients_equal_those_of_one_softmax_over_a_copied_prefix(rng):
    query, key, value, mask, prefix = on_device(*make(rng, 4, 2))
    target = jnp.asarray(rng.normal(size=query.shape), jnp.float32)

    def shared(query, key, value, prefix):
        return (attend(query, key, value, mask, prefix) * target).sum()

    def copied(query, key, value, prefix):
        key = jnp.concatenate([jnp.repeat(prefix[0], B, axis=0), key], axis=2)
        value = jnp.concatenate([jnp.repeat(prefix[1], B, axis=0), value], axis=2)
        seen = jnp.concatenate([jnp.ones((B, S, P), bool), mask], axis=-1)
        key, value = jnp.repeat(key, 2, axis=1), jnp.repeat(value, 2, axis=1)
        scores = jnp.einsum("bsnd,bntd->bnst", query, key) / D**0.5
        weights = jax.nn.softmax(jnp.where(seen[:, None], scores, -jnp.inf), axis=-1)
        return (jnp.einsum("bnst,bntd->bsnd", weights, value) * target).sum()

    gradients = (jax.jit(jax.grad(f, argnums=(0, 1, 2, 3))) for f in (shared, copied))
    ours, wanted = (gradient(query, key, value, prefix) for gradient in gradients)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=5e-6, rtol=0), ours, wanted)


def test_a_query_that_sees_nothing_is_finite_and_so_is_its_gradient(rng):
    query, key, value, mask, _ = make(rng, 4, 2)
    mask[1] = False
    mask[2, 0] = False

    def total(query, key, value):
        return attend(query, key, value, jnp.asarray(mask)).sum()

    value_and_gradients = jax.jit(jax.value_and_grad(total, argnums=(0, 1, 2)))(*on_device(query, key, value))
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(value_and_gradients))


def test_a_query_that_sees_only_the_prefix_takes_nothing_from_its_own_slots(rng):
    query, key, value, mask, prefix = make(rng, 4, 2)
    mask[0] = False
    ours = attend(*on_device(query, key, value, mask, prefix))
    np.testing.assert_allclose(ours, softmax_attention(query, key, value, mask, prefix), atol=2e-6, rtol=0)


def test_huge_scores_do_not_overflow_in_either_block(rng):
    query, key, value, mask, prefix = make(rng, 2, 1)
    for own, shared in ((100.0, 1.0), (1.0, 100.0), (-100.0, 100.0)):
        arguments = query * 100, key * own, value, mask, (prefix[0] * shared, prefix[1])
        np.testing.assert_allclose(
            attend(*on_device(*arguments)), softmax_attention(*arguments), atol=1e-5, rtol=0
        )


def test_bfloat16_stays_near_float32_and_keeps_its_dtype(rng):
    arguments = make(rng, 4, 2)
    halved = jax.tree.map(lambda x: x if x.dtype == bool else jnp.asarray(x, jnp.bfloat16), arguments)
    ours = attend(*jax.tree.map(jnp.asarray, halved))
    assert ours.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(ours, np.float32), softmax_attention(*arguments), atol=0.03, rtol=0)


def test_causal_mask_worked_example():
    rows = causal_mask(jnp.array([[True, False, True], [True, True, True]])).astype(int)
    assert rows.tolist() == [[[1, 0, 0], [1, 0, 0], [1, 0, 1]], [[1, 0, 0], [1, 1, 0], [1, 1, 1]]]


def test_a_windows_edge_cuts_an_images_own_tokens_too(rng):
    """Written out slot by slot: causal or of one image, less than `window` positions back, and present."""
    valid = rng.random((3, 12)) < 0.8
    positions = np.cumsum(valid, axis=1) - valid
    images = np.array([[-1, 0, 0, 0, 0, 0, -1, 1, 1, -1, 2, 2]] * 3)
    for window in (3, None):
        ours = causal_mask(*on_device(valid, positions.astype(np.int32)), window, jnp.asarray(images, jnp.int32))
        for lane, query, key in np.ndindex(3, 12, 12):
            of_one_image = images[lane, query] == images[lane, key] >= 0
            near = window is None or positions[lane, query] - positions[lane, key] < window
            seen = (key <= query or of_one_image) and near and valid[lane, key]
            assert ours[lane, query, key] == seen


@pytest.mark.parametrize("slots", [2, 5])
@pytest.mark.parametrize("heads", [6, 2])
def test_what_the_kernel_is_given_means_the_same(rng, monkeypatch, heads, slots):
    """Plain operations in the kernel's place, which wants even numbers of slots."""
    query, key, value, prefix = on_device(
        rng.normal(size=(B, slots, heads, D)).astype(np.float32),
        *(rng.normal(size=(B, 2, slots, D)).astype(np.float32) for _ in range(2)),
        tuple(rng.normal(size=(1, 2, P, D)).astype(np.float32) for _ in range(2)),
    )
    mask = causal_mask(jnp.asarray(rng.random((B, slots)) < 0.7))

    def run(query, key, value, prefix):
        out = attend(query, key, value, mask, prefix)
        return (out * jnp.cos(jnp.arange(out.size).reshape(out.shape))).sum(), out

    def both():  # a function of its own for each: nothing is taken from a cache
        return jax.grad(lambda *arguments: run(*arguments), argnums=(0, 1, 2, 3), has_aux=True)(
            query, key, value, prefix
        )

    want = both()
    plain, given = jax.nn.dot_product_attention, []

    def kernel(query, key, value, implementation, **options):
        given.append(query.shape)
        return plain(query, key, value, **options)

    monkeypatch.setattr(attention, "has_kernel", lambda *_: True)
    monkeypatch.setattr(jax.nn, "dot_product_attention", kernel)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5, rtol=0), both(), want)
    assert given == [(B, slots + slots % 2, heads, D)]


@pytest.mark.gpu
@pytest.mark.parametrize("slots", [6, 7])
@pytest.mark.parametrize("with_prefix", [False, True])
def test_the_kernel_equals_the_products(rng, monkeypatch, slots, with_prefix):
    """Values and gradients, rows that see nothing left out; odd numbers of slots, which cuDNN does not take."""

    def normal(*shape):
        return jnp.asarray(rng.normal(size=shape), jnp.bfloat16)

    query = normal(B, slots, 6, 64)
    key, value, *prefix = (
        normal(B, 2, slots, 64),
        normal(B, 2, slots, 64),
        normal(1, 2, P, 64),
        normal(1, 2, P, 64),
    )
    valid = jnp.asarray(rng.random((B, slots)) < 0.7).at[:, 0].set(True)
    mask = causal_mask(valid)

    def run(query, key, value, prefix):
        out = attend(query, key, value, mask, prefix).astype(jnp.float32) * valid[..., None, None]
        return (out * jnp.cos(jnp.arange(out.size).reshape(out.shape))).sum(), out

    arguments = query, key, value, prefix if with_prefix else None
    assert attention.has_kernel(query.dtype, 64)
    got = jax.jit(jax.grad(run, argnums=(0, 1, 2), has_aux=True))(*arguments)
    monkeypatch.setattr(attention, "has_kernel", lambda *_: False)
    want = jax.jit(jax.grad(lambda *a: run(*a), argnums=(0, 1, 2), has_aux=True))(*arguments)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        a, b = np.asarray(a, np.float32), np.asarray(b, np.float32)
        np.testing.assert_allclose(a, b, atol=0.02 * np.abs(b).max())
