"""The table: pucks, walls and a pusher with four fingers, moved by brax.

Everything lies at one height and slides, so bodies have two degrees of freedom, x (right) and y (away from the
eye), in metres from the middle of the table. Contacts, limits and integration are brax's. What the table itself
does to a puck, Coulomb friction, enters as a force on its joints, m mu g against the motion, never more than what
brings it to
rest within the physics step: a puck of speed v slides v^2 / (2 mu g) - v dt / 2 and then lies still. The pusher is
held by the strength of `GRIP`, as a servo would hold it, and may be stopped by what it runs into.

**Backend.** brax offers four; `python -m envs_jax.physics.backends` measures them on this table and prints the
table in `backends`. `mjx` is used: a puck squeezed against the border gets 2 mm into a finger there and lies
still, 16 to 39 mm in the others, two of which shake it out; it moves bodies as MuJoCo's own C engine does, to
0.1 mm in a second (a test compares them); it is the one still maintained; only `spring` steps faster (4 against
8 microseconds).

**Borders** are the limits of the joints. The pucks' field is smaller than the pusher's, which gets behind every
puck,
wherever it lies: nothing that is done is beyond repair. **Walls** are capsules whose places are part of the
State. Contacts are frictionless, so a puck, a disc without marks, need not turn.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import io
import math
import warnings
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

HALF = 0.5  # metres from the middle to the borders
PUCK_RADIUS, PUCK_HEIGHT, PUCK_MASS = 0.055, 0.05, 0.2  # metres, metres, kg
FINGER_RADIUS, FINGER_OFFSET, PUSHER_MASS = 0.018, 0.036, 0.4
PUSHER_HALF = FINGER_OFFSET + FINGER_RADIUS  # metres, the pusher's own extent
WALL_RADIUS, WALL_LENGTH = 0.018, 1.0  # metres; a wall reaches out over the border
FIELD = 0.375  # metres from the middle to the rim that stops the pucks, and over which the fingers pass
PUCK_LIMIT, PUSHER_LIMIT = FIELD - PUCK_RADIUS, HALF - PUSHER_HALF
FRICTION, GRAVITY = 0.8, 9.81  # of the table, 1; m/s^2
GRIP, DAMPING, STRENGTH = 300.0, 25.0, 8.0  # N/m, N s/m, N: the servo
TIMESTEP, SUBSTEPS = 0.01, 24  # seconds, physics steps an action is held

# How far ahead of the pusher a puck's middle is that both its leading fingers touch.
CRADLE = FINGER_OFFSET + math.sqrt((PUCK_RADIUS + FINGER_RADIUS) ** 2 - FINGER_OFFSET**2)


def model(pucks: int, walls: int, timestep: float = TIMESTEP, springs: bool = False) -> str:
    """The table as MJCF: joints of the pucks first, (x, y) each, then the pusher's.

    Args:
      pucks, walls: how many.
      timestep: seconds.
      springs: whether bodies are held in their plane by springs, as the spring backend does: they must be damped,
        and the bodies heavy to turn, which they never do.
    """
    height = PUCK_RADIUS
    inertia = 1.0 if springs else 1e-3
    stiff = 'limited="true" solreflimit="0.02 1" solimplimit="0.95 0.99 0.001"'
    limit = f'{stiff} range="-{PUCK_LIMIT} {PUCK_LIMIT}"'
    inertial = f'<inertial pos="0 0 0" mass="{{}}" diaginertia="{inertia} {inertia} {inertia}"/>'
    bodies = [
        f'<body pos="0 0 {height}">{inertial.format(PUCK_MASS)}'
        f'<joint name="x{i}" type="slide" axis="1 0 0" {limit}/>'
        f'<joint name="y{i}" type="slide" axis="0 1 0" {limit}/>'
        f'<geom type="sphere" size="{PUCK_RADIUS}" contype="1" conaffinity="3"/></body>'
        for i in range(pucks)
    ]
    ends = -FINGER_OFFSET, FINGER_OFFSET
    fingers = "".join(
        f'<geom type="sphere" size="{FINGER_RADIUS}" pos="{x} {y} 0" contype="2" conaffinity="4"/>'
        for x in ends
        for y in ends
    )
    limit = f'{stiff} range="-{PUSHER_LIMIT} {PUSHER_LIMIT}"'
    bodies.append(
        f'<body pos="0 0 {height}">{inertial.format(PUSHER_MASS)}'
        f'<joint name="x" type="slide" axis="1 0 0" {limit}/><joint name="y" type="slide" axis="0 1 0" {limit}/>'
        f"{fingers}</body>"
    )
    half = WALL_LENGTH / 2
    still = "".join(
        f'<geom type="capsule" size="{WALL_RADIUS}" fromto="{-half} 0 {height} {half} 0 {height}" contype="4"'
        f' conaffinity="1"/>'
        for _ in range(walls)
    )
    motors = "".join(f'<motor joint="{axis}{i}"/>' for i in range(pucks) for axis in "xy")
    servos = "".join(
        f'<general joint="{axis}" gainprm="{GRIP}" biastype="affine" biasprm="0 -{GRIP} -{DAMPING}"'
        f' forcelimited="true" forcerange="-{STRENGTH} {STRENGTH}"/>'
        for axis in "xy"
    )
    # For the backends that are only measured.
    numbers = {"spring_mass_scale": 0, "spring_inertia_scale": 0, "baumgarte_erp": 0.1}
    if springs:
        numbers |= {"constraint_stiffness": 2000, "constraint_limit_stiffness": 2000}
        numbers |= {"constraint_vel_damping": 20, "constraint_ang_damping": 20}
    custom = "".join(f'<numeric data="{value}" name="{name}"/>' for name, value in numbers.items())
    return (
        f'<mujoco><option timestep="{timestep}" gravity="0 0 0" iterations="4" ls_iterations="6">'
        f'<flag eulerdamp="disable"/></option><custom>{custom}</custom>'
        f'<default><geom condim="1" friction="0 0 0" solref="0.02 1" solimp="0.95 0.99 0.001"/></default>'
        f"<worldbody>{still}{''.join(bodies)}</worldbody><actuator>{motors}{servos}</actuator></mujoco>"
    )


@dataclass(frozen=True)
class Table:
    """A table of a number of pucks and walls.

    Attributes:
      pucks, walls: how many; walls lie along x.
      backend: brax's, "mjx" but to measure the others.
      timestep: seconds.
    """

    pucks: int
    walls: int
    backend: str = "mjx"
    timestep: float = TIMESTEP

    @property
    def size(self) -> int:
        """Degrees of freedom."""
        return 2 * self.pucks + 2

    def physics(
        self,
        q: Float[Array, " d"],
        qd: Float[Array, " d"],
        walls: Float[Array, "w 2"],
        aims: Float[Array, "t 2"],
    ) -> tuple[Float[Array, "t d"], Float[Array, "t d"]]:
        """T physics steps.

        Args:
          q, qd: places and velocities of the pucks and then the pusher, m and m/s.
          walls: the walls' middles, metres.
          aims: where the pusher's servo aims in each step, metres.

        Returns:
          q and qd after each.
        """
        system, pipeline = _load(self.pucks, self.walls, self.backend, self.timestep)
        if self.walls:
            system = system.replace(geom_pos=jnp.asarray(system.geom_pos).at[: self.walls, :2].set(walls))

        def one(state, aim):
            control = jnp.concatenate([drag(state.qd[: 2 * self.pucks], self.timestep), aim])
            state = pipeline.step(system, state, control)
            return state, (state.q, state.qd)

        return jax.lax.scan(one, pipeline.init(system, q, qd), aims)[1]

    def move(
        self, q: Float[Array, " d"], qd: Float[Array, " d"], walls: Float[Array, "w 2"], to: Float[Array, "2"]
    ) -> tuple[Float[Array, " d"], Float[Array, " d"]]:
        """The pusher goes to a place, or as far as it can; `SUBSTEPS` physics steps. Both q and qd stay finite.

        It starts and stops smoothly: the way is s(t) = 3 t^2 - 2 t^3 of the whole.
        """
        start = q[-2:]
        t = (jnp.arange(SUBSTEPS, dtype=jnp.float32) + 1) / SUBSTEPS
        way = 3 * t**2 - 2 * t**3
        rate = 6 * (t - t**2) / (SUBSTEPS * self.timestep)
        aims = start + (way + DAMPING / GRIP * rate)[:, None] * (to - start)  # the second term undoes the damping
        qs, qds = self.physics(q, qd, walls, aims)
        return qs[-1], qds[-1]


def drag(velocity: Float[Array, " d"], timestep: float) -> Float[Array, " d"]:
    """Friction of the table on pucks, newtons; see the module."""
    velocity = velocity.reshape(-1, 2)
    speed = jnp.sqrt(jnp.sum(velocity**2, axis=1, keepdims=True) + 1e-12)
    return (-PUCK_MASS * velocity * jnp.minimum(1 / timestep, FRICTION * GRAVITY / speed)).reshape(-1)


@functools.lru_cache(maxsize=32)
def _load(pucks: int, walls: int, backend: str, timestep: float) -> tuple[Any, Any]:
    """brax's system and pipeline; brax is imported when a world first moves, not with `envs_jax`.

    What it says of itself then (that it is no longer maintained, that Warp is not there) is left
    out: it concerns no user of a world.
    """
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        jax.ensure_compile_time_eval(),  # constants, though first asked for while something is traced
    ):
        warnings.simplefilter("ignore")
        mjcf = importlib.import_module("brax.io.mjcf")
        pipeline = importlib.import_module(f"brax.{backend}.pipeline")
        system = mjcf.loads(model(pucks, walls, timestep, springs=backend == "spring"))
    return system, pipeline
