"""Drawing a token: the inverse of the distribution function, with one random number a token.

`jax.random.categorical` draws one for every entry of the vocabulary, which for 150,000 of them costs more than
making the logits' sum. Here the sums of blocks of the vocabulary say which block it is, its entries which token.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

BLOCK = 128  # entries of the vocabulary whose weights are summed first


def draw(key: PRNGKeyArray, logits: Float[Array, " v"]) -> tuple[Int[Array, ""], Float[Array, ""]]:
    """A token with probability softmax(logits), and the logarithm of that probability.

    An entry whose probability is 0 in float32 is never drawn. The random number has 23 bits, so that differences
    in probability below 1e-7 are not told apart.

    Args:
      key: of this token alone.
      logits: float32[V], at least one of them finite and none NaN or +inf.

    Returns:
      (token int32[], log_prob float32[]).
    """
    size = logits.shape[0]
    peak = logits.max()
    weights = jnp.pad(jnp.exp(logits - peak), (0, -size % BLOCK)).reshape(-1, BLOCK)
    # Worked example, blocks of 2: weights [[1 0] [0 3] [0 1]] -> ends [1 4 5]; of 5 x .5 = 2.5 the first end
    # above is the second's; 2.5 - 1 = 1.5 of its ends [0 3] is below the second: entry 3.
    ends = jnp.cumsum(weights.sum(axis=1))
    target = jax.random.uniform(key) * ends[-1]
    block = _first_above(ends, target)
    row = weights[block]
    inside = _first_above(jnp.cumsum(row), target - jnp.where(block > 0, ends[block - 1], 0.0))
    # A block's sum and the last of its ends may differ by rounding: then it is the last entry that weighs.
    inside = jnp.minimum(inside, BLOCK - 1 - jnp.argmax(row[::-1] > 0))
    token = block * BLOCK + inside
    return token.astype(jnp.int32), logits[token] - peak - jnp.log(ends[-1])


def _first_above(ends: Float[Array, " n"], target: Float[Array, ""]) -> Int[Array, ""]:
    """The first place where ascending `ends` exceed `target`. Rounding may leave none: then where they stop."""
    found = jnp.sum(ends <= target)
    return jnp.minimum(found, jnp.argmax(ends >= ends[-1]))
