"""A column's own surfaces first: the sets of them against plain Python, the pictures against the search of all."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import envs_jax
from envs_jax.render import columns, level, raycast
from envs_jax.render.scene import (
    Boxes,
    Camera,
    Cones,
    Panels,
    Scene,
    miniworld_light,
    no_boxes,
    no_cones,
    no_panels,
    no_patches,
    no_walls,
)

SIZE = (30, 40)


# ---------------------------------------------------------------- sets


@pytest.mark.parametrize("count", (1, 31, 32, 33, 64, 111))
def test_sets_give_their_members_once_each_and_then_nothing(count):
    random = np.random.default_rng(count)
    present = random.random((count, 7)) < np.linspace(0, 1, 7)  # the first column is empty, the last full
    take, sets = jax.jit(columns._take), columns._sets(jnp.asarray(present))
    found = []
    for _ in range(count + 1):
        member, sets = take(sets)
        found.append(np.asarray(member))
    for column, members in enumerate(np.array(found).T):
        want = np.flatnonzero(present[:, column])[::-1]
        np.testing.assert_array_equal(members, np.concatenate([want, np.full(count + 1 - len(want), -1)]))


@pytest.mark.parametrize("at_once", (1, 3, 50))
def test_every_member_is_tested_and_only_in_its_column(at_once):
    """The largest of value + row over a column's members, by plain loops, in two worlds of unlike fullness."""
    count, (height, width) = 40, SIZE
    random = np.random.default_rng(1)
    present = random.random((2, count, width)) < np.array([0.05, 0.6])[:, None, None]
    values = random.integers(1, 1000, count)

    def largest(present):
        def read(number):
            return (jnp.where(number < 0, -10_000, jnp.asarray(values, jnp.int32)[number]),)

        row = jnp.arange(height, dtype=jnp.int32)[:, None]
        values_of = columns.Many(present, read, lambda value: value + row, at_once)
        return columns.search_few(jnp.zeros(SIZE, jnp.int32), [values_of])

    got = jax.jit(jax.vmap(largest))(jnp.asarray(present))
    for world in range(2):
        for column in range(width):
            most = max([value for v, value in enumerate(values) if present[world, v, column]], default=None)
            want = np.zeros(height) if most is None else most + np.arange(height)
            np.testing.assert_array_equal(got[world, :, column], want)


# ---------------------------------------------------------------- pictures


def boxes(centre, size, yaw) -> Boxes:
    count = len(yaw)
    return Boxes(
        centre=jnp.asarray(centre, jnp.float32),
        size=jnp.asarray(size, jnp.float32),
        yaw=jnp.asarray(yaw, jnp.float32),
        colour=jnp.ones((count, 3), jnp.float32),
        texture=jnp.zeros(count, jnp.int32),
        exists=jnp.ones(count, bool),
        gain=jnp.ones(count, jnp.float32),
        painted=jnp.zeros(count, bool),
    )


def scene(boxes=None, panels=None, cones=None) -> Scene:
    return Scene(
        walls=no_walls(),
        patches=no_patches(),
        boxes=boxes or no_boxes(),
        panels=panels or no_panels(),
        cones=cones or no_cones(),
        floor_texture=jnp.int32(0),
        ceiling_texture=jnp.int32(0),
        ceiling_height=jnp.float32(2.74),
        sky=jnp.zeros(3, jnp.float32),
        light=miniworld_light(),
    )


def camera(x=0.0, y=1.5, z=0.0, yaw=0.0, pitch=0.0, fov=60.0) -> Camera:
    return Camera(
        position=jnp.array([x, y, z], jnp.float32),
        yaw=jnp.float32(yaw),
        pitch=jnp.float32(pitch),
        fov_y=jnp.float32(math.radians(fov)),
    )


def crowded(seed: int) -> tuple[Scene, Camera]:
    """30 boxes, 20 panels and 25 cones about the camera, some of them absent; it may stand in their midst."""
    random = np.random.default_rng(seed)

    def between(low, high, *shape):
        return jnp.asarray(random.uniform(low, high, shape), jnp.float32)

    def place(count):
        return between(-4, 4, count, 3) * np.float32([1, 0.3, 1]) + np.float32([0, 1, 0])

    def more(count):
        return {
            "colour": between(0, 1, count, 3),
            "gain": between(0.2, 5, count),
            "painted": jnp.arange(count) % 2 == 0,
            "exists": jnp.asarray(random.random(count) < 0.8),
        }

    b, p, c = 30, 20, 25
    made = scene(
        Boxes(
            centre=place(b),
            size=between(0.1, 1.2, b, 3),
            yaw=between(-4, 4, b),
            texture=jnp.zeros(b, jnp.int32),
            **more(b),
        ),
        Panels(
            centre=place(p),
            size=between(0.1, 1.2, p, 2),
            yaw=between(-4, 4, p),
            texture=jnp.zeros(p, jnp.int32),
            **more(p),
        ),
        Cones(
            base=place(c) - np.float32([0, 0.5, 0]),
            low_radius=between(0, 0.6, c),
            high_radius=between(0, 0.6, c),
            height=jnp.asarray(random.choice([0.01, 0.3, 1.5], c), jnp.float32),
            **more(c),
        ),
    )
    view = camera(*random.uniform(-3, 3, 3) * [1, 0.2, 1] + [0, 1.4, 0], random.uniform(-4, 4))
    return made, view.replace(fov_y=jnp.float32(random.uniform(0.6, 2.0)))


def searched(many: int, is_level: bool):
    """`trace`, that looks for a column's own surfaces first if there are more than `many`."""

    def look(made, view):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(level, "MOST", dict.fromkeys(level.MOST, many))
            return raycast.trace(made, view, SIZE, is_level)

    return jax.jit(look)


