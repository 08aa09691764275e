"""VL-DAC: PPO on every token of an answer, value learnt once per environment step.

* The step's advantage stands on every token of the step, thoughts and action alike; there is no weight to
  tune between the two.
* Tokens are averaged inside a step first, then steps: a long answer does not count more than a short one.
* The critic is a head on the stopped hidden state of the last prompt token (`vldac.policy` stops it), so its
  regression can never disturb the language model.
* The KL is the k3 estimator to the frozen reference, non-negative for every token.

Source: Bredis et al., arXiv 2508.04280, equations 3 to 6. Differs from the authors' released code where
that leaves the equations: every answer token is trained (theirs drops the first and every id 0), the value
loss is not clipped, and the same loss holds however far a ratio runs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

# Differences of log-probabilities are held here: exp(40) and the square that it leaves in a gradient's norm
# are still float32 numbers, while exp(89) is not, and one infinity would make the whole update NaN.
LOG_RATIO_BOUND = 40.0


@dataclass(frozen=True)
class VLDACConfig:
    """What VL-DAC itself decides (arXiv 2508.04280, table 6)."""

    gamma: float = 0.99
    """Discount per environment step."""
    gae_lambda: float = 0.95
    """Generalised advantage estimation: 0 trusts the critic, 1 the sampled returns."""
    clip_epsilon: float = 0.2
    """PPO's clip range of the importance ratio."""
    kl_coefficient: float = 0.05
    """beta: weight of the KL to the frozen reference policy."""
    value_coefficient: float = 0.15
    """alpha: weight of the value regression."""
    critic_warmup: int = 2
    """Iterations in which only the critic learns."""
    normalise_advantages: bool = True
    """Zero mean and unit variance over the steps of a rollout."""

    def __post_init__(self):
        for field in ("gamma", "gae_lambda"):
            if not 0.0 <= getattr(self, field) <= 1.0:
                raise ValueError(f"{field} is {getattr(self, field)}; accepted: 0 to 1")
        if not 0.0 < self.clip_epsilon < 1.0:
            raise ValueError(f"clip_epsilon is {self.clip_epsilon}; accepted: between 0 and 1")
        for field in ("kl_coefficient", "value_coefficient", "critic_warmup"):
            if not 0 <= getattr(self, field) < math.inf:
                raise ValueError(f"{field} is {getattr(self, field)}; accepted: 0 or more")


def loss(
    log_probs: Float[Array, "s n"],
    old_log_probs: Float[Array, "s n"],
    reference_log_probs: Float[Array, "s n"],
    token_mask: Bool[Array, "s n"],
    advantages: Float[Array, " s"],
    values: Float[Array, " s"],
    returns: Float[Array, " s"],
    step_weights: Float[Array, " s"],
    config: VLDACConfig,
    actor: Float[Array, ""] | float = 1.0,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """The VL-DAC loss over S environment steps with answers of up to N tokens.

        L = sum_s w_s [ mean_tokens( -min(r A, clip(r, 1-eps, 1+eps) A) + beta k3 ) + alpha/2 (V - R)^2 ]

    with r = exp(log_prob - old_log_prob) per token and k3 = exp(d) - d - 1, d = reference - log_prob
    (an unbiased, non-negative estimate of KL(policy || reference)).

    Args:
      log_probs: float32[S, N], of the answer's tokens under the parameters being trained.
      old_log_probs: float32[S, N], as sampled.
      reference_log_probs: float32[S, N], under the frozen reference.
      token_mask: bool[S, N], true up to and including the end of the answer.
        Worked example: answer of 3 tokens in 5 slots -> [1, 1, 1, 0, 0].
      advantages: float32[S], one a step.
      values: float32[S], the critic on the step's observation.
      returns: float32[S], the critic's targets.
      step_weights: float32[S], non-negative and summing to 1 over the batch of one optimizer update, 0 for
        steps that only carry a bootstrap value. Micro-batches of that batch then simply add up.
      config: the coefficients.
      actor: 1 trains actor and critic, 0 the critic alone (warm-up).

    Returns:
      (loss, metrics), float32[] each; metrics are weighted by `step_weights` like the loss.
    """
    mask = token_mask.astype(jnp.float32)
    length = jnp.maximum(mask.sum(-1), 1.0)  # [S]; a step without tokens has weight 0 in the means below

    def over_tokens(x):  # [S, N] -> [S], the mean over the tokens of each step
        return (x * mask).sum(-1) / length

    def over_steps(x):  # [S] -> []
        return (x * step_weights).sum()

    def bounded(log_ratio):
        # Masked tokens may hold anything; their ratio must still be finite, or 0 * inf poisons the gradient.
        return jnp.clip(jnp.where(token_mask, log_ratio, 0.0), -LOG_RATIO_BOUND, LOG_RATIO_BOUND)

    log_ratio = bounded(log_probs - old_log_probs)
    ratio = jnp.exp(log_ratio)
    clipped = jnp.clip(ratio, 1.0 - config.clip_epsilon, 1.0 + config.clip_epsilon)
    surrogate = jnp.minimum(ratio * advantages[:, None], clipped * advantages[:, None])
    policy_loss = -over_steps(over_tokens(surrogate))

    to_reference = bounded(reference_log_probs - log_probs)
    kl = over_steps(over_tokens(jnp.exp(to_reference) - to_reference - 1.0))

    value_loss = over_steps(0.5 * jnp.square(values - returns))

    total = actor * (policy_loss + config.kl_coefficient * kl) + config.value_coefficient * value_loss
    metrics = {
        "loss": total,
        "policy_loss": policy_loss,
        "value_loss": value_loss,
        "kl_reference": kl,
        "kl_old": over_steps(over_tokens(ratio - 1.0 - log_ratio)),
        "clip_fraction": over_steps(over_tokens((ratio != clipped).astype(jnp.float32))),
        "ratio_mean": over_steps(over_tokens(ratio)),
        "log_ratio_abs": over_steps(over_tokens(jnp.abs(log_ratio))),
    }
    return total, jax.lax.stop_gradient(metrics)
