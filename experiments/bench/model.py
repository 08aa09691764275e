"""Speed of what a model is part of. Its weights are drawn on the device and are arguments of every program, never
constants in it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, PRNGKeyArray

from experiments.bench import work
from experiments.bench.kernels import Kernel, busiest
from experiments.bench.measure import compile_ahead, timed
from experiments.bench.table import Row
from experiments.bench.work import Number
from experiments.build import Parts
from experiments.restore import TRAINING, initial_params, stage_key
from experiments.runtime import compile_iteration
from vldac import learning, memory, train
from vldac.lanes import Observation
from vldac.policy import Policy
from vldac.rollout import Trajectory, rollout


class Model:
    """Times what a model is part of, on the parameters of a run before its first iteration.

    Args:
      parts: of the run.
      repeats: times that each program is timed.
      tell: is told what goes on.
      kernels: so many that take longest are looked for.
    """

    def __init__(self, parts: Parts, repeats: int, tell: Callable[[str], None], kernels: int = 0):
        tell("drawing weights")
        self.parts, self.repeats, self.tell, self.kernels = parts, repeats, tell, kernels
        self.setup = parts.setup
        self.sizes = work.Sizes.of(parts)
        params = initial_params(parts)
        self.state = jax.block_until_ready(train.init(self.setup, params, stage_key(parts, TRAINING)))

    @property
    def _prefix(self) -> int:
        return len(self.setup.policy.prompt.prefix)

    def _row(self, piece: str, what: str, size: dict[str, int], **values: Any) -> Row:
        rollout = self.setup.rollout
        lanes = {"lanes": rollout.worlds if piece == "decode" else rollout.lanes or rollout.worlds}
        if piece in ("rollout", "iteration"):
            lanes = {"worlds": rollout.worlds, **lanes}
        elif piece == "update":
            lanes = {}
        shape = {"static": self._prefix, "context": self.setup.policy.prompt.context_slots}
        return Row(piece, what, {**lanes, **size, **shape}, dtype=self.sizes.dtype, **values)

    def _busiest(self, call: Callable[[], Any]) -> list[Kernel]:
        return busiest(call, self.kernels) if self.kernels else []

    def decode(self) -> list[Row]:
        """Observations of as many worlds as a rollout has, every frame there, to values and to answers."""
        self.tell("decode")
        policy, lanes = self.setup.policy, self.setup.rollout.worlds
        params, key = self.state.policy_params, jax.random.key(1)
        observation = _noise(self.state.lanes.observation, key)
        context = float(_context_tokens(policy, observation).mean())
        images = policy.config.history

        once = compile_ahead(jax.jit(policy.prepare), params)
        once_timing = timed(lambda: once.call(params), self.repeats)
        prepared = once.call(params)
        value = compile_ahead(jax.jit(policy.value), prepared, observation)
        value_timing = timed(lambda: value.call(prepared, observation), self.repeats)
        act = compile_ahead(jax.jit(policy.act), prepared, observation, key)
        act_timing = timed(lambda: act.call(prepared, observation, key), self.repeats)

        mask = np.asarray(act.call(prepared, observation, key).mask)
        alive = [int(count) for count in mask.sum(0) if count]
        tokens = {"useful_tokens": int(mask.sum()), "loop_tokens": lanes * len(alive)}
        size = {"answer": len(alive)}
        prompt = [
            *work.frames(self.sizes, lanes * images),
            *work.prompt(self.sizes, lanes, self._prefix, context),
        ]
        answers = work.answers(self.sizes, alive, self._prefix, context)
        program = {
            "compile_seconds": act.compile_seconds,
            "device_bytes": act.device_bytes,
            "kernels": self._busiest(lambda: act.call(prepared, observation, key)),
        }
        rows = [
            self._row(
                "decode",
                "once a rollout",
                {},
                timing=once_timing,
                counts={},
                stages=work.static_text(self.sizes, self._prefix),
                compile_seconds=once.compile_seconds,
                device_bytes=once.device_bytes,
            ),
            self._row(
                "decode",
                "prompt",
                {},
                timing=value_timing,
                counts={},
                stages=prompt,
                compile_seconds=value.compile_seconds,
                device_bytes=value.device_bytes,
            ),
            self._row(
                "decode",
                "prompt and answer",
                size,
                timing=act_timing,
                counts=tokens,
                stages=[*prompt, *answers],
                **program,
            ),
        ]
        rest = act_timing.less(value_timing)
        if min(rest.seconds) > 0:
            note = "the time of prompt and answer, less that of the prompt alone"
            rows.append(
                self._row("decode", "answer", size, timing=rest, counts=tokens, stages=answers, notes=[note])
            )
        return rows

    def rollout(self) -> list[Row]:
        """One iteration's experience, from the first observations on."""
        self.tell("rollout")
        setup, state = self.setup, self.state

        def gather(params, lanes, key):
            return rollout(setup.policy, setup.world, params, lanes, key, setup.rollout)[1]

        args = state.policy_params, state.lanes, jax.random.key(2)
        program = compile_ahead(jax.jit(gather), *args)
        timing = timed(lambda: program.call(*args), self.repeats)
        trajectory = program.call(*args)
        mask = trajectory.response.mask
        tokens, steps = int(mask.sum()), int(trajectory.valid.sum())
        looped = int(trajectory.lane_tokens) + int(mask[..., 0].sum())  # first tokens come with the prompt
        context = float(_context_tokens(setup.policy, trajectory.observation).mean())
        return [
            self._row(
                "rollout",
                "experience",
                {"steps": setup.rollout.steps},
                timing=timing,
                counts={"useful_tokens": tokens, "loop_tokens": looped, "env_steps": steps},
                stages=self._rollout_work(steps, tokens, context),
                compile_seconds=program.compile_seconds,
                device_bytes=program.device_bytes,
                kernels=self._busiest(lambda: program.call(*args)),
            )
        ]

    def update(self) -> list[Row]:
        """Learning from an iteration's experience in which every answer is as long as it may be."""
        self.tell("update")
        setup, state, key = self.setup, self.state, jax.random.key(3)
        trajectory = _full(setup, state, key)
        program = compile_ahead(jax.jit(learning.update, static_argnums=0), setup, state, trajectory, key)
        timing = timed(lambda: program.call(state, trajectory, key), self.repeats)
        steps = setup.rollout.worlds * setup.rollout.steps
        tokens = steps * setup.policy.config.max_tokens
        context = float(_context_tokens(setup.policy, trajectory.observation).mean())
        return [
            self._row(
                "update",
                "reference and epochs",
                self._update_size,
                timing=timing,
                counts={"useful_tokens": tokens, "env_steps": steps},
                stages=self._update_work(steps, tokens, context),
                compile_seconds=program.compile_seconds,
                device_bytes=program.device_bytes,
                kernels=self._busiest(lambda: program.call(state, trajectory, key)),
            )
        ]

    def iteration(self) -> list[Row]:
        """What a run repeats, from one state to the next. The first state is gone afterwards."""
        self.tell("iteration")
        setup = self.setup
        started = time.perf_counter()
        collect, learn = compile_iteration(setup, self.state, self.parts.mesh)
        compile_seconds = time.perf_counter() - started
        device_bytes = memory.iteration_bytes(collect, learn, self.state)
        done = []

        def step():
            lanes, trajectory = collect(self.state.policy_params, self.state.lanes, self.state.key)
            self.state, metrics = learn(self.state.replace(lanes=lanes), trajectory)
            done.append(metrics)
            return self.state, metrics

        timing = timed(step, self.repeats)
        steps, tokens = (
            float(np.mean([float(metrics[f"rollout/{name}"]) for metrics in done[1:]]))
            for name in ("env_steps", "tokens")
        )
        context = float(_context_tokens(setup.policy, self.state.lanes.observation).mean())
        return [
            self._row(
                "iteration",
                "rollout and update",
                {"steps": setup.rollout.steps, **self._update_size},
                timing=timing,
                counts={"useful_tokens": tokens, "env_steps": steps},
                stages=[*self._rollout_work(steps, tokens, context), *self._update_work(steps, tokens, context)],
                compile_seconds=compile_seconds,
                device_bytes=device_bytes,
                kernels=self._busiest(step),
            )
        ]

    @property
    def _update_size(self) -> dict[str, int]:
        config = self.setup.optimizer
        steps = self.setup.rollout.worlds * self.setup.rollout.steps
        sizes = {"experience": steps, "epochs": config.epochs, "minibatch": config.minibatch}
        return {**sizes, "microbatch": config.microbatch or config.minibatch}

    def _rollout_work(self, steps: Number, tokens: Number, context: Number) -> list[work.Stage]:
        """One prompt a step, and one more a world for the value of what came last. Every frame is encoded once."""
        config, history = self.setup.rollout, self.setup.policy.config.history
        lanes = config.lanes or config.worlds
        return [
            *work.static_text(self.sizes, self._prefix),
            *work.frames(self.sizes, config.worlds * history),
            *work.frames(self.sizes, config.worlds, config.steps),
            *work.prompt(self.sizes, config.worlds, self._prefix, context, config.steps + 1),
            *work.packed_answers(self.sizes, lanes, steps, tokens, self._prefix, context),
        ]

    def _update_work(self, steps: Number, tokens: Number, context: Number) -> list[work.Stage]:
        return work.update(
            self.sizes,
            steps,
            tokens,
            self._prefix,
            context,
            self.setup.policy.config.history,
            self.setup.optimizer.epochs,
            self.setup.updates,
        )


