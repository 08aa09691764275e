"""A level camera's search once a column finds what the search of every pixel finds, which has tests of its own."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from envs_jax.render import level, raycast
from envs_jax.render.scene import (
    Balls,
    Boxes,
    Camera,
    Cones,
    Panels,
    Patches,
    Scene,
    Walls,
    alike,
    miniworld_light,
    no_balls,
    no_boxes,
    no_cones,
    no_panels,
    no_patches,
)
from envs_jax.render.texture import pack_atlas

SIZE = (30, 40)
ATLAS = pack_atlas(
    [("white", np.full((8, 8, 3), 255.0), 1.0)]
    + [(f"noise{i}", np.random.default_rng(i).uniform(0, 255, (8, 8, 3)), 1.0 + i) for i in range(2)]
)
HEIGHTS = np.array([(0, 2.74), (0, 2.2), (2.2, 2.74), (0.5, 1.9)], np.float32)


def random_scene(seed, count, shapes=True):
    """Walls of four heights with the eye within three of them, and some of everything else."""
    random = np.random.default_rng(seed)

    def between(low, high, *shape):
        return random.uniform(low, high, shape).astype(np.float32)

    def exists(n):
        return random.random(n) < 0.8

    def texture(n):
        return random.integers(0, 3, n).astype(np.int32)

    heights = HEIGHTS[np.arange(count) % 4]
    walls = Walls(
        start=between(-5, 5, count, 2),
        end=between(-5, 5, count, 2),
        low=heights[:, 0],
        high=heights[:, 1],
        offset=between(0, 2, count),
        texture=texture(count),
        exists=exists(count),
        alike=alike(heights[:, 0], heights[:, 1], 1.5),
    )
    n = 6
    corner = between(-5, 4, n, 2)
    small = {"colour": between(0, 1, n, 3), "gain": between(0.2, 5, n), "painted": np.arange(n) % 2 == 0}
    high = between(0.5, 2.3, n)
    return Scene(
        walls=walls,
        patches=Patches(
            low=corner,
            high=corner + between(0.5, 4, n, 2),
            height=high,
            faces_up=high < 1.4,
            texture=texture(n),
            exists=exists(n),
        )
        if shapes
        else no_patches(),
        boxes=Boxes(
            centre=between(-4, 4, n, 3) * np.float32([1, 0.3, 1]) + np.float32([0, 1, 0]),
            size=between(0.2, 1.5, n, 3),
            yaw=between(-4, 4, n),
            texture=texture(n),
            exists=exists(n),
            **small,
        )
        if shapes
        else no_boxes(),
        balls=Balls(centre=between(-4, 4, n, 3), radii=between(0.1, 1, n, 3), yaw=high, exists=exists(n), **small)
        if shapes
        else no_balls(),
        cones=Cones(
            base=between(-4, 4, n, 3),
            low_radius=between(0, 1, n),
            high_radius=between(0, 1, n),
            height=between(0.1, 2, n),
            exists=exists(n),
            **small,
        )
        if shapes
        else no_cones(),
        panels=Panels(
            centre=between(-4, 4, n, 3),
            size=between(0.3, 2, n, 2),
            yaw=between(-4, 4, n),
            texture=texture(n),
            exists=exists(n),
            **small,
        )
        if shapes
        else no_panels(),
        floor_texture=np.int32(seed % 3),
        ceiling_texture=np.int32(seed % 3 - 1),
        ceiling_height=np.float32(2.74),
        sky=np.float32([0.25, 0.82, 1.0]),
        light=miniworld_light(),
    )


def random_camera(seed):
    random = np.random.default_rng(1000 + seed)
    return Camera(
        position=jnp.asarray(
            [random.uniform(-4, 4), random.uniform(1.45, 1.55), random.uniform(-4, 4)], jnp.float32
        ),
        yaw=jnp.float32(random.uniform(-4, 4)),
        pitch=jnp.float32(0.0),
        fov_y=jnp.float32(random.uniform(0.8, 1.4)),
    )


@pytest.fixture(scope="module")
def both():
    """Hits and pictures of both searches."""

    def all_of(scene, camera):
        scene, camera = jax.tree.map(jnp.asarray, (scene, camera))
        return [
            (raycast.trace(scene, camera, SIZE, level), raycast.render(scene, camera, ATLAS, SIZE, level))
            for level in (False, True)
        ]

    return jax.jit(all_of)


def agree(pair):
    """Where hits are the same, of which pictures and depths then are, too."""
    (slow, old), (fast, new) = jax.tree.map(np.asarray, pair)
    same = (slow.kind == fast.kind) & (slow.index == fast.index)
    assert np.mean(np.abs(old.astype(int) - new.astype(int))[same] > 1) < 2e-3
    np.testing.assert_allclose(slow.depth[same], fast.depth[same], rtol=1e-4)
    return same


def test_a_level_camera_finds_the_same_once_a_column(both):
    kinds = set()
    for seed in range(12):
        pair = both(random_scene(seed, 12), random_camera(seed))
        assert agree(pair).mean() > 0.999  # two surfaces at one depth may be told apart by the last bit
        kinds |= set(np.unique(np.asarray(pair[0][0].kind)).tolist())
    assert kinds == set(range(9))


def test_more_walls_than_one_group_are_scanned_by_both(both):
    pair = both(random_scene(3, 150, shapes=False), random_camera(5))
    assert agree(pair).mean() > 0.999


@pytest.mark.parametrize("most", (0, 1000))
@pytest.mark.parametrize("size", (SIZE, (7, 5), (1, 3)))
def test_it_is_the_same_whether_pixels_lie_by_columns_or_by_rows(monkeypatch, most, size):
    """Bit for bit, with a column's own surfaces first and with all."""
    monkeypatch.setattr(level, "MOST", dict.fromkeys(level.MOST, most))
    scene, camera = jax.tree.map(jnp.asarray, (random_scene(2, 12), random_camera(2)))
    hits = []
    for least in (0, 10_000):
        monkeypatch.setattr(level, "DOWN", least)
        hits.append(jax.jit(lambda scene, camera: raycast.trace(scene, camera, size, level=True))(scene, camera))
    jax.tree.map(np.testing.assert_array_equal, *hits)


def test_walls_alike_are_grouped_by_height_and_only_around_the_eye():
    assert alike(np.float32([0, 0, 2.2, 0]), np.float32([2.7, 2.2, 2.7, 2.7]), 1.5) == (1, 0, -1, 1)


def test_a_wrong_number_of_groups_is_refused():
    scene = random_scene(0, 4, shapes=False)
    scene = scene.replace(walls=scene.walls.replace(alike=(0,)))
    with pytest.raises(ValueError, match=r"alike has 1 numbers for 4 walls"):
        jax.eval_shape(lambda: raycast.trace(scene, random_camera(0), SIZE, level=True))


def test_the_search_keeps_nothing_of_the_size_of_surfaces_times_pixels():
    """256 walls at 80 x 60 in 64 worlds: a mask alone of walls x pixels would take 79 million bytes."""
    worlds, size = 64, (60, 80)
    one = random_scene(0, 256, shapes=False), random_camera(0)
    scenes, cameras = jax.tree.map(lambda x: jax.ShapeDtypeStruct((worlds, *np.shape(x)), x.dtype), one)
    look = jax.jit(jax.vmap(lambda scene, camera: raycast.render(scene, camera, ATLAS, size, level=True)))
    needed = look.lower(scenes, cameras).compile().memory_analysis().temp_size_in_bytes
    assert needed < 200 * worlds * size[0] * size[1]
