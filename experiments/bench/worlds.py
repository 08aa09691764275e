"""Speed of the worlds alone: ours, and beside them the original of some."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

import envs_jax
from experiments.bench.measure import Timing, compile_ahead, timed
from experiments.bench.table import Row
from experiments.config import ConfigError
from vldac.lanes import ResetPool, advance, begin, random_actions, select

_STEPS = 16  # of one program; what surrounds them then counts little
_NUMBERS = {"cpu": (64, 256)}
_MOST_NUMBERS = (256, 1024, 4096)


def make_worlds(names: Sequence[str], image: tuple[int, int]) -> list[envs_jax.World]:
    """Worlds with frames of `image` = (height, width), (0, 0) = of their own.

    Raises:
      ConfigError: a world has no such option, or no frames of that size.
    """
    options = {"image_shape": (*image, 3)} if any(image) else {}
    try:
        return [envs_jax.make(name, **options) for name in names]
    except ValueError as error:
        raise ConfigError(f"{f'image is {image}' if any(image) else 'worlds'}: {error}") from error


def measure_worlds(
    worlds: Sequence[envs_jax.World], numbers: Sequence[int], repeats: int, tell: Callable[[str], None]
) -> list[Row]:
    """Frames; steps with random actions, episodes that end replaced as in a rollout; steps with frames."""
    rows = []
    for world in worlds:
        name, (height, width, _) = world.name, world.image_shape
        for number in numbers or _NUMBERS.get(jax.default_backend(), _MOST_NUMBERS):
            tell(f"worlds: {number:,} x {name}")
            size = {"worlds": number, "high": height, "wide": width}
            states = _fresh(world, number)
            program = compile_ahead(jax.jit(_views, static_argnums=0), world, states)
            rows.append(
                Row(
                    piece="worlds",
                    what=f"{name}, render",
                    size=size,
                    timing=timed(lambda program=program, states=states: program.call(states), repeats),
                    counts={"frames": number},
                    compile_seconds=program.compile_seconds,
                    device_bytes=program.device_bytes,
                )
            )
            for what, run in (("step", _steps), ("step and render", _frames)):
                program = compile_ahead(jax.jit(run, static_argnums=(0, 1)), world, number, jax.random.key(0))
                steps = number * _STEPS
                rows.append(
                    Row(
                        piece="worlds",
                        what=f"{name}, {what}",
                        size={**size, "steps": _STEPS},
                        timing=timed(lambda program=program: program.call(jax.random.key(0)), repeats),
                        counts={"env_steps": steps} | ({"frames": steps} if run is _frames else {}),
                        compile_seconds=program.compile_seconds,
                        device_bytes=program.device_bytes,
                    )
                )
    return rows


def measure_original(
    names: Sequence[str], image: tuple[int, int], repeats: int, tell: Callable[[str], None]
) -> list[Row]:
    """The original MiniWorld's own tasks, one at a time as it can, in a process of its own.

    Raises:
      ConfigError: it is not installed, or there is no display to be had.
    """
    tell("worlds: the original MiniWorld")
    words = [*names, "--repeats", str(repeats), *(["--image", *map(str, image)] if any(image) else [])]
    done = subprocess.run([sys.executable, "-m", "experiments.peers.miniworld_gl", *words], stdout=subprocess.PIPE)
    if done.returncode:
        raise ConfigError("original is True; accepted where the line above does not come")
    rows = json.loads(done.stdout)
    timings = [Timing(tuple(row.pop("seconds"))) for row in rows]
    return [
        Row(piece="worlds", runner="miniworld", timing=timing, **row)
        for timing, row in zip(timings, rows, strict=True)
    ]


def _fresh(world: Any, number: int) -> Any:
    """First states."""
    return jax.jit(jax.vmap(world.reset))(jax.random.split(jax.random.key(0), number))


def _views(world: Any, states: Any) -> Any:
    """One frame of every world."""
    return jax.vmap(world.render)(states)


def _steps(world: Any, number: int, key: PRNGKeyArray) -> Any:
    """`_STEPS` random steps of every world, no frames."""
    reset_key, pool_key, key = jax.random.split(key, 3)
    states = jax.vmap(world.reset)(jax.random.split(reset_key, number))
    pool = ResetPool.create(world, pool_key, number)

    def one(carry, key):
        states, pool, reward = carry
        states, step = jax.vmap(world.step)(states, random_actions(world, states, key))
        fresh, pool = pool.take(ended := step.terminated | step.truncated)
        return (select(ended, fresh, states), pool, reward + step.reward), None

    carry = states, pool, jnp.zeros(number)
    return jax.lax.scan(one, carry, jax.random.split(key, _STEPS))[0]


def _frames(world: Any, number: int, key: PRNGKeyArray) -> Any:
    """The same by way of a rollout's own lanes, which hold the last frame of every world."""
    reset_key, pool_key, key = jax.random.split(key, 3)
    lanes = begin(world, jax.random.split(reset_key, number), history=1)
    pool = ResetPool.create(world, pool_key, number)

    def one(carry, key):
        lanes, outcome, pool = advance(
            world, carry[0], random_actions(world, carry[0].world, key), carry[1], history=1
        )
        return (lanes, pool), outcome.step.reward.sum()

    return jax.lax.scan(one, (lanes, pool), jax.random.split(key, _STEPS))
