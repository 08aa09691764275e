"""What tells early that a training goes wrong: measures on the device, and the words for them.

* A policy that has collapsed still earns its rewards for a while, and its entropy may look healthy: it shows in
  one token following itself, or in every answer being the same.
* The words are said when a condition begins and when it ends, not on every iteration.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

REPEATING = 0.8  # share of tokens that repeat the one before: no text in a world's words comes near
FEW = 16  # fewer answers may well all be the same
UNREADABLE = 0.9
MISMATCH = {"float32": 1e-4, "bfloat16": 1e-2}  # mean |log ratio| between acting and the first minibatch


def answer_metrics(tokens: Int[Array, "t b n"], mask: Bool[Array, "t b n"]) -> dict[str, Float[Array, ""]]:
    """How much answers repeat themselves and each other, float32[] each.

    Args:
      tokens: answers.
      mask: their tokens, end-of-sequence included. Answers without any (lanes that only showed their last
        observation) do not count. Worked example, two answers of two and no tokens: [1 1 0], [0 0 0].

    Returns:
      `answer_repetition`: share of tokens that equal the one before them in their answer.
      `answers_distinct`: different answers over answers.
    """
    tokens, mask = tokens.reshape(-1, tokens.shape[-1]), mask.reshape(-1, mask.shape[-1])
    pairs = mask[:, 1:] & mask[:, :-1]
    same = (tokens[:, 1:] == tokens[:, :-1]) & pairs
    # Answers are told apart by two hashes of 32 bits: sums of tokens times random odd numbers, modulo 2^32.
    odd = np.random.default_rng(0).integers(0, 2**31, (2, tokens.shape[1]), np.uint32) * np.uint32(2) + np.uint32(
        1
    )
    marks = jnp.where(mask, tokens + 1, 0).astype(jnp.uint32)
    hashes = jnp.stack([(marks * row).sum(-1) for row in odd])  # [2, R]
    real = mask.any(-1)
    order = jnp.lexsort((hashes[0], hashes[1], ~real))
    hashes, real = hashes[:, order], real[order]
    first = jnp.concatenate([jnp.ones(1, bool), (hashes[:, 1:] != hashes[:, :-1]).any(0)])
    return {
        "answer_repetition": same.sum() / jnp.maximum(pairs.sum(), 1).astype(jnp.float32),
        "answers_distinct": (first & real).sum() / jnp.maximum(real.sum(), 1).astype(jnp.float32),
        "answers": real.sum().astype(jnp.float32),
    }


def conditions(metrics: Mapping[str, float], dtype: str) -> dict[str, str]:
    """What is wrong with an iteration: condition -> one line that says what it is and what is known to help.

    Args:
      metrics: of the iteration, as `train.iteration` gives them.
      dtype: what the model computes in.
    """
    found = {}
    if metrics["rollout/answer_repetition"] > REPEATING:
        found["repeating"] = (
            f"collapse: {metrics['rollout/answer_repetition']:.0%} of the tokens repeat the one before; a lower "
            "learning rate or a larger kl_coefficient holds the language"
        )
    answers = metrics["rollout/answers"]
    if answers >= FEW and metrics["rollout/answers_distinct"] * answers < 1.5:
        found["identical"] = (
            f"collapse: all {answers:.0f} answers are the same; whatever is seen, the same is done"
        )
    if metrics["rollout/parse_failure_rate"] > UNREADABLE:
        found["unreadable"] = (
            f"{metrics['rollout/parse_failure_rate']:.0%} of the answers name no action; "
            "--policy.decoding grammar makes that impossible, imitation teaches the form first"
        )
    if metrics["train/logprob_mismatch"] > MISMATCH[dtype]:
        found["mismatch"] = (
            f"log-probabilities differ by {metrics['train/logprob_mismatch']:.2g} between acting and learning, "
            f"more than {MISMATCH[dtype]:g}"
        )
    if metrics["train/updates_skipped"] > 0:
        found["skipped"] = (
            f"{metrics['train/updates_skipped']:.0f} updates were skipped: their gradient was not finite, or the "
            "loss above --optimizer.max_loss, which rewards of hundreds a step alone can bring about"
        )
    return found
