"""What a run has come to, as its summary and its report tell it."""

from __future__ import annotations

import platform
from importlib.metadata import version
from typing import Any

import jax
import numpy as np

from envs_jax import World
from envs_jax.world import spoken
from vldac import __version__
from vldac.evaluate.statistics import mean_interval, wilson
from vldac.evaluate.worlds import Recording, Results
from vldac.policy import Policy
from vldac.report import Episode
from vldac.text.answer import thoughts_of
from vldac.text.tokenizer import decode_answer


def add_results(summary: dict[str, Any], world: str, label: str, results: Results) -> None:
    """Adds the figures of one policy on one world to a summary."""
    success = np.asarray(results.success)
    steps = int(results.length.sum())
    figures = {
        "success_rate": wilson(int(success.sum()), len(success)),
        "steps_to_goal": mean_interval(results.length[success].astype(float)),
        "mean_return": mean_interval(results.episode_return),
    }
    for name, interval in figures.items():
        summary.setdefault(name, {}).setdefault(world, {})[label] = list(interval)
    if label in ("before", "after"):
        rates = summary.setdefault("parse_failure_rate", {})
        rates.setdefault(world, {})[label] = float(results.invalid.sum() / max(steps, 1))


def episodes_of(policy: Policy, world: World, results: Results, recording: Recording) -> list[Episode]:
    """The recorded episodes with the model's own words."""
    episodes = []
    for number in range(len(recording.action)):
        steps = range(int(results.length[number]))
        answers = [
            decode_answer(policy.vocabulary, recording.tokens[number, t][recording.mask[number, t]]) for t in steps
        ]
        actions = [spoken(world, recording.action[number][t]) for t in steps]
        episodes.append(
            Episode(
                frames=recording.frames[number, : len(steps)],
                answers=answers,
                thoughts=[thoughts_of(*step) for step in zip(answers, actions, strict=True)],
                actions=actions,
                rewards=recording.reward[number, : len(steps)],
                success=bool(results.success[number]),
                world=world.name,
                title=f"evaluation episode {number + 1}",
            )
        )
    return episodes


def versions() -> dict[str, str]:
    """What the run ran on."""
    packages = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "transformers")
    device = jax.devices()[0]
    return {
        "vldac": __version__,  # the packages' own are only in their metadata; this one may run from its sources
        **{name: version(name) for name in packages},
        "python": platform.python_version(),
        "platform": platform.platform(terse=True),
        "device": f"{jax.device_count()} x {device.device_kind}",
    }
