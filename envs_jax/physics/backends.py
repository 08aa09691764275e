"""brax's backends, measured on the table: `python -m envs_jax.physics.backends [BACKEND ...]`.

What is asked (two pucks, no walls, 10 ms; the numbers were measured on one CPU core, jax 0.10.2, brax 0.14.2):

* slide: a puck set off at 1 m/s, by how much the way to its rest is off from v^2 / (2 mu g) - v dt / 2;
* hit: a puck runs head on into another at rest; the share of momentum that is lost, friction taken into account,
  and the least gap between them (negative: they overlap);
* push: the pusher takes a puck along at a steady pace; the force of its servo against m mu g;
* jam: the pusher presses a puck against the border with all its strength; the least gap to a finger, how far the
  puck gets beyond its limit, and the greatest speed that is left;
* seconds to compile, and microseconds a physics step of one world among 64, both of CPU time.

                         mjx  generalized   positional       spring
    slide_error_mm      0.075        0.075        0.074        0.075
    hit_gap_mm         -2.646       -2.646       -0.000       -2.646
    push_force_ratio    1.000        0.997        1.000        1.000
    jam_gap_mm         -1.630      -28.683      -16.270      -38.966
    jam_beyond_mm      12.436      211.691       29.369       23.053
    jam_speed           0.003      926.523        0.335     1059.960
    compile_s           8.204        8.227       11.647        7.108
    step_us             7.983       35.059       13.294        3.533

All lose less than a thousandth of the momentum. The machine did other things, too, when the speeds were measured.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, fields

import jax
import jax.numpy as jnp
import numpy as np

from envs_jax.physics.table import (
    CRADLE,
    DAMPING,
    FINGER_OFFSET,
    FINGER_RADIUS,
    FRICTION,
    GRAVITY,
    GRIP,
    PUCK_LIMIT,
    PUCK_MASS,
    PUCK_RADIUS,
    TIMESTEP,
    Table,
)

BACKENDS = ("mjx", "generalized", "positional", "spring")
STEPS = 100  # physics steps of every measurement
_LANES = 64


@dataclass(frozen=True)
class Measured:
    """Of one backend; millimetres, shares, newtons, mm/s, seconds and microseconds, as in the module."""

    slide_error_mm: float
    hit_momentum_lost: float
    hit_gap_mm: float
    push_force_ratio: float
    jam_gap_mm: float
    jam_beyond_mm: float
    jam_speed: float
    compile_s: float
    step_us: float


def measure(backend: str, speed: bool = True) -> Measured:
    """Measures a backend; NaN in what it cannot do.

    Args:
      backend: one of `BACKENDS`.
      speed: whether to measure the speed of a step, which takes another compilation.
    """
    table = Table(pucks=2, walls=0, backend=backend)
    walls = jnp.zeros((0, 2))

    def physics(q, qd, aims):
        return table.physics(q, qd, walls, aims)

    still, path = jnp.zeros((STEPS, 2)), jnp.linspace(0.0, 1.0, STEPS)[:, None]
    away = jnp.array([-0.3, 0.3, 0.3, 0.3, 0.0, 0.0])  # two pucks out of the way, the pusher in the middle
    rolling = jnp.zeros(6).at[0].set(1.0)
    started = time.process_time()
    run = jax.jit(physics).lower(away, rolling, still).compile()
    compiled = time.process_time() - started

    def play(q, qd, aims):
        return tuple(np.asarray(part, np.float64) for part in run(q, qd, aims))

    q, _ = play(away, rolling, still)
    ideal = 1 / (2 * FRICTION * GRAVITY) - TIMESTEP / 2
    slide = q[-1, 0] + 0.3 - ideal

    q, qd = play(away.at[2].set(-0.3 + 2 * PUCK_RADIUS + 0.015), rolling, still)
    gap = np.hypot(q[:, 0] - q[:, 2], q[:, 1] - q[:, 3]) - 2 * PUCK_RADIUS
    after = int(np.argmax(qd[:, 2] > 0.01)) + 2
    # Friction has taken mu g dt in each step from each puck that moved when it began.
    moved = 1 + (qd[:after, 0] > 1e-3).sum() + (qd[:after, 2] > 1e-3).sum()
    lost = 1 - (qd[after, 0] + qd[after, 2] + moved * FRICTION * GRAVITY * TIMESTEP)

    pushed = away.at[:2].set(jnp.array([CRADLE + 0.005, 0.004]))
    aims = path * jnp.array([0.25, 0.0])
    q, qd = play(pushed, jnp.zeros(6), aims)
    half = STEPS // 2
    before = slice(half - 1, half + 19)  # the servo's force in a step follows from where it was before
    force = GRIP * (np.asarray(aims)[half : half + 20, 0] - q[before, 4]) - DAMPING * qd[before, 4]
    ratio = force.mean() / (FRICTION * PUCK_MASS * GRAVITY)

    q, qd = play(pushed, jnp.zeros(6), jnp.minimum(2 * path, 1.0) * jnp.array([0.8, 0.0]))
    finger = min(
        (np.hypot(q[:, 0] - q[:, 4] - x, q[:, 1] - q[:, 5] - y) - PUCK_RADIUS - FINGER_RADIUS).min()
        for x in (-FINGER_OFFSET, FINGER_OFFSET)
        for y in (-FINGER_OFFSET, FINGER_OFFSET)
    )

    took = float("nan")
    if speed:
        many = jax.jit(jax.vmap(physics))
        lanes = [jnp.tile(part, (_LANES,) + (1,) * part.ndim) for part in (pushed, jnp.zeros(6), aims)]
        jax.block_until_ready(many(*lanes))
        started = time.process_time()
        jax.block_until_ready(many(*lanes))
        took = (time.process_time() - started) / _LANES / STEPS
    return Measured(
        slide_error_mm=1e3 * slide,
        hit_momentum_lost=lost,
        hit_gap_mm=1e3 * gap.min(),
        push_force_ratio=ratio,
        jam_gap_mm=1e3 * finger,
        jam_beyond_mm=1e3 * (q[:, 0].max() - PUCK_LIMIT),
        jam_speed=1e3 * np.abs(qd[-1]).max(),
        compile_s=compiled,
        step_us=1e6 * took,
    )


def main(backends: list[str]) -> int:
    """Prints a table; exit code 2 if a backend is unknown."""
    unknown = [backend for backend in backends if backend not in BACKENDS]
    if unknown:
        print(f"error: backend is {unknown[0]!r}; accepted: {', '.join(BACKENDS)}", file=sys.stderr)
        return 2
    names = [field.name for field in fields(Measured)]
    print(f"{'':18}" + "".join(f"{backend:>13}" for backend in backends))
    results = [measure(backend) for backend in backends]
    for name in names:
        print(f"{name:18}" + "".join(f"{getattr(result, name):13.3f}" for result in results))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or list(BACKENDS)))
