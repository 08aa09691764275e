"""Training: the state of a run, one iteration of it as jitted functions, and the optimizer.

* `iteration` collects a rollout and learns from it: a pure function of `TrainState`, its argument donated. Nothing
  goes through the host between its start and its end.
* Its halves, `collect` and `learn`, are what a run calls: compiled side by side they are there in half the time,
  and each can be timed. What the first gives, the second takes where it lies.
* A minibatch is what one optimizer update averages over; microbatches are its parts that fit the memory. The
  loss is a weighted sum over steps, so the parts' gradients simply add up.
* Model and critic are optimized apart: each has its own learning rate, and its own gradient norm to clip, so
  that a critic that is far off does not shrink the model's step.
* What is trained is apart from what is frozen. In full fine-tuning the frozen weights are the reference policy;
  with LoRA they are the reference and, under the adapter, the policy itself: there is no second copy.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int, Key, PRNGKeyArray

from envs_jax import World
from vldac import watch
from vldac.algorithms import vl_dac
from vldac.lanes import Lanes, Observation, begin
from vldac.mesh import batch_specs, constrain, gather, param_specs, placed, shard_batch, whole_specs
from vldac.models import KVCache
from vldac.parts import in_parts
from vldac.policy import Policy
from vldac.returns import gae, normalise
from vldac.rollout import RolloutConfig, Trajectory, rollout, rollout_metrics


@dataclass(frozen=True)
class OptimizerConfig:
    """How a rollout becomes parameter updates. The defaults are the published ones (arXiv 2508.04280, table 6)."""

    learning_rate: float = 5e-5
    """Of the model, at the start; falls along a cosine to `final_learning_rate`."""
    final_learning_rate: float = 1e-7
    """Of the model, at the last update."""
    critic_learning_rate: float = 1e-3
    """Of the value head; constant, as its targets keep moving until the end."""
    max_grad_norm: float = 1.0
    """Longer gradients are scaled down to this global norm, model and critic each."""
    epochs: int = 2
    """Times that a rollout is gone through."""
    minibatch: int = 128
    """Environment steps of one optimizer update; divides worlds x steps."""
    microbatch: int = 0
    """Environment steps of one forward and backward pass; divides the minibatch. 0 = the whole minibatch."""
    adam_epsilon: float = 1e-7
    """Added to Adam's denominator."""
    max_loss: float = 1e4
    """An update whose loss is larger, or not a number, is skipped: parameters and optimizer stay as they were."""
    max_skipped: int = 8
    """So many skipped updates in a row end the run, its state saved."""

    def __post_init__(self):
        for name in ("learning_rate", "critic_learning_rate", "max_grad_norm", "adam_epsilon", "max_loss"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; accepted: above 0")
        if not 0 <= self.final_learning_rate <= self.learning_rate:
            raise ValueError(
                f"final_learning_rate is {self.final_learning_rate}; accepted: 0 to learning_rate, "
                f"which is {self.learning_rate}"
            )
        for name, least in (("epochs", 1), ("minibatch", 1), ("microbatch", 0), ("max_skipped", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; accepted: {least} or more")
        if self.minibatch % (self.microbatch or self.minibatch):
            raise ValueError(
                f"microbatch is {self.microbatch}; accepted: a divisor of minibatch, which is {self.minibatch}"
            )


@dataclass(frozen=True, eq=False)
class Setup:
    """All that is static in a run; hashed by identity, so that jit finds its trace again.

    Attributes:
      world, policy: what is learnt from, and what learns.
      rollout, algorithm, optimizer: the three parts of an iteration.
      iterations: of the whole run; the learning rate's cosine ends there.

    Raises:
      ValueError: the minibatch does not divide the steps of a rollout.
    """

    world: World
    policy: Policy
    iterations: int
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    algorithm: vl_dac.VLDACConfig = field(default_factory=vl_dac.VLDACConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)

    def __post_init__(self):
        if self.iterations < 1:
            raise ValueError(f"iterations is {self.iterations}; accepted: 1 or more")
        steps = self.rollout.worlds * self.rollout.steps
        if steps % self.optimizer.minibatch:
            raise ValueError(
                f"minibatch is {self.optimizer.minibatch}; accepted: a divisor of worlds x steps, which is {steps}"
            )

    @property
    def updates(self) -> int:
        """Optimizer updates of one iteration."""
        config = self.optimizer
        return config.epochs * self.rollout.worlds * self.rollout.steps // config.minibatch

    def transformation(self) -> optax.GradientTransformation:
        """The optimizer of what is trained: the model or its adapter, and the value head."""
        config = self.optimizer
        cosine = optax.cosine_decay_schedule(
            config.learning_rate,
            decay_steps=self.iterations * self.updates,
            alpha=config.final_learning_rate / config.learning_rate,
        )

        def adam(learning_rate):
            return optax.chain(
                optax.clip_by_global_norm(config.max_grad_norm),
                optax.adam(learning_rate, eps=config.adam_epsilon),
            )

        learner = "model" if self.policy.adapted is None else "adapter"
        return optax.partition(
            {learner: adam(cosine), "value": adam(config.critic_learning_rate)},
            {learner: learner, "value": "value"},
        )


@struct.dataclass
class TrainState:
    """All that changes in a run: what a checkpoint holds.

    Attributes:
      iteration: int32[], iterations done.
      env_steps: int32[], environment steps taken.
      params: what is trained, float32: {"model" or "adapter": ..., "value": ...}.
      opt_state: of `Setup.transformation`.
      frozen: the model's weights that never change: the reference that the KL is measured to and, with LoRA,
        what the adapter sits on. In the dtype of the computation.
      skipped: int32[], updates skipped since the last one that was not.
      lanes: the worlds in mid-episode.
      key: of what comes next.
    """

    iteration: Int[Array, ""]
    env_steps: Int[Array, ""]
    params: Any
    opt_state: Any
    frozen: Any
    skipped: Int[Array, ""]
    lanes: Lanes
    key: PRNGKeyArray

    @property
    def policy_params(self) -> dict[str, Any]:
        """What the policy acts with, see `Policy`."""
        return self.params if "model" in self.params else {"model": self.frozen, **self.params}

    @property
    def reference_params(self) -> dict[str, Any]:
        """What the reference policy acts with. (Its value is never looked at.)"""
        return {"model": self.frozen, "value": self.params["value"]}

    def specs(self) -> TrainState:
        """How the state, or its shapes, lies on the ambient mesh: a `PartitionSpec` in place of every leaf."""
        return whole_specs(self).replace(
            params=param_specs(self.params),
            opt_state=param_specs(self.opt_state),
            frozen=param_specs(self.frozen),
            lanes=batch_specs(self.lanes),
        )


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


def init(setup: Setup, params: Any, key: PRNGKeyArray) -> TrainState:
    """The state before the first iteration. The model as given, without its adapter, becomes the reference.

    Args:
      params: of the policy. What is trained is copied, so that the state can be donated; the weights under an
        adapter are not, and are gone when it is.
      key: of the run.
    """

    @jax.jit
    def build(params, key):
        key, lanes_key = jax.random.split(key)
        lanes_keys = jax.random.split(lanes_key, setup.rollout.worlds)
        state = TrainState(
            iteration=jnp.int32(0),
            env_steps=jnp.int32(0),
            params=params,
            opt_state=setup.transformation().init(params),
            frozen=jax.tree.map(lambda x: x.astype(setup.policy.dtype), params["model"])
            if "model" in params
            else None,
            skipped=jnp.int32(0),
            lanes=begin(setup.world, lanes_keys, setup.policy.config.history),
            key=key,
        )
        return constrain(state, state.specs())

    if "adapter" not in params:
        return build(params, key)
    trained = {name: state for name, state in params.items() if name != "model"}
    return build(trained, key).replace(frozen=params["model"])


def iteration(setup: Setup, state: TrainState) -> tuple[TrainState, dict[str, Float[Array, ""]]]:
    """One rollout and the updates from it.

    Returns:
      (state, metrics): metrics are float32[] under the names of `vldac.metrics`.
    """
    lanes, trajectory = collect(setup, state.policy_params, state.lanes, state.key)
    return learn(setup, state.replace(lanes=lanes), trajectory)


def collect(setup: Setup, params: Any, lanes: Lanes, key: PRNGKeyArray) -> tuple[Lanes, Trajectory]:
    """The first half of an iteration: acts with `policy_params` in a state's lanes, with the state's key."""
    _, rollout_key, _ = _keys(key)
    lanes, trajectory = rollout(setup.policy, setup.world, params, lanes, rollout_key, setup.rollout)
    return shard_batch(lanes), constrain(trajectory, trajectory.specs())


def learn(
    setup: Setup, state: TrainState, trajectory: Trajectory
) -> tuple[TrainState, dict[str, Float[Array, ""]]]:
    """The second half: what `iteration` gives, from a state whose lanes have gone on already."""
    key, _, update_key = _keys(state.key)
    params, opt_state, skipped, train_metrics = update(setup, state, trajectory, update_key)
    gathered = rollout_metrics(trajectory)
    gathered |= watch.answer_metrics(trajectory.response.tokens, trajectory.response.mask)
    state = state.replace(
        iteration=state.iteration + 1,
        env_steps=state.env_steps + gathered["env_steps"].astype(jnp.int32),
        params=params,
        opt_state=opt_state,
        skipped=skipped,
        key=key,
    )
    metrics = {f"rollout/{name}": value for name, value in gathered.items()}
    metrics |= {f"train/{name}": value for name, value in train_metrics.items()}
    return constrain(state, state.specs()), gather(metrics)


def _keys(key: PRNGKeyArray) -> Key[Array, "3"]:
    """Of the next iteration, of this one's rollout, and of its updates."""
    return jax.random.split(key, 3)


jit_iteration = jax.jit(iteration, static_argnums=0, donate_argnums=1)
jit_collect = jax.jit(collect, static_argnums=0, donate_argnums=2)
jit_learn = jax.jit(learn, static_argnums=0, donate_argnums=1)


def experience_like(setup: Setup, state: TrainState, mesh: Mesh | None) -> Trajectory:
    """Shapes, and places on a mesh, of what `collect` will give: enough to compile `learn` for it."""
    _, trajectory = jit_collect.eval_shape(setup, state.policy_params, state.lanes, state.key)
    return placed(trajectory, trajectory.specs(), mesh)


def update(
    setup: Setup, state: TrainState, trajectory: Trajectory, key: PRNGKeyArray
) -> tuple[Any, Any, Int[Array, ""], dict[str, Float[Array, ""]]]:
    """Learns from one rollout: `epochs` passes over it in shuffled minibatches.

    An update whose loss or gradient is not finite, or whose loss exceeds `max_loss`, changes nothing.

    Returns:
      (params, opt_state, skipped, metrics): skipped updates since the last that was not; metrics are means over
      the updates that were not skipped, but for `logprob_mismatch`, the mean |log ratio| of the first minibatch,
      where the parameters are still those that acted, and `updates_skipped`, a count.
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
    metrics = {  # none sound -> 0/0 -> NaN: there is no such figure
        name: jnp.where(sound, values, 0.0).sum() / sound.sum() for name, values in metrics.items()
    }
    metrics |= critic_metrics
    metrics |= {"logprob_mismatch": mismatch, "updates_skipped": (~sound).sum().astype(jnp.float32)}
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
