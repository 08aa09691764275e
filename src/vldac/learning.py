"""How a rollout becomes a better model: minibatches, their gradients, the optimizer's steps.

* A minibatch is what one optimizer update averages over; microbatches are its parts that fit the memory. The
  loss is a weighted sum over steps, so the parts' gradients simply add up.
* What does not change from epoch to epoch is computed once: advantages, the reference's log-probabilities.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from vldac.algorithms import vl_dac
from vldac.lanes import Observation
from vldac.mesh import shard_batch
from vldac.models import KVCache
from vldac.parts import in_parts
from vldac.returns import gae, normalise
from vldac.rollout import Trajectory
from vldac.state import Setup, TrainState


@struct.dataclass
class Batch:
    """Environment steps to learn from, leaves [S, ...]; see `vl_dac.loss` for the fields.

    On a mesh it is cut over the data axes; only a microbatch's rows go to other devices.
    """

    observation: Observation
    tokens: Int[Array, "s n"]
    token_mask: Bool[Array, "s n"]
    old_log_probs: Float[Array, "s n"]
    reference_log_probs: Float[Array, "s n"]
    advantages: Float[Array, " s"]
    returns: Float[Array, " s"]
    valid: Float[Array, " s"]
    sight: Float[Array, "s history levels n d"] | None


def update(
    setup: Setup, state: TrainState, trajectory: Trajectory, key: PRNGKeyArray
) -> tuple[Any, Any, Int[Array, ""], dict[str, Float[Array, ""]]]:
    """Learns from one rollout: `epochs` passes over it in shuffled minibatches.

    An update whose loss or gradient is not finite, or whose loss exceeds `max_loss`, changes nothing.

    Returns:
      (params, opt_state, skipped, metrics): skipped updates since the last that was not; metrics are means over
      the updates that were not skipped, but for `logprob_mismatch`, the mean |log ratio| of the first minibatch,
      where the parameters are still those that acted (with dropout, of the first microbatch without it),
      `learning_rate`, the first update's as scheduled, and `updates_skipped`, a count.
    """
    config = setup.optimizer
    transformation = setup.transformation()
    batch, critic_metrics = learning_batch(setup, state, trajectory)
    # A minibatch has as many steps of every group of worlds, a microbatch as many of every chunk of groups: on
    # whatever devices the worlds are, steps stay with their worlds. [B * T, ...] -> [chunks, B * T / chunks, ...]
    microbatch = config.microbatch or config.minibatch
    groups, chunks = (math.gcd(setup.rollout.worlds, size) for size in (config.minibatch, microbatch))
    batch = shard_batch(jax.tree.map(lambda x: x.reshape(chunks, -1, *x.shape[1:]), batch))
    # Warm-up: the critic alone learns, until its values are worth an advantage.
    actor = (state.iteration >= setup.algorithm.critic_warmup).astype(jnp.float32)

    def whole(params):
        return state.replace(params=params).policy_params

    def pick(tree, rows):
        """Steps number rows, int32[chunks, n], of each chunk: leaves [chunks * n, ...]."""
        picked = jax.tree.map(lambda leaf: jax.vmap(lambda leaf, rows: leaf[rows])(leaf, rows), tree)
        return shard_batch(jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), picked))

    def minibatch_update(carry, rows_and_key):
        """One optimizer update from the steps number rows, int32[chunks, minibatch / chunks]."""
        params, opt_state, skipped = carry
        rows, key = rows_and_key
        prefix_key, key = jax.random.split(key)
        count = jnp.maximum(pick(batch.valid, rows).sum(), 1.0)

        def prefix(params):
            cache = setup.policy.prefix(whole(params), prefix_key if setup.policy.dropout else None)
            return (cache.k, cache.v), cache.positions

        # The static text's keys and values are the same for every part: they are computed once, each part says how
        # they should change, and the sum of that goes through their computation once.
        keys_values, pull_back, positions = jax.vjp(prefix, params, has_aux=True)

        def gradient(rows, key):
            part = pick(batch, rows)

            def loss(params, keys_values):
                cache = KVCache(*keys_values, positions)
                return step_loss(setup, whole(params), part, part.valid / count, actor, key, cache)

            return jax.grad(loss, argnums=(0, 1), has_aux=True)(params, keys_values)

        def accumulate(total, part):
            return jax.tree.map(jnp.add, total, gradient(*part)), None

        parts = jnp.moveaxis(rows.reshape(chunks, -1, microbatch // chunks), 1, 0)
        keys = jax.random.split(key, len(parts))
        shapes = jax.eval_shape(gradient, parts[0], keys[0])
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.float32), shapes)
        ((grads, onward), metrics), _ = jax.lax.scan(accumulate, zeros, (parts, keys))
        (through,) = pull_back(jax.tree.map(lambda g, x: g.astype(x.dtype), onward, keys_values))
        grads = jax.tree.map(jnp.add, grads, through)
        updates, new_opt_state = transformation.update(grads, opt_state, params)
        (learner,) = grads.keys() - {"value"}
        metrics["grad_norm"] = optax.global_norm(grads[learner])
        metrics["critic_grad_norm"] = optax.global_norm(grads["value"])
        sound = jnp.isfinite(metrics["grad_norm"]) & jnp.isfinite(metrics["critic_grad_norm"])
        sound &= jnp.abs(metrics["loss"]) <= config.max_loss  # false for NaN, too
        new = optax.apply_updates(params, updates), new_opt_state
        params, opt_state = jax.tree.map(partial(jnp.where, sound), new, (params, opt_state))
        return (params, opt_state, jnp.where(sound, 0, skipped + 1)), metrics | {"sound": sound}

    def epoch(carry, keys):
        shuffle_key, dropout_key = keys
        rows = shuffled(shuffle_key, setup.rollout.worlds * setup.rollout.steps, config.minibatch, groups)
        # Numbers in a group -> in its chunk. Worked example, 4 groups of 3 steps in 2 chunks: + [0 3 | 0 3].
        rows = rows + jnp.arange(groups)[:, None] % (groups // chunks) * (batch.valid.size // groups)
        rows = rows.reshape(len(rows), chunks, -1)
        return jax.lax.scan(minibatch_update, carry, (rows, jax.random.split(dropout_key, len(rows))))

    carry = state.params, state.opt_state, state.skipped
    *keys, dropout_key = jax.random.split(key, config.epochs + 1)
    keys = jnp.stack(keys), jax.random.split(dropout_key, config.epochs)
    (params, opt_state, skipped), metrics = jax.lax.scan(epoch, carry, keys)
    sound, mismatch = metrics.pop("sound"), metrics.pop("log_ratio_abs")[0, 0]
    if setup.policy.dropout:  # is meant to differ: what acting and learning compute is compared without it
        part = jax.tree.map(lambda x: x[:, : microbatch // chunks].reshape(-1, *x.shape[2:]), batch)
        weights = part.valid / jnp.maximum(part.valid.sum(), 1.0)
        mismatch = step_loss(setup, state.policy_params, part, weights, actor)[1]["log_ratio_abs"]
    metrics = {  # none sound -> 0/0 -> NaN: there is no such figure
        name: jnp.where(sound, values, 0.0).sum() / sound.sum() for name, values in metrics.items()
    }
    metrics |= critic_metrics
    metrics |= {
        "logprob_mismatch": mismatch,
        "learning_rate": setup.schedule(state.iteration * setup.updates),
        "updates_skipped": (~sound).sum().astype(jnp.float32),
    }
    return params, opt_state, skipped, metrics


def shuffled(key: PRNGKeyArray, steps: int, minibatch: int, groups: int) -> Int[Array, "m g n"]:
    """Every step in one minibatch, and in every minibatch as many steps of each group.

    Worked example, 8 steps in 2 groups, minibatches of 4: [[2 0] [1 3]], [[3 1] [2 0]], the first pair of each of
    group 0.

    Args:
      key: of the order.
      steps: of all groups.
      minibatch: steps of one; divides `steps`.
      groups: divides `minibatch`.

    Returns:
      Numbers within their group, 0 ... steps / groups - 1, of each minibatch and group.
    """
    order = jax.vmap(partial(jax.random.permutation, x=steps // groups))(jax.random.split(key, groups))
    return jnp.moveaxis(order.reshape(groups, -1, minibatch // groups), 1, 0)


def learning_batch(
    setup: Setup, state: TrainState, trajectory: Trajectory
) -> tuple[Batch, dict[str, Float[Array, ""]]]:
    """A rollout's steps as one batch, with advantages, returns and the reference's log-probabilities.

    World by world, step t of world b in row b * T + t: each device keeps the steps of its own worlds.
    """
    algorithm, response = setup.algorithm, trajectory.response
    advantages, returns = gae(
        trajectory.reward,
        response.value,
        trajectory.next_values,
        trajectory.terminated,
        trajectory.truncated,
        algorithm.gamma,
        algorithm.gae_lambda,
    )
    valid = trajectory.valid
    error = jnp.where(valid, returns - response.value, 0.0)
    metrics = {
        "explained_variance": 1.0 - _variance(error, valid) / jnp.maximum(_variance(returns, valid), 1e-8),
        "advantage_std": jnp.sqrt(_variance(advantages, valid)),
    }
    if algorithm.normalise_advantages:
        advantages = normalise(advantages, valid)
    batch = Batch(
        observation=trajectory.observation,
        tokens=response.tokens,
        token_mask=response.mask,
        old_log_probs=response.log_probs,
        reference_log_probs=jnp.zeros_like(response.log_probs),
        advantages=advantages,
        returns=returns,
        valid=valid.astype(jnp.float32),
        sight=trajectory.sight,
    )
    # [T, B, ...] -> [B * T, ...]
    batch = shard_batch(jax.tree.map(lambda x: x.swapaxes(0, 1).reshape(-1, *x.shape[2:]), batch))

    # Forward alone, a loop over layers costs little and compiles once.
    reference = replace(setup.policy, config=replace(setup.policy.config, unroll=False))
    params = state.reference_params
    prefix = reference.prefix(params)

    def score(part):
        return reference.log_probs(
            params, part.observation, part.tokens, part.token_mask, sight=part.sight, prefix=prefix
        ).log_probs

    microbatch = setup.optimizer.microbatch or setup.optimizer.minibatch
    return batch.replace(reference_log_probs=in_parts(score, batch, microbatch)), metrics


def step_loss(
    setup: Setup,
    params: Any,
    batch: Batch,
    weights: Float[Array, " s"],
    actor: Float[Array, ""],
    key: PRNGKeyArray | None = None,
    prefix: KVCache | None = None,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """The algorithm's loss over a (micro-)batch; differentiable in `params`.

    Args:
      weights: float32[S], of each step, see `vl_dac.loss`.
      actor: 1 trains model and critic, 0 the critic alone.
      key: of LoRA's dropout.
      prefix: as for `Policy.log_probs`.
    """
    dropout_key = key if setup.policy.dropout else None
    scores = setup.policy.log_probs(
        params, batch.observation, batch.tokens, batch.token_mask, dropout_key, batch.sight, prefix
    )
    loss, metrics = vl_dac.loss(
        scores.log_probs,
        batch.old_log_probs,
        batch.reference_log_probs,
        batch.token_mask,
        batch.advantages,
        scores.value,
        batch.returns,
        weights,
        setup.algorithm,
        actor,
    )
    length = jnp.maximum(batch.token_mask.sum(-1), 1)
    metrics["entropy"] = jax.lax.stop_gradient((scores.entropy.sum(-1) / length * weights).sum())
    return loss, metrics


def _variance(x: Float[Array, "t b"], mask: Bool[Array, "t b"]) -> Float[Array, ""]:
    """Of the entries where `mask` is true. Worked example: x = [1, 3, 99], mask = [1, 1, 0] -> 1."""
    count = jnp.maximum(mask.sum(), 1)
    mean = jnp.where(mask, x, 0.0).sum() / count
    return jnp.where(mask, jnp.square(x - mean), 0.0).sum() / count
