"""What moves on the table moves as mechanics says."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envs_jax.physics import backends, table

COASTING = 40  # physics steps


@functools.lru_cache
def runner(pucks, walls):
    return jax.jit(table.Table(pucks, walls).physics)


def coast(q, qd, walls=None, pucks=2, steps=100):
    walls = jnp.zeros((0, 2)) if walls is None else jnp.asarray(walls, jnp.float32)
    q, qd = jnp.asarray(q, jnp.float32), jnp.asarray(qd, jnp.float32)
    aims = jnp.tile(q[-2:], (steps, 1))
    return tuple(np.asarray(part, np.float64) for part in runner(pucks, len(walls))(q, qd, walls, aims))


def test_the_measured_backend_keeps_what_the_module_claims():
    """The numbers of `backends` for mjx, with room for another machine's rounding."""
    measured = backends.measure("mjx", speed=False)
    assert abs(measured.slide_error_mm) < 0.5
    assert abs(measured.hit_momentum_lost) < 0.005
    assert measured.hit_gap_mm > -4
    assert abs(measured.push_force_ratio - 1) < 0.02
    assert measured.jam_gap_mm > -4 and measured.jam_speed < 1


@settings(max_examples=25, deadline=None)
@given(st.floats(0.05, 0.9), st.floats(0, 2 * np.pi))
def test_a_puck_slides_as_coulomb_friction_predicts_in_every_direction(speed, angle):
    way = np.array([np.cos(angle), np.sin(angle)])
    start = -0.1 * way
    other = 0.3 * np.array([-way[1], way[0]])  # aside of the way
    q, qd = coast([*start, *other, *-other], [*(speed * way), 0, 0, 0, 0])
    slid = q[-1, :2] - start
    deceleration = table.FRICTION * table.GRAVITY
    ideal = speed**2 / (2 * deceleration) - speed * table.TIMESTEP / 2
    # The last step, which ends at rest, is not a whole one.
    assert abs(slid @ way - max(ideal, 0)) < deceleration * table.TIMESTEP**2
    assert abs(slid @ [-way[1], way[0]]) < 1e-4
    assert np.abs(qd[-1]).max() < 1e-3 and np.abs(q[-1, 2:] - [*other, *-other]).max() < 1e-4


@settings(max_examples=15, deadline=None)
@given(st.floats(-0.08, 0.08))
def test_a_hit_keeps_momentum_and_gains_no_energy(aside):
    q, qd = coast([-0.15, 0, 0.0, aside, 0.3, 0.42], [0.9, 0, 0, 0, 0, 0], steps=COASTING)
    speeds = qd[:, :4].reshape(-1, 2, 2)
    energy = (speeds**2).sum(axis=(1, 2))
    assert np.all(np.diff(energy) < 1e-4)
    # Friction takes at most mu g dt from each puck in each step; across the first puck's way nothing else acts.
    budget = table.FRICTION * table.GRAVITY * table.TIMESTEP * (1 + np.arange(COASTING))
    total = speeds.sum(axis=1)
    assert np.all(total[:, 0] > 0.9 - 2 * budget - 1e-3)
    gap = np.hypot(*(q[:, :2] - q[:, 2:4]).T) - 2 * table.PUCK_RADIUS
    assert gap.min() > -4e-3


