"""Advantages per environment step: generalised advantage estimation.

* Time is the first axis; whatever follows it (lanes) is carried along.
* `terminated` cuts the bootstrap: nothing follows, the next value is 0.
* `truncated` only cuts the recursion: the episode would have gone on, so the value of its last observation
  is bootstrapped, but advantages of the next episode must not leak into it.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def gae(
    rewards: Float[Array, "t *lanes"],
    values: Float[Array, "t *lanes"],
    next_values: Float[Array, "t *lanes"],
    terminated: Bool[Array, "t *lanes"],
    truncated: Bool[Array, "t *lanes"],
    gamma: float | Float[Array, ""],
    gae_lambda: float | Float[Array, ""],
) -> tuple[Float[Array, "t *lanes"], Float[Array, "t *lanes"]]:
    """Generalised advantage estimation (Schulman et al., arXiv 1506.02438, eq. 16), one value per step.

    With delta_t = r_t + gamma * (1 - terminated_t) * V(next observation of t) - V_t:

        A_t = delta_t + gamma * lambda * (1 - terminated_t) * (1 - truncated_t) * A_{t+1}

    Worked example, gamma = lambda = 1, V = 0 but for the last observation of the truncated episode, V = 5:
        rewards    [1, 1, 1, 1]    terminated [0, 1, 0, 0]    truncated [0, 0, 0, 1]
        next value [0, 0, 0, 5]    ->  A = [2, 1, 7, 6]

    Args:
      rewards: float32[T, ...].
      values: float32[T, ...], value of the observation that step t acted on.
      next_values: float32[T, ...], value of the observation that step t led to, before any reset. Where
        `terminated`, it is not used.
      terminated: bool[T, ...]; wins where both ends are set.
      truncated: bool[T, ...].
      gamma: discount, in [0, 1].
      gae_lambda: in [0, 1]; 1 gives Monte-Carlo returns minus values.

    Returns:
      (advantages, returns), float32[T, ...] each; returns = advantages + values are the critic's targets.
    """
    deltas = rewards + gamma * jnp.where(terminated, 0.0, next_values) - values
    decay = jnp.where(terminated | truncated, 0.0, gamma * gae_lambda)

    def backwards(advantage, step):
        delta, decay = step
        advantage = delta + decay * advantage
        return advantage, advantage

    # Values may be kept in less than rewards are: what is carried is of the type that they come to together.
    after = jnp.zeros(deltas.shape[1:], jnp.result_type(deltas, decay))
    _, advantages = jax.lax.scan(backwards, after, (deltas, decay), reverse=True)
    return advantages, advantages + values


def normalise(x: Float[Array, "*n"], mask: Bool[Array, "*n"], epsilon: float = 1e-8) -> Float[Array, "*n"]:
    """Zero mean and unit variance over the entries where `mask` is true; the others become 0.

    The variance is the population's. Where all entries are equal, all become 0 (nearly).

    Worked example: x = [1, 3, 99], mask = [1, 1, 0] -> [-1, 1, 0].
    """
    count = jnp.maximum(mask.sum(), 1)

    def centred(x):
        return jnp.where(mask, x - jnp.where(mask, x, 0.0).sum() / count, 0.0)

    # Twice: the first mean is rounded, and where all entries are equal that error would be all that is left,
    # to be blown up to unit variance.
    x = centred(centred(x))
    return x / (jnp.sqrt(jnp.square(x).sum() / count) + epsilon)
