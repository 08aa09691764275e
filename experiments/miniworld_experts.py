"""How often the scripted experts of MiniWorld's tasks succeed, and how many steps they take.

    python -m experiments.miniworld_experts --episodes 512 --out experiments/results/miniworld_experts.md

Beside the steps stands a bound that no policy can beat, where a task is to go to one place: turns and steps in a
room without walls and things. In rooms with walls between it is loose, in one room it is nearly reached.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import envs_jax
from envs_jax.miniworld.entities import radii
from envs_jax.miniworld.walking import GoTo
from envs_jax.world import names_like
from experiments.program import run_as_program

PROGRAM = "python -m experiments.miniworld_experts"
FAMILY = "miniworld/"


def play(world: Any, episodes: int, seed: int = 0) -> tuple[Any, np.ndarray, np.ndarray]:
    """(first states, bool[episodes] success, int[episodes] steps) of the world's expert."""

    @jax.jit
    def run(keys):
        start = jax.vmap(world.reset)(keys)
        none = jnp.zeros(episodes, bool)

        def body(carry):
            state, key, ended, success, steps = carry
            key, action_key = jax.random.split(key)
            actions = jax.vmap(world.expert)(state, jax.random.split(action_key, episodes))
            state, step = jax.vmap(world.step)(state, actions)
            success |= step.success & ~ended
            return state, key, ended | step.terminated | step.truncated, success, steps + ~ended

        def goes_on(carry):
            return ~jnp.all(carry[2])  # ends: every episode is truncated after max_steps

        first = (start, jax.random.key(seed + 1), none, none, jnp.zeros(episodes, jnp.int32))
        return start, *jax.lax.while_loop(goes_on, body, first)[3:]

    start, success, steps = run(jax.random.split(jax.random.key(seed), episodes))
    return start, np.asarray(success), np.asarray(steps)


def bound(world: Any, start: Any) -> np.ndarray | None:
    """int[episodes]: no way to be near the target has fewer actions. None where that is not the task.

    After n turns to one side all headings so far miss the target by an angle m or more, and so does the sum of the
    steps. It ends within `reach` of the target, at distance d, only if d sin m <= reach, and is then at least
    d cos m - sqrt(reach^2 - d^2 sin^2 m) long. The least of n + steps over all n is the bound.
    """
    rule = world.task.rule
    if not isinstance(rule, GoTo):
        return None
    place = np.asarray(start.things.position[:, rule.target], np.float64)
    radius = np.asarray(jax.vmap(radii)(start.things))[:, rule.target]
    agent, yaw = np.asarray(start.agent.position, np.float64), np.asarray(start.agent.yaw)
    away = place - agent
    metres = np.hypot(away[:, 0], away[:, 2])
    angle = np.abs((np.arctan2(-away[:, 2], away[:, 0]) - yaw + math.pi) % (2 * math.pi) - math.pi)
    reach = world.body.radius + radius + 1.1 * world.body.reach
    turn, best = math.radians(world.turn_degrees), np.full(len(metres), np.inf)
    for turns in range(math.ceil(math.pi / turn) + 1):
        miss = np.maximum(angle - turns * turn, 0.0)
        able = (miss < math.pi / 2) & (metres * np.sin(miss) <= reach) | (metres <= reach)
        along = metres * np.cos(miss) - np.sqrt(np.maximum(reach**2 - (metres * np.sin(miss)) ** 2, 0.0))
        steps = np.ceil(np.maximum(along, 0.0) / world.forward_step - 1e-4)
        best = np.minimum(best, np.where(able, turns + steps, np.inf))
    return np.maximum(best, 1).astype(int)  # nothing is judged before the first action


def row(name: str, episodes: int) -> str:
    """One line of the table."""
    world = envs_jax.make(name)
    start, success, steps = play(world, episodes)
    least = bound(world, start)
    took = steps[success]
    if not len(took):
        return f"| {name} | {episodes} | 0.0 % | - | - | - | - | - | {world.max_steps} |"
    middle, late = np.percentile(took, (50, 95))
    line = (
        f"| {name} | {episodes} | {100 * success.mean():.1f} % | {took.mean():.1f} | {middle:.0f} | {late:.0f} | "
    )
    if least is None:
        return line + f"- | - | {world.max_steps} |"
    assert (least[success] <= took).all(), "a bound was beaten"
    fewest = least[success].mean()
    return line + f"{fewest:.1f} | {took.mean() / fewest:.2f} | {world.max_steps} |"


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes the table; returns the exit code."""
    parser = argparse.ArgumentParser(prog=PROGRAM, description=__doc__.split("\n")[0])
    parser.add_argument("--worlds", nargs="*", default=[f"{FAMILY}*"], help="names or patterns (default: all)")
    parser.add_argument("--episodes", type=int, default=512, help="of each world (default: 512)")
    parser.add_argument("--out", type=Path, default=None, help="file for the table; else it is only printed")
    given = parser.parse_args(arguments)
    if given.episodes < 1:
        parser.error(f"episodes is {given.episodes}; accepted: 1 or more")
    try:
        names = names_like(given.worlds)
        for name in names:
            envs_jax.make(name)
    except ValueError as error:
        parser.error(str(error))
    if others := [name for name in names if not name.startswith(FAMILY)]:
        parser.error(f"worlds has {others[0]!r}; accepted: those of {FAMILY}")
    if given.out and (given.out.is_dir() or not given.out.absolute().parent.is_dir()):
        parser.error(f"out is {str(given.out)!r}; accepted: a file in a folder that is there")
    lines = [
        "# The experts of the MiniWorld tasks",
        "",
        f"`python -m experiments.miniworld_experts --episodes {given.episodes}`, seed 0. Steps are those of",
        "successful episodes; the bound is what no policy can beat in a room without walls and things (see",
        "`experiments/miniworld_experts.py`), - where a task is not to go to one place; the ratio is",
        "that of the mean steps to it.",
        "",
        "| task | episodes | success | steps, mean | median | 95th percentile | bound, mean | ratio | limit |",
        "|-|-|-|-|-|-|-|-|-|",
    ]
    print("\n".join(lines), flush=True)
    for name in names:
        lines.append(row(name, given.episodes))
        print(lines[-1], flush=True)
    if given.out:
        try:
            given.out.write_text("\n".join(lines) + "\n")
        except OSError as error:
            print(f"error: {given.out} can not be written: {error.strerror}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    run_as_program(main)
