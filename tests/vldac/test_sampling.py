"""draw() against the probabilities that it is to have."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vldac.sampling import BLOCK, draw

DRAWS = 20_000


def drawn(logits: np.ndarray, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    keys = jax.random.split(jax.random.key(seed), DRAWS)
    tokens, log_probs = jax.jit(jax.vmap(draw, in_axes=(0, None)))(keys, jnp.asarray(logits, jnp.float32))
    return np.asarray(tokens), np.asarray(log_probs)


@pytest.mark.parametrize("size", [1, 5, BLOCK, BLOCK + 1, 3 * BLOCK - 1])
def test_tokens_come_as_often_as_they_are_probable(size):
    rng = np.random.default_rng(size)
    logits = rng.normal(scale=2.0, size=size)
    tokens, log_probs = drawn(logits)
    probabilities = np.exp(logits - logits.max())
    probabilities /= probabilities.sum()
    np.testing.assert_allclose(log_probs, np.log(probabilities)[tokens], atol=1e-5)
    counts = np.bincount(tokens, minlength=size)
    assert len(counts) == size
    # Of each entry, and of everything up to it: within five standard deviations.
    for share, found in ((probabilities, counts), (np.cumsum(probabilities), np.cumsum(counts))):
        deviation = np.sqrt(np.maximum(share * (1 - share), 1e-9) / DRAWS)
        assert np.all(np.abs(found / DRAWS - share) <= 5 * deviation + 2 / DRAWS)


def test_what_may_not_be_drawn_is_not():
    logits = np.random.default_rng(1).normal(size=4 * BLOCK)
    logits[:BLOCK] = -1e30  # a whole block, and the first and last entries of others
    logits[[BLOCK, 2 * BLOCK - 1, 3 * BLOCK, 4 * BLOCK - 1]] = -1e30
    assert np.all(logits[drawn(logits)[0]] > -1e30)


def test_a_single_entry_is_drawn_for_certain():
    logits = np.full(2 * BLOCK, -1e30)
    logits[BLOCK + 7] = 3.0
    tokens, log_probs = drawn(logits)
    assert np.all(tokens == BLOCK + 7) and np.all(log_probs == 0.0)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(1e-3, 200.0))
def test_is_total_and_finite(seed, spread):
    logits = np.random.default_rng(seed).normal(scale=spread, size=2 * BLOCK + 3).astype(np.float32)
    token, log_prob = _once(jax.random.key(seed), logits)
    assert 0 <= token < len(logits) and np.isfinite(log_prob)


_once = jax.jit(draw)
