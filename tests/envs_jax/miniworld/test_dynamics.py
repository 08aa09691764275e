"""Collisions and moves against plain geometry."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envs_jax.miniworld import dynamics, entities, layout
from envs_jax.render.scene import no_walls

ROOM = layout.FixedPlan((layout.Room(layout.rectangle((0.0, 0.0), (6.0, 6.0))),)).walls_array
NOTHING = entities.boxes(())
clearance = jax.jit(dynamics.clearance)
act = jax.jit(dynamics.act)


def agent(x, z, yaw=0.0):
    return dynamics.Agent(jnp.array([x, 0.0, z], jnp.float32), jnp.float32(yaw))


def one_box(x, z, size=0.8):
    return entities.put(entities.boxes(("red",), size), 0, jnp.array([x, 0.0, z], jnp.float32), jnp.float32(0))


def test_axes_are_miniworlds():
    """dir_vec = (cos d, 0, -sin d): yaw 0 along +x, a quarter turn left along -z."""
    for yaw, ahead in (
        (0, (1, 0, 0)),
        (math.pi / 2, (0, 0, -1)),
        (math.pi, (-1, 0, 0)),
        (-math.pi / 2, (0, 0, 1)),
    ):
        np.testing.assert_allclose(dynamics.direction(jnp.float32(yaw)), ahead, atol=1e-6)
    for yaw, target, angle in ((0, (5, 1), 0.0), (0, (1, 0), 90.0), (0, (1, 5), -90.0), (90, (5, 1), -90.0)):
        got = dynamics.bearing(agent(1, 1, math.radians(yaw)), jnp.array([target[0], 0.0, target[1]]))
        assert float(got) == pytest.approx(math.radians(angle), abs=1e-6)


@given(st.floats(-100, 100))
@settings(max_examples=50)
def test_wrap_keeps_the_direction(angle):
    got = float(dynamics.wrap(jnp.float32(angle)))
    assert abs(got) <= math.pi + 1e-5
    np.testing.assert_allclose(np.exp(1j * got), np.exp(1j * np.float32(angle)), atol=2e-5)


@pytest.mark.parametrize("seed", range(3))
def test_clearance_is_the_distance_to_the_nearest_point_of_any_segment_or_circle(seed):
    random = np.random.default_rng(seed)
    corners = random.uniform(0, 6, (5, 2)).astype(np.float32)
    walls = layout.room_walls(layout.Room(tuple(map(tuple, corners.tolist()))), [[]] * 5, 0)
    low = jnp.array([0.0, 0.0, 2.2, 0.0, 0.0])  # a lintel
    exists = jnp.array([True, True, True, False, True])
    walls = walls.replace(low=low, exists=exists)
    things = one_box(*random.uniform(0, 6, 2), size=0.5)
    share = np.linspace(0, 1, 2001)[:, None]
    for position in random.uniform(-1, 7, (20, 2)):
        solid = [i for i in range(5) if exists[i] and low[i] == 0]
        points = [corners[i] * (1 - share) + corners[(i + 1) % 5] * share for i in solid]
        to_walls = np.linalg.norm(np.concatenate(points) - position, axis=-1).min() - 0.4
        centre = np.asarray(things.position)[0, ::2]
        to_box = np.linalg.norm(centre - position) - 0.4 - math.sqrt(0.5**2 + 0.5**2) / 2
        got = clearance(jnp.array([position[0], 9.0, position[1]], jnp.float32), 0.4, walls, things)
        assert float(got) == pytest.approx(min(to_walls, to_box), abs=2e-3)


def test_what_does_not_exist_collides_with_nothing():
    gone = one_box(1, 1).replace(exists=jnp.array([False]))
    assert float(clearance(jnp.array([1.0, 0.0, 1.0]), 0.4, no_walls(), gone)) == math.inf
    assert float(clearance(jnp.array([1.0, 0.0, 1.0]), 0.4, no_walls(), NOTHING)) == math.inf


def test_a_wall_without_length_is_a_point():
    dot = ROOM.replace(start=jnp.ones((4, 2)), end=jnp.ones((4, 2)))
    assert float(clearance(jnp.array([1.0, 0.0, 3.0]), 0.5, dot, NOTHING)) == pytest.approx(1.5)


@pytest.mark.parametrize(
    ("x", "yaw_degrees", "moves"),
    [
        (5.5, 0, False),  # into the east wall at x = 6
        (5.45 - 1e-3, 0, True),  # ends .4 m and a hair from it
        (5.45 + 1e-3, 0, False),  # a hair less
        (5.6 - 1e-3, 180, True),  # away from it
        (5.6 - 1e-3, 89, False),  # grazing: no sliding along it, the whole move is rejected
    ],
)
def test_moves_that_would_touch_a_wall_are_rejected_as_a_whole(x, yaw_degrees, moves):
    start = agent(x, 3, math.radians(yaw_degrees))
    after, moved = dynamics.moved(start, 0.15, ROOM, NOTHING)
    assert bool(moved) == moves
    step = 0.15 * np.asarray(dynamics.direction(start.yaw)) * moves
    np.testing.assert_allclose(after.position, start.position + step, atol=1e-6)


def test_only_the_end_of_a_move_is_tested():
    after, moved = dynamics.moved(agent(1.5, 3), 3.0, ROOM, one_box(3, 3))  # lands behind the box, as upstream
    assert bool(moved) and float(after.position[0]) == pytest.approx(4.5)


def test_actions():
    start, turn = agent(3, 3, 0.1), math.radians(15)
    run = lambda action: act(start, jnp.int32(action), dynamics.Motion(0.15, 0.0, turn), ROOM, NOTHING)  # noqa: E731
    assert float(run(0).yaw) == pytest.approx(0.1 + turn) and float(run(1).yaw) == pytest.approx(0.1 - turn)
    np.testing.assert_allclose(run(2).position, [3 + 0.15 * math.cos(0.1), 0, 3 - 0.15 * math.sin(0.1)], rtol=1e-6)
    np.testing.assert_allclose(run(3).position, [3 - 0.15 * math.cos(0.1), 0, 3 + 0.15 * math.sin(0.1)], rtol=1e-6)
    for action in (-1, 4, 7, 2**31 - 1, -(2**31)):
        for one, two in zip(jax.tree.leaves(run(action)), jax.tree.leaves(start), strict=True):
            np.testing.assert_array_equal(one, two)


def test_near_is_measured_in_three_dimensions():
    limit = 0.4 + 0.5657 + 1.1 * 0.17
    at = lambda x, y: jnp.array([x, y, 0.0])  # noqa: E731
    near = lambda a, b: bool(dynamics.near(a, 0.4, b, 0.5657, 0.17))  # noqa: E731
    assert near(at(0, 0), at(limit - 1e-3, 0)) and not near(at(0, 0), at(limit + 1e-3, 0))
    assert not near(at(0, 0), at(limit - 1e-3, 0.3))


def test_success_reward():
    got = [float(dynamics.success_reward(jnp.int32(n), 50)) for n in (1, 25, 50)]
    np.testing.assert_allclose(got, [0.996, 0.9, 0.8], rtol=1e-6)