def _noise(observation: Observation, key: PRNGKeyArray) -> Observation:
    """Observations of the same shape whose frames are all there, and noise."""
    frames = jax.random.bits(key, observation.frames.shape, jnp.uint8)
    return observation.replace(frames=frames, frames_seen=jnp.full_like(observation.frames_seen, frames.shape[-4]))


def _full(setup: train.Setup, state: train.TrainState, key: PRNGKeyArray) -> Trajectory:
    """A trajectory of noise: every answer of full length, every step valid. Nothing is compiled for it.

    Rewards are noise as well, and tokens as probable as any: gradients of zeros would take a device less power,
    and less time, than those of a run.
    """

    def gather(state, key):
        return rollout(setup.policy, setup.world, state.policy_params, state.lanes, key, setup.rollout)[1]

    empty = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(gather, state, key))
    response = empty.response
    tokens = jax.random.randint(key, response.tokens.shape, 0, setup.policy.vocabulary.size, jnp.int32)
    return empty.replace(
        observation=_noise(empty.observation, key),
        response=response.replace(
            tokens=tokens,
            mask=jnp.ones_like(response.mask),
            log_probs=jnp.full_like(response.log_probs, -math.log(setup.policy.vocabulary.size)),
        ),
        reward=jax.random.normal(key, empty.reward.shape),
        valid=jnp.ones_like(empty.valid),
    )


def _context_tokens(policy: Policy, observation: Observation) -> Int[Array, "*b"]:
    """Tokens between static text and answer, absent slots not counted, of observations [..., B]."""
    count = lambda seen, text: policy.prompt.context(seen, text).valid.sum()  # noqa: E731
    seen, text = observation.frames_seen, observation.text
    counted = jax.jit(jax.vmap(count))(seen.reshape(-1), text.reshape(-1, text.shape[-1]))
    return counted.reshape(seen.shape)
