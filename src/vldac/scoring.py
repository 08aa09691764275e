"""Log-probabilities of tokens that are given, in float32, and what they change by.

* Where the unembedding is frozen, as under an adapter, the derivative by a hidden state is a fixed direction times
  the derivative by the result: it is found while the logits are there, and nothing as long as the vocabulary is
  kept or computed again. (The idea of Liger Kernel's fused cross entropy, arXiv 2410.10989, for a loss whose own
  derivative is not known yet.)
* Sums are taken in as few passes over the logits as there can be: a row is 600 kB in a published model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Bool, Float, Int, Shaped

from vldac.mesh import batch_ways, shard_batch
from vldac.models.products import times

LOGITS_BYTES = 2**29  # of float32 logits that the training pass holds at a time, see `Policy`
BANNED = -1e30  # logit of a token that can not be sampled; finite, so that no NaN arises from inf - inf


def logits_rows(vocab_size: int) -> int:
    """Tokens whose logits the training pass holds at a time."""
    return max(1, LOGITS_BYTES // (4 * vocab_size))


def score(
    hidden: Float[Array, "n d"],
    weight: Float[Array, "v d"],
    tokens: Int[Array, " n"],
    allowed: Callable[..., Bool[Array, "r v"]],
    states: Sequence[Shaped[Array, "n ..."]] = (),
    temperature: float = 1.0,
) -> tuple[Float[Array, " n"], Float[Array, " n"]]:
    """Of softmax(hidden weight^T / temperature) over what is allowed: each token's log-probability; the entropy.

    Chunk after chunk of rows, so that there are never more logits than `LOGITS_BYTES`.

    Args:
      hidden: in the dtype of the computation: products are of that, their sums float32.
      weight: the unembedding; its derivative is summed in its own dtype.
      tokens: one of each row.
      allowed: gives, from some rows of each of `states`, what may be sampled there; others have probability 0.
        Worked example, V = 3: [1 0 1] over logits [0 5 0] -> [1/2 0 1/2].
      states: what `allowed` reads.
      temperature: above 0.

    Returns:
      (log_probs, entropy in nats), float32. The log-probabilities are differentiable in `hidden` and in `weight`;
      no gradient flows through the entropy. A token that is not allowed has `BANNED` less the sum's logarithm.
    """
    rows, ways = len(tokens), batch_ways()
    chunks = -(-rows // logits_rows(len(weight)))
    chunk = -(-rows // chunks)  # as even as they come: fewer rows of padding
    chunk = -(-chunk // ways) * ways  # each device scores its share of every chunk

    def cut(x):
        x = jnp.pad(x, ((0, chunks * chunk - rows), *[(0, 0)] * (x.ndim - 1)))
        return shard_batch(x.reshape(chunks, chunk, *x.shape[1:]), axis=1)

    hidden, tokens, states = jax.tree.map(cut, (hidden, tokens, tuple(states)))
    log_probs, entropy = _score(hidden, weight, tokens, states, allowed, temperature)
    return log_probs.reshape(-1)[:rows], jax.lax.stop_gradient(entropy.reshape(-1)[:rows])


# The derivative is written out around the loop over chunks, not in it: of a loop that JAX differentiates by
# itself, all that does not depend on parameters is computed before it and kept, zeros as long as the logits too.


@partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def _score(hidden, weight, tokens, states, allowed, temperature):
    """As `score`, of rows in chunks: leaves [C, n, ...]."""

    def of_chunk(hidden, tokens, states):
        return _sums(_logits(hidden, weight, temperature), tokens, allowed(*states))[:2]

    return _by_chunk(of_chunk, hidden, tokens, states)


def _forward(hidden, weight, tokens, states, allowed, temperature):
    learns_weight = weight.perturbed
    hidden, weight, tokens, states = jax.tree.map(lambda x: x.value, (hidden, weight, tokens, states))
    if learns_weight and len(tokens) > 1:  # chunks' logits do not fit together: they are made once more
        results = _score(hidden, weight, tokens, states, allowed, temperature)
        return results, (hidden, weight, (tokens, states))

    def of_chunk(hidden, tokens, states):
        *results, slope = _with_slope(hidden, weight, tokens, states, allowed, temperature)
        if learns_weight:  # its derivative adds up rows, each times what is not known yet
            return results, slope
        return results, slope @ weight.astype(slope.dtype)

    results, kept = _by_chunk(of_chunk, hidden, tokens, states)
    return tuple(results), (hidden, weight, kept) if learns_weight else (kept,)


def _backward(allowed, temperature, kept, gradients):
    gradient, _ = gradients
    if isinstance(gradient, SymbolicZero):
        gradient = jnp.zeros(gradient.shape, gradient.dtype)
    if len(kept) == 1:
        (direction,) = kept
        return (gradient[..., None] * direction).astype(direction.dtype), None, None, None
    hidden, weight, slopes = kept

    def of_chunk(total, chunk):
        gradient, hidden, slope = chunk
        if isinstance(slope, tuple):
            *_, slope = _with_slope(hidden, weight, *slope, allowed, temperature)
        slope = (gradient[:, None] * slope).astype(hidden.dtype)
        total += jnp.einsum("nv,nd->vd", slope, hidden, preferred_element_type=weight.dtype)
        return total, slope @ weight.astype(slope.dtype)

    into_weight, into_hidden = jax.lax.scan(of_chunk, jnp.zeros_like(weight), (gradient, hidden, slopes))
    return into_hidden, into_weight, None, None


_score.defvjp(_forward, _backward, symbolic_zeros=True)


def _by_chunk(of_chunk, *parts):
    if len(parts[0]) > 1:
        return jax.lax.map(lambda part: of_chunk(*part), parts)
    results = of_chunk(*jax.tree.map(lambda x: x[0], parts))
    return jax.tree.map(lambda x: x[None], results)


def _with_slope(hidden, weight, tokens, states, allowed, temperature):
    """(log-probabilities, entropy, and what the former change by, by the product with `weight`)."""
    logits, may = _logits(hidden, weight, temperature), allowed(*states)
    log_probs, entropy, log_total = _sums(logits, tokens, may)
    slope = _slope(logits, log_total, tokens, may) / temperature
    return log_probs, entropy, slope.astype(hidden.dtype)


# Below, what is not allowed is left out of each sum by itself. Masked logits that all of them share would be
# written to memory and read again, which takes as long as three of the sums.


def _logits(hidden, weight, temperature):
    # The barrier is for a GPU: sums over what a product writes are taken in one kernel only where the compiler
    # does not see the product.
    logits = times(hidden, weight.astype(hidden.dtype), jnp.float32)
    return jax.lax.optimization_barrier(logits) / temperature


def _sums(logits, tokens, allowed):
    """(log-probability of each token, entropy, log of the sum of exponentials)."""
    peak = jnp.where(allowed, logits, BANNED).max(axis=1)
    weights = jnp.where(allowed, jnp.exp(logits - peak[:, None]), 0.0)
    total = weights.sum(axis=1)
    log_total = peak + jnp.log(total)
    entropy = log_total - (weights * logits).sum(axis=1) / total
    at = tokens[:, None]
    chosen, may = (jnp.take_along_axis(x, at, axis=1)[:, 0] for x in (logits, allowed))
    chosen = jnp.where(may, chosen, BANNED)
    return chosen - log_total, entropy, log_total


def _slope(logits, log_total, tokens, allowed):
    """d log-probability / d logits: the token less what was expected.

    In one piece: for a token that is all but certain the two nearly cancel, which must happen before any rounding.
    """
    return jnp.where(allowed, _is(tokens, logits) - jnp.exp(logits - log_total[:, None]), 0.0)


def _is(tokens, logits):
    return jnp.arange(logits.shape[1]) == tokens[:, None]
