"""Products with an adapter beside the weights against the formula written out, values and derivatives."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from envs_jax.check.traces import equations
from vldac.models.products import times_adapted


@pytest.mark.parametrize(
    "outputs, inputs",
    [((24,), 8), ((8,), 24), ((8,), 8), ((24, 16), 8), ((8, 4, 4), 8), ((12, 4), 8)],
    ids=["widens", "narrows", "square", "two that widen", "three that do not", "one of each"],
)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_adapted_products_and_their_derivatives_are_those_of_two_products_each(rng, outputs, inputs, dtype):
    def normal(*shapes):
        return tuple(jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes)

    (x,), weights = normal((2, 5, inputs)), normal(*((size, inputs) for size in outputs))
    ranks = range(3, 3 + len(outputs))
    lows, ups = normal(*((rank, inputs) for rank in ranks)), normal(*zip(outputs, ranks, strict=True))
    towards = normal(*((2, 5, size) for size in outputs))

    def plainly(x, *factors):
        return [x @ weight.T + (x @ low.T) @ up.T for weight, low, up in zip(*factors, strict=True)]

    def value_and_grads(function, arguments):
        def loss(*arguments):
            return sum(
                (y * t).astype(jnp.float32).sum() for y, t in zip(function(*arguments), towards, strict=True)
            )

        return function(*arguments), jax.grad(loss, argnums=(0, 1, 2, 3))(*arguments)

    arguments = x, weights, lows, ups
    ours = jax.jit(lambda arguments: value_and_grads(times_adapted, arguments))(arguments)
    exact = value_and_grads(plainly, jax.tree.map(lambda x: x.astype(jnp.float32), arguments))
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(exact), strict=True):
        assert a.dtype == dtype and a.shape == b.shape
        tolerance = 1e-5 if dtype == jnp.float32 else 0.02 * float(jnp.abs(b).max())
        np.testing.assert_allclose(a.astype(jnp.float32), b, atol=tolerance, rtol=1e-5)


def test_a_product_that_nobody_uses_has_no_derivative(rng):
    x, weight, low, up = (jnp.asarray(rng.normal(size=s), jnp.float32) for s in ((5, 4), (8, 4), (2, 4), (8, 2)))

    def first(weights, lows, ups):
        return times_adapted(x, weights, lows, ups)[0].sum()

    into = jax.grad(first, argnums=(0, 1, 2))((weight,) * 2, (low,) * 2, (up,) * 2)
    assert all(part[0].any() and not part[1].any() for part in into)


@pytest.mark.parametrize("outputs, inputs", [(24, 8), (8, 24)])
def test_nothing_wide_is_written_twice_for_an_adapter(outputs, inputs):
    """Products of 24 columns: one forward where the output is as wide, one backward where the input is."""
    x, weight, low, up = (jnp.ones(shape) for shape in ((5, inputs), (outputs, inputs), (3, inputs), (outputs, 3)))
    total = lambda x, low, up: times_adapted(x, [weight], [low], [up])[0].sum()  # noqa: E731
    found = equations(jax.jit(jax.grad(total, argnums=(0, 1, 2))).trace(x, low, up).jaxpr.jaxpr)
    shapes = [e.outvars[0].aval.shape for e in found if e.primitive.name in ("dot_general", "add")]
    assert shapes.count((5, 24)) == 1


def test_two_layers_that_widen_write_their_input_and_its_derivative_once():
    """Beside gate and up: one product with both adapters' A, one input joined to it, one sum on the way back."""
    x, weight, low, up = (jnp.ones(shape) for shape in ((50, 8), (24, 8), (3, 8), (24, 3)))

    def total(x, lows, ups):
        return sum(y.sum() for y in times_adapted(x, [weight] * 2, lows, ups))

    gradients = jax.jit(jax.grad(total, argnums=(0, 1, 2)))
    found = list(equations(gradients.trace(x, (low, low), (up, up)).jaxpr.jaxpr))
    joined = [e.outvars[0].aval.shape for e in found if e.primitive.name == "concatenate"]
    assert joined.count((50, 14)) == 1
    made = [(e.primitive.name, e.outvars[0].aval.shape) for e in found]
    assert made.count(("dot_general", (50, 6))) == 1 and made.count(("dot_general", (50, 8))) == 1
