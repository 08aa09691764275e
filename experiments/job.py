"""The stages of a run: warm start, evaluation, training, evaluation again, report.

* What has been done is on disk before the next stage begins, so a run that is killed goes on where it stood
  (`resume`) and gives the same numbers: every stage draws from a key of its own, made from the seed.
* Programs are compiled ahead of time, each once, those behind the warm start side by side; the time for that is
  booked apart from what they do.
* On a mesh of devices everything is on all of them. Where several processes share the mesh, all go through the
  same stages, and only the first one writes and prints.
* The first Ctrl-C (or SIGTERM) ends the run after the iteration that is running, or the warm start's few updates:
  saved, reported, resumable.
"""

from __future__ import annotations

import contextlib
import resource
import shutil
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
from rich.console import Console
from rich.text import Text

from experiments.build import Parts
from experiments.clock import Clock
from experiments.config import CONFIG_FILE, to_json
from experiments.display import Display
from experiments.interrupt import Interrupt
from experiments.outcome import add_results, episodes_of, versions
from experiments.restore import (
    BASELINES,
    CHECKPOINT_FOLDER,
    EVALUATION,
    IMITATION,
    PERIODIC,
    TRAINING,
    WARM_START_FOLDER,
    initial_params,
    restore_state,
    restore_warm_start,
    saved_part,
    saved_warm_start,
    stage_key,
)
from experiments.runtime import Programs, lower_collect, lower_learn, precise
from vldac import imitation, memory, mesh, train, watch
from vldac.checkpoint import Checkpointer, Restored
from vldac.evaluate.worlds import Recording, Results, play_policy, play_scripted
from vldac.metrics import MetricsWriter, read_summary, write_atomically, write_summary
from vldac.report import save_episodes, write_report

_CHUNK = 10  # warm-start updates of one program: often enough for a progress bar

# What they give is read on the host, in every process.
_evaluate = jax.jit(lambda *args: mesh.gather(play_policy(*args)), static_argnums=(0, 1, 4, 5, 6))
_baselines = jax.jit(lambda *args: mesh.gather(play_scripted(*args)), static_argnums=(0, 2))


class Diverged(RuntimeError):
    """The training has left the numbers. `str()` is one line; the state from before is saved."""


