"""score() against a softmax written out in NumPy and JAX's own derivative of it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envs_jax.check.traces import equations
from vldac import scoring
from vldac.scoring import BANNED


def score(hidden, weight, tokens, allowed, temperature=1.0):
    """With every row's own tokens allowed."""
    return scoring.score(hidden, weight, tokens, lambda rows: rows, (allowed,), temperature)


def drawn(rows: int, width: int, size: int, seed: int = 0, share: float = 0.7):
    """(hidden, weight, tokens, allowed): every row's token is allowed."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(size, size=rows)
    allowed = rng.random((rows, size)) < share
    allowed[np.arange(rows), tokens] = True
    hidden, weight = (rng.normal(size=(n, width)).astype(np.float32) for n in (rows, size))
    return jnp.asarray(hidden), jnp.asarray(weight), jnp.asarray(tokens), jnp.asarray(allowed)


def plainly(hidden, weight, tokens, allowed, temperature):
    """The same from `log_softmax`, for JAX to differentiate."""
    logits = jnp.where(allowed, hidden.astype(jnp.float32) @ weight.astype(jnp.float32).T / temperature, BANNED)
    log_probs = jax.nn.log_softmax(logits)
    return jnp.take_along_axis(log_probs, tokens[:, None], axis=1)[:, 0], -(jnp.exp(log_probs) * log_probs).sum(1)


@settings(max_examples=20, deadline=None)
@given(
    st.integers(1, 5),
    st.integers(1, 4),
    st.integers(1, 9),
    st.integers(0, 99),
    st.sampled_from([0.0, 0.5, 1.0]),
    st.sampled_from([0.5, 1.0, 3.0]),
)
def test_log_probabilities_and_entropy_are_those_of_a_softmax(rows, width, size, seed, share, temperature):
    hidden, weight, tokens, allowed = drawn(rows, width, size, seed, share)
    logits = np.asarray(hidden, np.float64) @ np.asarray(weight, np.float64).T / temperature
    for row, (log_prob, entropy) in enumerate(np.stack(score(hidden, weight, tokens, allowed, temperature), 1)):
        mine = np.asarray(allowed[row])
        shifted = np.exp(logits[row] - logits[row][mine].max()) * mine
        probabilities = shifted / shifted.sum()
        expected = -sum(p * np.log(p) for p in probabilities if p > 0)
        assert log_prob == pytest.approx(np.log(probabilities[tokens[row]]), abs=1e-4)
        assert entropy == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("at_once", [100, 6, 4, 1])  # rows whose logits are held: 1, 1, 2, 6 chunks
@pytest.mark.parametrize("learnt", [(0,), (1,), (0, 1)], ids=["hidden", "weight", "both"])
def test_the_derivative_is_that_of_a_softmax_whichever_factor_is_learnt(learnt, at_once, monkeypatch):
    monkeypatch.setattr(scoring, "LOGITS_BYTES", 4 * 40 * at_once)
    *factors, tokens, allowed = drawn(6, 5, 40, seed=3)
    outer = jnp.linspace(-2.0, 1.0, 6)  # a loss's own derivative, different for every token

    def loss(function):
        return lambda *factors: (function(*factors, tokens, allowed, 0.7)[0] * outer).sum()

    ours = jax.jit(jax.grad(loss(score), argnums=learnt))(*factors)
    expected = jax.grad(loss(plainly), argnums=learnt)(*factors)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5, rtol=1e-4), ours, expected)


def test_an_all_but_certain_token_keeps_its_small_derivative_in_bfloat16():
    """1 - p is 1e-4 there: rounded to bfloat16, p alone would be 1, and the derivative 0 or far too large."""
    weight = jnp.asarray([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.5]], jnp.bfloat16)
    hidden = jnp.asarray([[9.0, 0.0]], jnp.bfloat16)
    tokens, allowed = jnp.zeros(1, int), jnp.ones((1, 3), bool)
    ours = jax.grad(lambda h: score(h, weight, tokens, allowed)[0].sum())(hidden)
    exact = jax.grad(lambda h: plainly(h, weight, tokens, allowed, 1.0)[0].sum())(hidden.astype(jnp.float32))
    assert 1e-5 < np.abs(exact).min() < 1e-3
    np.testing.assert_allclose(ours.astype(jnp.float32), exact, rtol=1e-2)


def test_a_banned_token_has_no_derivative():
    hidden, weight, tokens, allowed = drawn(3, 4, 8, seed=5)
    allowed = allowed.at[0, tokens[0]].set(False)

    def first(hidden, weight):
        return score(hidden, weight, tokens, allowed)[0][0]

    def others(hidden, weight):  # of the sum behind it, which is all that a banned token's logarithm depends on
        logits = jnp.where(allowed[0], weight @ hidden[0], BANNED)
        return -jax.nn.logsumexp(logits)

    for learnt in (0, 1):
        ours, expected = (jax.grad(f, argnums=learnt)(hidden, weight) for f in (first, others))
        np.testing.assert_allclose(ours, expected, atol=1e-5)


@pytest.mark.parametrize("learnt", [(0,), (0, 1)], ids=["hidden", "both"])
def test_chunks_are_given_nothing_as_long_as_the_vocabulary_but_the_weight(learnt, monkeypatch):
    """JAX's own derivative of a loop takes what is allowed, zeros and bans out of it, an array for each row."""
    monkeypatch.setattr(scoring, "LOGITS_BYTES", 4 * 40 * 2)
    hidden, weight, tokens, _ = drawn(6, 5, 40)

    def loss(hidden, weight):
        allows = lambda token: jnp.arange(40) >= token[:, None] % 3  # noqa: E731
        return scoring.score(hidden, weight, tokens, allows, (tokens,))[0].sum()

    found = equations(jax.make_jaxpr(jax.grad(loss, argnums=learnt))(hidden, weight).jaxpr)
    given = [v.aval.shape for e in found if e.primitive.name == "scan" for v in e.invars]
    assert (3, 2, 5) in given
    assert {shape for shape in given if 40 in shape} == {(40, 5)}


def test_under_a_frozen_unembedding_the_backward_pass_makes_no_logits():
    hidden, weight, tokens, allowed = drawn(6, 5, 40)

    def products(learnt):
        loss = lambda h, w: score(h, w, tokens, allowed)[0].sum()  # noqa: E731
        found = equations(jax.make_jaxpr(jax.grad(loss, argnums=learnt))(hidden, weight).jaxpr)
        return sum(equation.primitive.name == "dot_general" for equation in found)

    assert products((0,)) == 2  # the logits, and what was expected
    assert products((0, 1)) == 3  # the logits, and two derivatives


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_the_derivatives_are_products_of_the_computations_dtype(dtype):
    """A float32 product of that length would take several times as long, for a factor rounded everywhere else."""
    hidden, weight, tokens, allowed = drawn(6, 5, 40)
    loss = lambda h, w: score(h, w, tokens, allowed)[0].sum()  # noqa: E731
    for learnt in ((0,), (0, 1)):
        gradient = jax.grad(loss, argnums=learnt)
        found = equations(jax.make_jaxpr(gradient)(hidden.astype(dtype), weight.astype(dtype)).jaxpr)
        factors = {v.aval.dtype for e in found if e.primitive.name == "dot_general" for v in e.invars}
        assert factors == {jnp.dtype(dtype)}


def test_no_gradient_flows_through_the_entropy():
    hidden, weight, tokens, allowed = drawn(3, 4, 8)
    assert not np.any(jax.grad(lambda h: score(h, weight, tokens, allowed)[1].sum())(hidden))
