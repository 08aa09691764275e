"""Which tokens may be drawn, and how long the programs are that read a conversation."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from vldac.generate.lanes import BANNED, bucket, nucleus


def sorted_nucleus(logits: np.ndarray, top_p: float) -> np.ndarray:
    """The slow way: the likeliest first, until they are enough; and those as likely as the last."""
    probabilities = np.asarray(jax.nn.softmax(jnp.asarray(logits)), np.float64)
    order = np.argsort(-probabilities)
    last = order[np.searchsorted(np.cumsum(probabilities[order]), top_p)]
    return probabilities >= probabilities[last]


def test_the_nucleus_is_that_of_sorting():
    rng = np.random.default_rng(0)
    for top_p in (0.05, 0.3, 0.9, 0.99):
        logits = rng.normal(0, 3, (4, 300)).astype(np.float32)
        kept = np.asarray(nucleus(jnp.asarray(logits), jnp.full(4, top_p))) > BANNED
        np.testing.assert_array_equal(kept, [sorted_nucleus(row, top_p) for row in logits])


def test_worked_example_and_the_ends():
    logits = jnp.log(jnp.asarray([[0.5, 0.3, 0.2]]))
    for top_p, wanted in ((0.6, [1, 1, 0]), (0.4, [1, 0, 0]), (1e-9, [1, 0, 0]), (1.0, [1, 1, 1])):
        kept = nucleus(logits, jnp.asarray([top_p], jnp.float32))[0] > BANNED
        assert kept.tolist() == wanted, top_p
    alike = nucleus(jnp.zeros((1, 4)), jnp.asarray([0.3]))
    assert (alike > BANNED).all(), "of equally likely tokens all stay"


def test_what_can_not_be_written_stays_so():
    logits = jnp.asarray([[BANNED, 1.0, BANNED, 0.0]])
    assert (nucleus(logits, jnp.asarray([0.999999])) > BANNED)[0].tolist() == [False, True, False, True]


@given(st.integers(1, 100_000), st.integers(100_000, 200_000))
def test_a_bucket_holds_what_it_is_for_and_wastes_little(length, most):
    size = bucket(length, most)
    assert length <= size <= most and (size <= 64 or size < 1.5 * length)


def test_buckets_are_few():
    assert len({bucket(n, 4096) for n in range(1, 4097)}) == 13
    assert bucket(4000, 4001) == 4001
