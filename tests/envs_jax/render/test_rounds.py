"""Balls and cones against rays that solve one quadratic each in float64, pixel by pixel."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from envs_jax.render.raycast import BALL, CONE, SKY, render, trace
from envs_jax.render.scene import (
    Balls,
    Camera,
    Cones,
    Light,
    Scene,
    no_boxes,
    no_patches,
    no_walls,
)
from envs_jax.render.texture import pack_atlas

SIZE = (15, 20)
ATLAS = pack_atlas([("white", np.full((2, 2, 3), 255.0), 1.0)])
DIRECTION = np.array([0.3, 0.8, -0.5]) / math.sqrt(0.98)


def scene(balls, cones):
    """balls: (centre, radii, yaw, gain, painted); cones: (base, low and high radius, height, gain, painted)."""
    balls, cones = (np.array(rows, np.float32) for rows in (balls, cones))
    colour = lambda rows: jnp.asarray(np.linspace(0.2, 1, 3 * len(rows)).reshape(-1, 3), jnp.float32)  # noqa: E731
    return Scene(
        walls=no_walls(),
        patches=no_patches(),
        boxes=no_boxes(),
        floor_texture=jnp.int32(-1),
        ceiling_texture=jnp.int32(-1),
        ceiling_height=jnp.float32(3.0),
        sky=jnp.zeros(3, jnp.float32),
        light=Light(
            direction=jnp.asarray(DIRECTION, jnp.float32),
            diffuse=jnp.array([0.7, 0.6, 0.5], jnp.float32),
            ambient=jnp.array([0.4, 0.3, 0.2], jnp.float32),
        ),
        balls=Balls(
            centre=jnp.asarray(balls[:, 0:3]),
            radii=jnp.asarray(balls[:, 3:6]),
            yaw=jnp.asarray(balls[:, 6]),
            colour=colour(balls),
            gain=jnp.asarray(balls[:, 7]),
            painted=jnp.asarray(balls[:, 8] > 0),
            exists=jnp.ones(len(balls), bool),
        ),
        cones=Cones(
            base=jnp.asarray(cones[:, 0:3]),
            low_radius=jnp.asarray(cones[:, 3]),
            high_radius=jnp.asarray(cones[:, 4]),
            height=jnp.asarray(cones[:, 5]),
            colour=colour(cones),
            gain=jnp.asarray(cones[:, 6]),
            painted=jnp.asarray(cones[:, 7] > 0),
            exists=jnp.ones(len(cones), bool),
        ),
    )


def random_scene(seed):
    random = np.random.default_rng(seed)
    balls, cones = [], []
    for _ in range(4):
        at = [random.uniform(1.5, 6), random.uniform(0, 2.5), random.uniform(-3, 3)]
        balls.append([*at, *random.uniform(0.1, 1.0, 3), random.uniform(-3, 3), random.uniform(0.3, 4), 0])
        at = [random.uniform(1.5, 6), random.uniform(-0.5, 2), random.uniform(-3, 3)]
        cones.append([*at, *random.uniform(0, 1, 2), random.uniform(0.2, 2), random.uniform(0.3, 4), 1])
    cones[0][4] = cones[0][3]  # a cylinder
    cones[1][3:6] = [0.6, 0.0, 0.01]  # almost flat, seen from above
    cones[1][1] = 0.0
    return scene(balls, cones)


def camera(pitch=0.0):
    return Camera(
        position=jnp.array([0.0, 1.5, 0.0], jnp.float32),
        yaw=jnp.float32(0.0),
        pitch=jnp.float32(pitch),
        fov_y=jnp.float32(1.2),
    )


def implicit(made, kind, index):
    """The function whose zeros are a surface, positive outside, and its range of heights."""
    f64 = lambda x: np.asarray(x, np.float64)  # noqa: E731
    if kind == BALL:
        centre, radii, yaw = (
            f64(made.balls.centre[index]),
            f64(made.balls.radii[index]),
            float(made.balls.yaw[index]),
        )
        axes = np.array([[math.cos(yaw), 0, -math.sin(yaw)], [0, 1, 0], [math.sin(yaw), 0, math.cos(yaw)]])
        return lambda p: np.sum((axes @ (p - centre) / radii) ** 2) - 1, (-np.inf, np.inf)
    base, height = f64(made.cones.base[index]), float(made.cones.height[index])
    low, high = float(made.cones.low_radius[index]), float(made.cones.high_radius[index])

    def value(p):
        radius = low + (high - low) * (p[1] - base[1]) / height
        return (p[0] - base[0]) ** 2 + (p[2] - base[2]) ** 2 - radius**2

    return value, (base[1], base[1] + height)


def cast(made, view, shift):
    """[H][W] of (depth, kind, index, normal)."""
    height, width = SIZE
    half, pitch = math.tan(float(view.fov_y) / 2), float(view.pitch)
    eye = np.asarray(view.position, np.float64)
    surfaces = [(BALL, i) for i in range(4)] + [(CONE, i) for i in range(4)]
    out = []
    for row in range(height):
        out.append([])
        for column in range(width):
            up = (1 - 2 * (row + 0.5 + shift) / height) * half
            right = (2 * (column + 0.5 + shift) / width - 1) * half * width / height
            ray = np.array([math.cos(pitch) - math.sin(pitch) * up, math.sin(pitch) + math.cos(pitch) * up, right])
            best = (np.inf, SKY, 0, None)
            for kind, index in surfaces:
                value, (low, high) = implicit(made, kind, index)
                # A quadratic in the depth, from its values at three depths.
                at = [value(eye + t * ray) for t in (0.0, 1.0, 2.0)]
                a = (at[2] - 2 * at[1] + at[0]) / 2
                for t in np.roots([a, at[1] - at[0] - a, at[0]]):
                    if abs(t.imag) > 0 or t.real <= 0 or t.real >= best[0]:
                        continue
                    point = eye + t.real * ray
                    step = 1e-6 * np.eye(3)
                    normal = np.array([value(point + h) - value(point - h) for h in step])
                    if low <= point[1] <= high and normal @ ray < 0:
                        best = (t.real, kind, index, normal / np.linalg.norm(normal))
            out[-1].append(best)
    return out


@pytest.mark.parametrize(("seed", "pitch"), [(0, 0.0), (1, -0.4), (2, 0.3)])
def test_balls_and_cones_are_where_rays_meet_them(seed, pitch):
    made, view = random_scene(seed), camera(pitch)
    hit, picture = LOOK(made, view)
    hit, picture = jax.tree.map(np.asarray, (hit, picture))
    want, shifted = cast(made, view, 0.0), cast(made, view, 2e-3)
    seen, checked = set(), 0
    for row in range(SIZE[0]):
        for column in range(SIZE[1]):
            depth, kind, index, normal = want[row][column]
            if shifted[row][column][1:3] != (kind, index):
                continue  # on an edge
            checked += 1
            assert (hit.kind[row, column], hit.index[row, column]) == (kind, index)
            if kind == SKY:
                continue
            seen.add((kind, index))
            assert hit.depth[row, column] == pytest.approx(depth, rel=2e-3)
            rows = made.balls if kind == BALL else made.cones
            light = jax.tree.map(np.asarray, made.light)
            bright = 0.2 + light.ambient + light.diffuse * float(rows.gain[index]) * max(0.0, normal @ DIRECTION)
            if rows.painted[index]:
                bright = np.minimum(bright, 1.0)
            colour = 255 * np.clip(np.asarray(rows.colour[index]) * bright, 0, 1)
            np.testing.assert_allclose(picture[row, column], colour, atol=4)
    assert checked > 0.9 * SIZE[0] * SIZE[1] and len(seen) >= 5


LOOK = jax.jit(lambda made, view: (trace(made, view, SIZE), render(made, view, ATLAS, SIZE)))


def test_a_small_ball_far_away_is_round():
    """Its outline would be lost in the difference of the squares of distances."""
    made = scene([[20, 1.5, 0, 0.2, 0.2, 0.2, 0, 1, 0]] * 4, [[0, -9, 0, 1, 1, 1, 1, 0]] * 4)
    view = camera().replace(fov_y=jnp.float32(0.03))
    covered = np.mean(np.asarray(LOOK(made, view)[0].kind) == BALL)
    half = math.tan(0.015)
    assert covered == pytest.approx(math.pi * 0.01**2 / (4 * half**2 * SIZE[1] / SIZE[0]), rel=0.08)