def test_the_cradle_takes_a_puck_along_and_centres_it():
    start = np.array([table.CRADLE + 0.004, 0.02, 0.3, 0.3, 0.0, 0.0])
    move = jax.jit(table.Table(2, 0).move)
    q, qd = jnp.asarray(start, jnp.float32), jnp.zeros(6)
    for _ in range(2):
        q, qd = move(q, qd, jnp.zeros((0, 2)), q[-2:] + jnp.array([0.1, 0.0]))
    offset = np.asarray(q[:2] - q[4:])
    assert abs(offset[1]) < 0.012 < 0.02  # nearer to the middle than it was
    assert table.CRADLE - 0.003 < offset[0] < table.CRADLE + 0.03
    np.testing.assert_allclose(q[4:], [0.2, 0.0], atol=4e-3)


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 2**31 - 1))
def test_the_pusher_does_not_get_through_a_wall(seed):
    """However it is driven, with aims that jump across the table, no finger's middle gets to the wall's."""
    rng = np.random.default_rng(seed)
    walls = np.array([[-0.6, 0.0], [0.4, 0.0]], np.float32)  # closed: they overlap
    q = jnp.array([rng.uniform(-0.4, 0.4), -0.2 * rng.choice([-1, 1])], jnp.float32)
    side = np.sign(q[1])
    aims = jnp.asarray(rng.uniform(-0.5, 0.5, (10, 2)).repeat(10, axis=0), jnp.float32)
    qs, _ = runner(0, 2)(q, jnp.zeros(2), walls, aims)
    qs = np.asarray(qs)
    assert np.isfinite(qs).all()
    assert (qs[:, 1] * side).min() > table.FINGER_OFFSET


def mujocos_own(q, qd, walls, aims, pucks):
    """The places after each step by MuJoCo's C engine in float64, with friction as the module's text has it."""
    model = mujoco.MjModel.from_xml_string(table.model(pucks, len(walls)))
    model.geom_pos[: len(walls), :2] = walls
    data = mujoco.MjData(model)
    data.qpos[:], data.qvel[:] = q, qd
    most, places = table.FRICTION * table.PUCK_MASS * table.GRAVITY, []
    for aim in aims:
        for i in range(0, 2 * pucks, 2):
            speed = np.hypot(*data.qvel[i : i + 2])
            stops = table.PUCK_MASS * speed / table.TIMESTEP  # newtons that end the motion in one step
            data.ctrl[i : i + 2] = -data.qvel[i : i + 2] / max(speed, 1e-9) * min(most, stops)
        data.ctrl[-2:] = aim
        mujoco.mj_step(model, data)
        places.append(data.qpos.copy())
    return np.array(places)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31 - 1), walls=st.booleans())
def test_bodies_go_where_mujocos_own_engine_takes_them(seed, walls):
    """Into pucks, which hit each other and the rim, and into and along walls: a second of physics, 0.1 mm."""
    rng = np.random.default_rng(seed)
    pucks, angle = (0 if walls else 2), rng.uniform(0, 2 * np.pi)
    way = np.array([np.cos(angle), np.sin(angle)])
    if walls:
        places, start = np.array([[-0.6, 0.0], [0.4, 0.0]]), np.array([rng.uniform(-0.4, 0.4), -0.2])
        q, to = start, rng.uniform(-0.4, 0.4, 2)
    else:
        puck = rng.uniform(-0.3, 0.3, 2)
        other = np.clip(puck + 0.13 * (way + rng.uniform(-0.4, 0.4, 2)), -table.PUCK_LIMIT, table.PUCK_LIMIT)
        start, places = puck - 0.15 * way, np.zeros((0, 2))
        q, to = np.concatenate([puck, other, start]), puck + 0.2 * way
    qd = np.where(np.arange(len(q)) < 2 * pucks, rng.uniform(-0.3, 0.3, len(q)), 0.0)
    aims = start + np.minimum(np.arange(1, 101) / 48, 1)[:, None] * (to - start)
    ours, _ = runner(pucks, len(places))(*(jnp.asarray(x, jnp.float32) for x in (q, qd, places, aims)))
    np.testing.assert_allclose(ours, mujocos_own(q, qd, places, aims, pucks), atol=1e-4)


def test_nothing_moves_that_is_at_rest():
    q, qd = coast([0.1, 0.1, -0.1, 0.1, 0.0, -0.2], np.zeros(6))
    np.testing.assert_allclose(q[-1], [0.1, 0.1, -0.1, 0.1, 0.0, -0.2], atol=1e-5)
    assert np.abs(qd).max() < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("backend", [name for name in backends.BACKENDS if name != "mjx"])
def test_no_other_backend_holds_a_squeezed_puck(backend):
    ours = backends.measure("mjx", speed=False)
    assert backends.measure(backend, speed=False).jam_gap_mm < ours.jam_gap_mm - 5
