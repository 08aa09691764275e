"""Things made of primitives: where they are, how large, and which pixels are whose."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from envs_jax.render import shapes
from envs_jax.render.raycast import trace
from envs_jax.render.scene import Camera, Scene, miniworld_light, no_patches, no_walls

# Heights and half extents in x and z of MiniWorld's meshes, in heights.
EXTENTS = {
    shapes.med_kit: (0.4, 0.551, 0.306),
    shapes.duckie: (0.25, 0.547, 0.383),
    shapes.cone: (0.75, 0.34, 0.34),  # an octagon, of radius 0.317 to 0.362
    shapes.building: (30.0, 0.533, 0.354),
}
AT = jnp.array([3.0, 0.25, -2.0], jnp.float32)
RED = jnp.array([1.0, 0.0, 0.0], jnp.float32)


def corners(thing):
    """Lowest and highest x, y, z of what exists, of a thing that is not turned."""
    ends = []
    for rows, centre, half in (
        (thing.boxes, thing.boxes.centre, thing.boxes.size / 2),
        (thing.balls, thing.balls.centre, thing.balls.radii),
        (
            thing.cones,
            thing.cones.base
            + jnp.stack([0 * thing.cones.height, thing.cones.height / 2, 0 * thing.cones.height], 1),
            jnp.stack([thing.cones.low_radius, thing.cones.height / 2, thing.cones.low_radius], 1),
        ),
    ):
        there = np.asarray(rows.exists)
        ends += [np.asarray(centre - half)[there], np.asarray(centre + half)[there]]
    ends = np.concatenate(ends)
    return ends.min(axis=0), ends.max(axis=0)


@pytest.mark.parametrize("make", EXTENTS, ids=lambda make: make.__name__)
def test_things_fill_the_extents_of_the_originals_meshes(make):
    height, x, z = EXTENTS[make]
    low, high = corners(make(AT, 0.0, height, True))
    half = height * np.array([x, 0.5, z])
    middle = np.asarray(AT) + height * np.array([0, 0.5, 0])
    np.testing.assert_allclose(low, middle - half, atol=0.04 * height)
    np.testing.assert_allclose(high, middle + half, atol=0.04 * height)


def test_a_key_is_long_and_thin_and_a_ball_round():
    low, high = corners(shapes.key(AT, 0.0, 0.35, RED, True))
    np.testing.assert_allclose(high - low, 0.35 * np.array([0.4, 1.0, 2.418]), rtol=0.02)
    low, high = corners(shapes.ball(AT, 0.0, 0.6, RED, True))
    np.testing.assert_allclose(high - low, [0.6] * 3, rtol=1e-5)
    assert low[1] == pytest.approx(0.25)


def test_a_turned_thing_is_turned_as_a_whole():
    straight, turned = shapes.key(AT, 0.0, 1.0, RED, True), shapes.key(AT, math.pi / 2, 1.0, RED, True)
    offset = np.asarray(straight.boxes.centre - AT)
    # A quarter to the left takes x to -z and z to x.
    np.testing.assert_allclose(
        np.asarray(turned.boxes.centre - AT), np.stack([offset[:, 2], offset[:, 1], -offset[:, 0]], 1), atol=1e-6
    )
    np.testing.assert_allclose(turned.boxes.yaw, math.pi / 2, rtol=1e-6)


def groups():
    """From left to right before a camera at the origin: a box, a ball (one more is not there), a sign, a key."""
    place = lambda z: jnp.array([4.0, 0.0, z], jnp.float32)  # noqa: E731
    pair = jax.vmap(shapes.ball, in_axes=(0, None, None, None, 0))(
        jnp.stack([place(-0.5), place(-0.2)]), 0.0, 0.6, RED, jnp.array([True, False])
    )
    sign = shapes.text_sign(jnp.array([5.0, 1.5, 0.0], jnp.float32), math.pi, 0.6, jnp.array([0, -1, 0]), True)
    return (
        shapes.box(place(-1.5), 0.3, jnp.full(3, 0.5), RED, True),
        pair,
        shapes.key(place(1.0), 0.2, 0.4, RED, True),
        sign,
    )


def look(*things):
    made = shapes.join(*things)
    scene = Scene(
        walls=no_walls(),
        patches=no_patches(),
        boxes=made.boxes,
        balls=made.balls,
        cones=made.cones,
        panels=made.panels,
        floor_texture=jnp.int32(0),
        ceiling_texture=jnp.int32(-1),
        ceiling_height=jnp.float32(3.0),
        sky=jnp.ones(3, jnp.float32),
        light=miniworld_light(),
    )
    camera = Camera(
        position=jnp.array([0.0, 1.5, 0.0], jnp.float32),
        yaw=jnp.float32(0.0),
        pitch=jnp.float32(0.0),
        fov_y=jnp.float32(1.2),
    )
    return jax.jit(lambda: trace(scene, camera, (60, 80), level=True))()


def test_pixels_know_their_thing():
    things = groups()
    hit = look(*things)
    seen = np.asarray(shapes.things_seen(hit, *things))
    assert set(np.unique(seen)) == {-1, 0, 1, 3, 4}  # the second ball is not there
    columns = {thing: np.mean(np.argwhere(seen == thing)[:, 1]) for thing in (0, 1, 4, 3)}
    assert list(columns) == sorted(columns, key=columns.get)
    share = np.asarray(shapes.shares(hit, *things))
    np.testing.assert_allclose(share, [np.mean(seen == thing) for thing in range(5)], atol=1e-6)
    assert share[2] == 0 < share[4]


def test_a_thing_that_does_not_exist_is_not_seen():
    absent = [jax.tree.map(lambda leaf: leaf & False if leaf.dtype == bool else leaf, group) for group in groups()]
    assert np.all(np.asarray(shapes.things_seen(look(*absent), *absent)) == -1)
