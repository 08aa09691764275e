"""Log-probabilities of tokens that are given, in float32, and what they change by.

* Where the unembedding is frozen, as under an adapter, the derivative by a hidden state is a fixed direction times
  the derivative by the result: it is found while the logits are there, and nothing as long as the vocabulary is
  kept or computed again. (The idea of Liger Kernel's fused cross entropy, arXiv 2410.10989, for a loss whose own
  derivative is not known yet.)
* Sums are taken in as few passes over the logits as there can be: a row is 600 kB in a published model.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Bool, Float, Int

from vldac.models.layers import times

LOGITS_BYTES = 2**29  # of float32 logits that the training pass holds at a time, see `Policy`
BANNED = -1e30  # logit of a token that can not be sampled; finite, so that no NaN arises from inf - inf


def logits_rows(vocab_size: int) -> int:
    """Tokens whose logits the training pass holds at a time."""
    return max(1, LOGITS_BYTES // (4 * vocab_size))


def score(
    hidden: Float[Array, "n d"],
    weight: Float[Array, "v d"],
    tokens: Int[Array, " n"],
    allowed: Bool[Array, "n v"],
    temperature: float = 1.0,
) -> tuple[Float[Array, " n"], Float[Array, " n"]]:
    """Of softmax(hidden weight^T / temperature) over what is allowed: each token's log-probability; the entropy.

    Args:
      hidden: in the dtype of the computation, as `weight`: products are of that, their sums float32.
      weight: the unembedding.
      tokens: one of each row.
      allowed: others have probability 0. Worked example, V = 3: [1 0 1] over logits [0 5 0] -> [1/2 0 1/2].
      temperature: above 0.

    Returns:
      (log_probs, entropy in nats), float32. The log-probabilities are differentiable in `hidden` and in `weight`;
      no gradient flows through the entropy. A token that is not allowed has `BANNED` less the sum's logarithm.
    """
    log_probs, entropy = _score(hidden, weight, tokens, allowed, temperature)
    return log_probs, jax.lax.stop_gradient(entropy)


@partial(jax.custom_vjp, nondiff_argnums=(4,))
def _score(hidden, weight, tokens, allowed, temperature):
    return _sums(_logits(hidden, weight, temperature), tokens, allowed)[:2]


def _forward(hidden, weight, tokens, allowed, temperature):
    learns_weight = weight.perturbed
    hidden, weight, tokens, allowed = (x.value for x in (hidden, weight, tokens, allowed))
    logits = _logits(hidden, weight, temperature)
    log_probs, entropy, log_total = _sums(logits, tokens, allowed)
    slope = (_slope(logits, log_total, tokens, allowed) / temperature).astype(hidden.dtype)
    if learns_weight:  # its derivative adds up rows, each times what is not known yet
        return (log_probs, entropy), (hidden, weight, slope)
    return (log_probs, entropy), (jnp.einsum("nv,vd->nd", slope, weight),)


def _backward(temperature, kept, gradients):
    gradient, _ = gradients
    if isinstance(gradient, SymbolicZero):
        gradient = jnp.zeros(gradient.shape, gradient.dtype)
    if len(kept) == 1:
        (direction,) = kept
        return (gradient[:, None] * direction).astype(direction.dtype), None, None, None
    hidden, weight, slope = kept
    slope = (gradient[:, None] * slope).astype(hidden.dtype)
    return jnp.einsum("nv,vd->nd", slope, weight), jnp.einsum("nv,nd->vd", slope, hidden), None, None


_score.defvjp(_forward, _backward, symbolic_zeros=True)


# Below, what is not allowed is left out of each sum by itself. Masked logits that all of them share would be
# written to memory and read again, which takes as long as three of the sums.


def _logits(hidden, weight, temperature):
    return times(hidden, weight, jnp.float32) / temperature


def _sums(logits, tokens, allowed):
    """(log-probability of each token, entropy, log of the sum of exponentials)."""
    peak = jnp.where(allowed, logits, BANNED).max(axis=1)
    weights = jnp.where(allowed, jnp.exp(logits - peak[:, None]), 0.0)
    total = weights.sum(axis=1)
    log_total = peak + jnp.log(total)
    entropy = log_total - (weights * logits).sum(axis=1) / total
    # Sums and not lookups: they are taken in the same pass over the logits as the other two.
    token = _is(tokens, logits)
    chosen = jnp.where((token & allowed).any(axis=1), jnp.where(token, logits, 0.0).sum(axis=1), BANNED)
    return chosen - log_total, entropy, log_total


def _slope(logits, log_total, tokens, allowed):
    """d log-probability / d logits: the token less what was expected.

    In one piece: for a token that is all but certain the two nearly cancel, which must happen before any rounding.
    """
    return jnp.where(allowed, _is(tokens, logits) - jnp.exp(logits - log_total[:, None]), 0.0)


def _is(tokens, logits):
    return jnp.arange(logits.shape[1]) == tokens[:, None]
