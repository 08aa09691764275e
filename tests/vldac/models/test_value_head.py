"""The critic's head."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from vldac.models import ValueHead


def test_a_fresh_head_values_everything_at_zero(rng):
    head = ValueHead(16, (32, 24), rngs=nnx.Rngs(0))
    for shape in ((16,), (3, 16), (2, 3, 16)):
        value = head(jnp.asarray(rng.normal(size=shape), jnp.float32))
        assert value.shape == shape[:-1] and value.dtype == jnp.float32
        np.testing.assert_array_equal(value, 0)


def test_it_is_float32_whatever_comes_in(rng):
    head = ValueHead(16, (32,), rngs=nnx.Rngs(0))
    head.out.kernel[...] = jnp.ones((32, 1))
    hidden = jnp.asarray(rng.normal(size=(5, 16)), jnp.bfloat16)
    assert {x.dtype for x in jax.tree.leaves(nnx.state(head))} == {jnp.dtype(jnp.float32)}
    assert head(hidden).dtype == jnp.float32
    np.testing.assert_array_equal(head(hidden), head(hidden.astype(jnp.float32)))


def test_it_is_linear_relu_linear(rng):
    head = ValueHead(6, (8, 4), rngs=nnx.Rngs(0))
    head.out.kernel[...] = jnp.asarray(rng.normal(size=(4, 1)), jnp.float32)
    x = wanted = rng.normal(size=(7, 6)).astype(np.float32)
    for layer in (*head.layers, head.out):
        wanted = wanted @ np.asarray(layer.kernel[...]) + np.asarray(layer.bias[...])
        if layer is not head.out:
            wanted = np.maximum(wanted, 0)
    assert np.abs(wanted).max() > 0.1
    np.testing.assert_allclose(head(jnp.asarray(x)), wanted[:, 0], atol=1e-5)


def test_it_learns_from_its_first_step_on(rng):
    """A zero last layer has a gradient; a zero layer before it would have none."""
    head = ValueHead(6, (8,), rngs=nnx.Rngs(0))
    x = jnp.asarray(rng.normal(size=(7, 6)), jnp.float32)
    gradient = nnx.grad(lambda head: jnp.square(head(x) - 1).sum())(head)
    assert np.abs(gradient.out.kernel[...]).max() > 0.1


def test_default_widths_are_the_published_ones():
    head = nnx.eval_shape(lambda: ValueHead(1536, rngs=nnx.Rngs(0)))
    assert [layer.kernel.shape for layer in (*head.layers, head.out)] == [(1536, 3072), (3072, 2048), (2048, 1)]