@pytest.fixture(scope="module")
def few():
    return searched(0, is_level=True)


@pytest.fixture(scope="module")
def all_of_them():
    return searched(10_000, is_level=True)


@pytest.fixture(scope="module")
def every_pixel():
    """The search of a camera that may look anywhere."""
    return searched(0, is_level=False)


def check(few, all_of_them, every_pixel, made, view) -> np.ndarray:
    """Few and all agree in every bit; both agree with every pixel's own search but for ties. The kinds seen."""
    new, old, slow = (jax.tree.map(np.asarray, look(made, view)) for look in (few, all_of_them, every_pixel))
    for name in ("kind", "index", "depth", "uv"):
        np.testing.assert_array_equal(getattr(new, name), getattr(old, name), err_msg=name)
    same = (new.kind == slow.kind) & (new.index == slow.index)
    assert same.mean() > 0.997  # two surfaces at one depth, or the last bit of an outline
    return new.kind


def test_crowds_look_the_same_whichever_way_they_are_searched(few, all_of_them, every_pixel):
    kinds = set()
    for seed in range(12):
        kinds |= set(np.unique(check(few, all_of_them, every_pixel, *crowded(seed))).tolist())
    assert {raycast.BOX, raycast.PANEL, raycast.CONE, raycast.FLOOR, raycast.CEILING} <= kinds


@pytest.mark.parametrize(
    ("centre", "size", "yaw", "seen"),
    [
        ((0.0, 0.4, 0.0), (3.0, 0.8, 3.0), 0.3, True),  # the camera stands on it, in all its columns
        ((0.0, 2.4, 0.0), (3.0, 0.4, 3.0), 0.3, True),  # or under it
        ((0.0, 1.5, 0.0), (3.0, 1.0, 3.0), 0.3, False),  # or within
        ((-3.0, 1.5, 0.0), (1.0, 1.0, 1.0), 0.0, False),  # behind
        ((3.0, 1.5, 0.5), (1.0, 1.0, 1.0), 0.0, True),  # one side is seen edge-on
        ((3.0, 1.0, 0.0), (1.0, 1.0, 1.0), 0.4, True),  # its top is
        ((3.0, 2.0, 0.0), (1.0, 1.0, 1.0), 0.4, True),  # its bottom is
        ((3.0, 1.5, 0.0), (0.0, 1.0, 1.0), 0.4, True),  # a plate
        ((3.0, 1.5, 0.0), (0.0, 0.0, 0.0), 0.4, False),  # nothing
        ((1e-3, 1.5, 0.0), (1e-4, 1.0, 1.0), 0.0, True),  # before the eye
        ((90.0, 1.5, 0.0), (0.1, 0.1, 0.1), 0.0, False),  # smaller than a pixel, between two columns
        ((40.0, 1.5, 0.0), (9.0, 9.0, 9.0), 0.0, True),  # through floor and ceiling
    ],
)
def test_boxes_in_odd_places(few, all_of_them, every_pixel, centre, size, yaw, seen):
    made = scene(boxes([centre], [size], [yaw]))
    assert (raycast.BOX in check(few, all_of_them, every_pixel, made, camera())) == seen


WIDE, FUNNEL, POINTED = (0.5, 0.2), (0.2, 0.5), (0.3, 0.0)  # radii below and above


@pytest.mark.parametrize("radii", (WIDE, FUNNEL, POINTED))
@pytest.mark.parametrize(
    ("place", "seen"),
    [
        ((0.0, 0.1), ()),  # under the camera
        ((0.0, -0.3), (WIDE,)),  # almost
        ((0.6, 0.0), (WIDE, POINTED)),  # from above, a funnel's outside is turned away
        ((3.0, 0.5), (WIDE, FUNNEL, POINTED)),
        ((-3.0, 0.0), ()),  # behind
        ((30.0, 9.0), ()),  # between two columns
    ],
)
def test_cones_in_odd_places(few, all_of_them, every_pixel, radii, place, seen):
    x, z = place
    cones = Cones(
        base=jnp.array([[x, 0.3, z]], jnp.float32),
        low_radius=jnp.float32(radii[:1]),
        high_radius=jnp.float32(radii[1:]),
        height=jnp.ones(1, jnp.float32),
        colour=jnp.ones((1, 3), jnp.float32),
        gain=jnp.ones(1, jnp.float32),
        painted=jnp.zeros(1, bool),
        exists=jnp.ones(1, bool),
    )
    kinds = check(few, all_of_them, every_pixel, scene(cones=cones), camera(fov=120.0))
    assert (raycast.CONE in kinds) == (radii in seen)


def test_a_camera_that_may_tilt_has_every_pixel_search_for_itself(monkeypatch):
    """What is known of columns holds for a level camera alone."""

    def refuse(*args, **kwargs):
        raise AssertionError("searched by columns")

    monkeypatch.setattr(level, "search_few", refuse)
    monkeypatch.setattr(level, "MOST", dict.fromkeys(level.MOST, 0))
    made, view = crowded(0)
    jax.eval_shape(lambda made, view: raycast.trace(made, view, SIZE), made, view)
    key = jax.eval_shape(lambda: jax.random.key(0))
    for options, by_columns in (({}, True), ({"randomise": True}, False)):
        world = envs_jax.make("miniworld/collect_health", **options)
        look = lambda key, world=world: world.render(world.reset(key))  # noqa: E731
        if by_columns:
            with pytest.raises(AssertionError, match="searched by columns"):
                jax.eval_shape(look, key)
        else:
            jax.eval_shape(look, key)
