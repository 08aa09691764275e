"""What a run is made of (`Setup`), what changes in it (`TrainState`), and the optimizer between them.

* Model and critic are optimized apart: each has its own learning rate, and its own gradient norm to clip, so
  that a critic that is far off does not shrink the model's step.
* What is trained is apart from what is frozen. In full fine-tuning the frozen weights are the reference policy;
  with LoRA they are the reference and, under the adapter, the policy itself: there is no second copy.
* The reference is what a run begins with. An adapter that has been taught before is therefore the reference's,
  too, as it was then (`Setup.taught`): else the KL would pull the model back to what it was before.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jaxtyping import Array, Float, Int, PRNGKeyArray

from envs_jax import World
from vldac.algorithms import vl_dac
from vldac.lanes import Lanes, begin
from vldac.mesh import batch_specs, constrain, param_specs, whole_specs
from vldac.policy import Policy
from vldac.rollout import RolloutConfig


@dataclass(frozen=True)
class OptimizerConfig:
    """How a rollout becomes parameter updates. The defaults are the published ones (arXiv 2508.04280, table 6)."""

    learning_rate: float = 5e-5
    """Of the model, at the start; falls along a cosine to `final_learning_rate`."""
    warmup: int = 0
    """Updates over which the model's learning rate rises, once the critic has warmed up; 0 = it is there at once.
    Adam's first steps are as long as the learning rate whatever the gradient, and can carry a model off: where
    `train/kl_reference` leaps in the first iteration in which the model learns, 16 helps."""
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
    """An update whose loss is larger, or not a number, is skipped: parameters and optimizer stay as they were. The
    critic's part grows with the square of the returns: where those are in the hundreds this is to be raised."""
    max_skipped: int = 8
    """So many skipped updates in a row end the run, its state saved."""

    def __post_init__(self):
        for name in ("learning_rate", "critic_learning_rate", "adam_epsilon"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} is {getattr(self, name)}; accepted: above 0, finite")
        for name in ("max_grad_norm", "max_loss"):  # infinite = there is no such limit
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; accepted: above 0")
        if not 0 <= self.final_learning_rate <= self.learning_rate:
            raise ValueError(
                f"final_learning_rate is {self.final_learning_rate}; accepted: 0 to learning_rate, "
                f"which is {self.learning_rate}"
            )
        for name, least in (("warmup", 0), ("epochs", 1), ("minibatch", 1), ("microbatch", 0), ("max_skipped", 1)):
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
      taught: whether a run's first parameters come from imitation, and not from a checkpoint or a draw.

    Raises:
      ValueError: the minibatch does not divide the steps of a rollout.
    """

    world: World
    policy: Policy
    iterations: int
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    algorithm: vl_dac.VLDACConfig = field(default_factory=vl_dac.VLDACConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    taught: bool = False

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

    def schedule(self, update: Int[Array, ""]) -> Float[Array, ""]:
        """The model's learning rate at optimizer update number `update`.

        Worked example, a warm-up of 4: the model's first updates have 1/4, 2/4, 3/4 and all of the cosine's.
        """
        config = self.optimizer
        cosine = optax.cosine_decay_schedule(
            config.learning_rate,
            decay_steps=self.iterations * self.updates,
            alpha=config.final_learning_rate / config.learning_rate,
        )(update)
        nth = update + 1 - self.algorithm.critic_warmup * self.updates  # of the model's own updates, from 1
        return cosine * jnp.clip(nth / max(config.warmup, 1), 0.0, 1.0)

    def transformation(self) -> optax.GradientTransformation:
        """The optimizer of what is trained: the model or its adapter, and the value head."""
        config = self.optimizer

        def adam(learning_rate):
            moments = waiting(optax.scale_by_adam(eps=config.adam_epsilon))
            return optax.chain(
                optax.clip_by_global_norm(config.max_grad_norm),
                optax.chain(moments, optax.scale_by_learning_rate(learning_rate)),
            )

        learner = "model" if self.policy.adapted is None else "adapter"
        return optax.partition(
            {learner: adam(self.schedule), "value": adam(config.critic_learning_rate)},
            {learner: learner, "value": "value"},
        )


def waiting(inner: optax.GradientTransformation) -> optax.GradientTransformation:
    """`inner`, for which updates without any gradient have not taken place.

    While the critic warms up, the model's gradient is 0. Adam would count those updates and take its moments for
    well known: after 30 of them the model's first steps are up to 1.4 times as long as the learning rate says,
    after 500 up to four times.
    """

    def update(updates, state, params=None):
        new, after = inner.update(updates, state, params)
        some = optax.global_norm(updates) > 0
        after = jax.tree.map(lambda new, old: jnp.where(some, new, old), after, state)
        return jax.tree.map(lambda x: jnp.where(some, x, 0), new), after

    return optax.GradientTransformation(inner.init, update)


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
      reference: the adapter that a taught run began with; None = the reference has none.
      skipped: int32[], updates skipped since the last one that was not.
      lanes: the worlds in mid-episode.
      key: of what comes next.
    """

    iteration: Int[Array, ""]
    env_steps: Int[Array, ""]
    params: Any
    opt_state: Any
    frozen: Any
    reference: Any
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
        adapter = {} if self.reference is None else {"adapter": self.reference}
        return {"model": self.frozen, **adapter, "value": self.params["value"]}

    def specs(self) -> TrainState:
        """How the state, or its shapes, lies on the ambient mesh: a `PartitionSpec` in place of every leaf."""
        return whole_specs(self).replace(
            params=param_specs(self.params),
            opt_state=param_specs(self.opt_state),
            frozen=param_specs(self.frozen),
            reference=param_specs(self.reference),
            lanes=batch_specs(self.lanes),
        )


def init(setup: Setup, params: Any, key: PRNGKeyArray) -> TrainState:
    """The state before the first iteration. The model as given becomes the reference, with its adapter if that has
    been taught; one that is drawn afresh changes nothing yet.

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
            reference=jax.tree.map(jnp.copy, params.get("adapter")) if setup.taught else None,
            skipped=jnp.int32(0),
            lanes=begin(setup.world, lanes_keys, setup.policy.config.history),
            key=key,
        )
        return constrain(state, state.specs())

    if "adapter" not in params:
        return build(params, key)
    trained = {name: state for name, state in params.items() if name != "model"}
    return build(trained, key).replace(frozen=params["model"])