class Job:
    """One run in one folder.

    Args:
      parts: what it is made of.
      run_dir: its folder; made if it is new.
      console: where progress is shown.
    """

    def __init__(self, parts: Parts, run_dir: Path, console: Console):
        self.parts = parts
        self.run_dir = run_dir
        self.console = console
        self.clock = Clock()
        self._writes = jax.process_index() == 0  # the run's files, all but what a checkpoint needs of others
        self._programs = Programs(self.clock)
        self._memory = memory.device_memory()
        self._wrong: set[str] = set()  # conditions that hold at present
        self._counted: int | None = None  # bytes of an iteration, once the compiler has told

    def run(self, resume: bool) -> dict[str, Any]:
        """Goes through all stages that are not done yet.

        Args:
          resume: the folder holds a run that is to go on.

        Returns:
          The run's summary.

        Raises:
          RunFileError: a file of the run can not be written or read; CheckpointError is one.
          Diverged: too many updates in a row had to be skipped.
          DoesNotFit: something needs more of the device's memory than there is.
        """
        config, setup = self.parts.config, self.parts.setup
        if self._writes:
            if not resume:
                write_atomically(self.run_dir / CONFIG_FILE, to_json(config).encode())
            summary, facts = read_summary(self.run_dir), self.parts.facts()
            if facts.keys() - summary.keys():
                write_summary(self.run_dir, facts | summary)
        with (
            mesh.use(self.parts.mesh),
            precise(config.model.dtype),
            Interrupt(self.console) as interrupt,
            Checkpointer(self.run_dir / CHECKPOINT_FOLDER, config.checkpoint.keep) as checkpoints,
            Display(config.iterations, self.console) as display,
        ):
            restored = restore_state(self.parts, checkpoints) if resume else None
            if restored is not None:
                self._go_on(restored, f"iteration {restored.iteration}")
                state = restored.state
            else:
                state = self._warm_start(display, interrupt, resume)
                if state is not None:
                    checkpoints.save(0, saved_part(state), {"seconds": self.clock.dump()}, blocking=True)
            if state is not None and self._writes:
                shutil.rmtree(self.run_dir / WARM_START_FOLDER, ignore_errors=True)
            if state is not None and not interrupt.wanted and int(state.iteration) < setup.iterations:
                display.stage("compiling")
                with self._fitting():
                    self._prepare(state)
            if state is not None and not interrupt.wanted:
                self._judge("before", state, display, interrupt)
            if state is not None and not interrupt.wanted:
                with self._fitting():
                    state = self._train(state, checkpoints, display, interrupt)
            finished = state is not None and int(state.iteration) == setup.iterations and not interrupt.wanted
            # A wish that comes when all is done stops nothing.
            whole = finished and self._judge("after", state, display, interrupt)
            display.stage("report")
            summary = self._summarise(state, interrupted=not whole)
            if self._writes:
                write_report(self.run_dir)
        return summary

    def _fitting(self) -> contextlib.AbstractContextManager[None]:
        return memory.fitting("the training", memory.advice(self.parts.setup))

    def _key(self, stage: int) -> jax.Array:
        return stage_key(self.parts, stage)

    def _prepare(self, state: train.TrainState) -> None:
        """Compiles, side by side, all that a run wants from the warm start on.

        Raises:
          DoesNotFit: as `_halves`.
        """
        if self.parts.config.evaluation.episodes:
            measured = read_summary(self.run_dir).get("success_rate", {})
            for name in self.parts.policies:
                if "expert" not in measured.get(name, {}):
                    self._announce_baseline(name)
                self._announce_play(name, state.policy_params)
        self._halves(state)

    def _announce_play(self, name: str, params: Any) -> None:
        config = self.parts.config.evaluation
        record = config.record if name == self.parts.config.world else 0
        args = self.parts.policies[name], self.parts.worlds[name], params, self._key(EVALUATION)
        static = config.episodes, config.lanes, record
        self._programs.announce(("play", name), lambda: _evaluate.lower(*args, *static))

    def _announce_baseline(self, name: str) -> None:
        args = self.parts.worlds[name], self._key(BASELINES), self.parts.config.evaluation.episodes
        self._programs.announce(("baselines", name), lambda: _baselines.lower(*args))

    def _halves(self, state: train.TrainState) -> tuple[Callable, Callable]:
        """The two programs of an iteration.

        Raises:
          DoesNotFit: the compiler says that they need more memory than there is.
        """
        setup = self.parts.setup
        self._programs.announce("collect", lambda: lower_collect(setup, state))
        self._programs.announce("learn", lambda: lower_learn(setup, state, self.parts.mesh))
        halves = self._programs["collect"], self._programs["learn"]
        self._counted = memory.iteration_bytes(*halves, state)
        memory.check(setup, self._counted or 0, self._memory, "the compiler's count")
        return halves

    def _go_on(self, restored: Restored, after: str) -> None:
        """Says what the run goes on from, and counts what has been done."""
        for note in restored.notes:
            self.console.print(Text(note, style="yellow"), soft_wrap=True)  # a path may look like markup
        self.console.print(f"Going on after {after}.")
        # What came after the checkpoint took its time, too.
        self.clock.load(restored.extra["seconds"])
        self.clock.load(read_summary(self.run_dir).get("seconds") or {})

    def _warm_start(self, display: Display, interrupt: Interrupt, resume: bool) -> train.TrainState | None:
        """Initial parameters, taught by imitation; None if interrupted: saved, and gone on with by `resume`."""
        setup = self.parts.imitation
        steps = setup.config.steps
        with Checkpointer(self.run_dir / WARM_START_FOLDER, keep=1) as stopped:
            restored = restore_warm_start(self.parts, stopped) if resume and steps else None
            if restored is not None:
                self._go_on(restored, f"update {restored.iteration} of the warm start")
                first, state = restored.iteration, restored.state
            else:
                if resume:
                    self.console.print("No checkpoint yet: starting over.")
                display.stage("weights")
                with self._fitting(), self.clock("weights"):
                    params = jax.block_until_ready(initial_params(self.parts))
                if not steps:
                    return train.init(self.parts.setup, params, self._key(TRAINING))
                first, state = 0, imitation.init(setup, params, self._key(IMITATION))
            display.stage("warm start", total=steps, completed=first)
            for done in range(first, steps, _CHUNK):
                if interrupt.wanted:
                    stopped.save(done, saved_warm_start(state), {"seconds": self.clock.dump()}, blocking=True)
                    return None
                chunk = min(_CHUNK, steps - done)
                with memory.fitting("the warm start", f"fewer --imitation.worlds than {setup.config.worlds}"):
                    name = "imitation", chunk
                    self._programs.announce(name, partial(imitation.jit_run.lower, setup, chunk, state))
                    run = self._programs[name]
                    with self.clock("imitation"):
                        state, metrics = run(state)
                        metrics = jax.device_get(metrics)
                display.advance({f"imitation/{name}": float(value) for name, value in metrics.items()}, chunk)
        return train.init(self.parts.setup, state.params, self._key(TRAINING))

    def _train(
        self, state: train.TrainState, checkpoints: Checkpointer, display: Display, interrupt: Interrupt
    ) -> train.TrainState:
        """The training loop, from the state's iteration to the last."""
        config, setup = self.parts.config, self.parts.setup
        done = int(state.iteration)
        display.stage("training", total=setup.iterations, completed=done)
        writer = MetricsWriter(self.run_dir, resume_from_iteration=done) if self._writes else None
        with writer or contextlib.nullcontext():
            saved = done
            if done < setup.iterations and not interrupt.wanted:
                collect, learn = self._halves(state)
            while done < setup.iterations and not interrupt.wanted:
                started = time.perf_counter()
                with self.clock("rollout"):
                    lanes, trajectory = collect(state.policy_params, state.lanes, state.key)
                    state = state.replace(lanes=lanes)
                    jax.block_until_ready(trajectory)  # for the clock; it stays where it is
                with self.clock("update"):
                    state, metrics = learn(state, trajectory)
                    metrics = {name: float(value) for name, value in jax.device_get(metrics).items()}
                seconds = time.perf_counter() - started
                done += 1
                self._warn(metrics, display)
                record = {
                    "iteration": done,
                    "env_steps": int(state.env_steps),
                    "seconds": self.clock.total,
                    **metrics,
                    "rollout/tokens_per_second": metrics["rollout/tokens"] / seconds,
                    "rollout/env_steps_per_second": metrics["rollout/env_steps"] / seconds,
                }
                periodic = config.evaluation.every if config.evaluation.episodes else 0
                if periodic and done % periodic == 0 and done < setup.iterations:
                    key = jax.random.fold_in(self._key(PERIODIC), done)
                    results, _ = self._play(config.world, state.policy_params, key)
                    record[f"eval/{config.world}/success_rate"] = float(results.success.mean())
                # The line first: a kill in between leaves one too many, which resuming forgets again.
                if writer is not None:
                    writer.write(record)
                display.advance(record)
                diverged = int(state.skipped) >= config.optimizer.max_skipped
                if done % config.checkpoint.every == 0 or diverged:
                    checkpoints.save(done, saved_part(state), {"seconds": self.clock.dump()})
                    saved = done
                if diverged:
                    checkpoints.wait()
                    raise Diverged(
                        f"{int(state.skipped)} updates in a row had a gradient that is not finite or a loss above "
                        f"optimizer.max_loss, which is {config.optimizer.max_loss:g} (large rewards want a higher "
                        f"one); what is saved is from before them: {self.run_dir / CHECKPOINT_FOLDER}"
                    )
            if saved != done:
                checkpoints.save(done, saved_part(state), {"seconds": self.clock.dump()})
            checkpoints.wait()
        return state

    def _warn(self, metrics: dict[str, float], display: Display) -> None:
        """Says what begins to go wrong, and what no longer does."""
        wrong = watch.conditions(metrics, self.parts.config.model.dtype)
        for name, words in wrong.items():
            if name not in self._wrong:
                display.note(words)
        for name in self._wrong - wrong.keys():
            display.note(f"{name}: no longer")
        self._wrong = set(wrong)

    def _play(self, name: str, params: Any, key: jax.Array) -> tuple[Results, Recording]:
        """Evaluation episodes of the policy in a world, on the host."""
        lanes = self.parts.config.evaluation.lanes
        with memory.fitting("the evaluation", f"fewer --evaluation.lanes than {lanes}"):
            self._announce_play(name, params)
            run = self._programs["play", name]
            with self.clock("evaluation"):
                return jax.device_get(run(params, key))

    def _judge(self, label: str, state: train.TrainState, display: Display, interrupt: Interrupt) -> bool:
        """Evaluates on every world and notes the figures in the summary; skips what it holds already.

        Before RL only a model that has not been trained can be measured.

        Returns:
          Whether all has been measured that can be: not where it is interrupted.
        """
        if not self.parts.config.evaluation.episodes:
            return True
        summary = read_summary(self.run_dir)
        too_late = label == "before" and int(state.iteration) > 0
        display.stage(f"evaluation {label} RL", total=len(self.parts.policies))
        for number, (name, policy) in enumerate(self.parts.policies.items()):
            if interrupt.wanted:
                return False
            measured = summary.get("success_rate", {}).get(name, {})
            if label not in measured:
                if label == "before" and "expert" not in measured:
                    self._baseline(summary, name, jax.random.fold_in(self._key(BASELINES), number))
                if too_late:
                    display.note(f"{name}: no figures from before RL are left, and it is too late to measure them")
                else:
                    key = jax.random.fold_in(self._key(EVALUATION), number)
                    results, recording = self._play(name, state.policy_params, key)
                    add_results(summary, name, label, results)
                    if self._writes and name == self.parts.config.world:
                        world = self.parts.worlds[name]
                        save_episodes(self.run_dir, label, episodes_of(policy, world, results, recording))
                if self._writes:
                    write_summary(self.run_dir, summary)
            display.advance({})
        return True

    def _baseline(self, summary: dict[str, Any], name: str, key: jax.Array) -> None:
        """What the scripted expert and uniformly random actions achieve in a world."""
        self._announce_baseline(name)
        run = self._programs["baselines", name]
        with self.clock("evaluation"):
            expert, chance = jax.device_get(run(key))
        add_results(summary, name, "random", chance)
        add_results(summary, name, "expert", expert)

    def _summarise(self, state: train.TrainState | None, interrupted: bool) -> dict[str, Any]:
        """The run's summary, written; left as it is by a process that found nothing to do."""
        summary = read_summary(self.run_dir)
        stands = {
            "iterations": 0 if state is None else int(state.iteration),
            "env_steps": 0 if state is None else int(state.env_steps),
            "interrupted": interrupted,
        }
        if self.clock.idle and stands.items() <= summary.items():
            return summary
        before = summary.get("device_memory_bytes") or {}  # of the run's earlier processes
        counted, worst = "counted by the compiler", "at the worst moment"
        summary |= stands | {
            "seconds": self.clock.dump(),
            "device_memory_bytes": {
                "estimated": memory.estimate(
                    self.parts.setup, self.parts.model_config, self.parts.abstract_params(), self.parts.mesh_sizes
                ).peak,
                counted: _larger(before.get(counted), self._counted),
                worst: _larger(before.get(worst), memory.device_peak()),
                "limit": self._memory,
            },
            "peak_memory_mib": _larger(summary.get("peak_memory_mib"), peak_memory_mib()),
            "versions": versions(),
        }
        if self._writes:
            write_summary(self.run_dir, summary)
        return summary


def _larger(before: int | float | None, now: int | float | None) -> int | float | None:
    """Of a figure that an earlier process or this one may not know."""
    return max((figure for figure in (before, now) if figure is not None), default=None)


def peak_memory_mib() -> float:
    """What this process has had in memory at its worst moment, MiB."""
    unit = 1 if sys.platform == "darwin" else 1024  # bytes; Linux counts in KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20
