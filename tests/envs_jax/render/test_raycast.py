"""The renderer against a slow ray caster that asks every surface, pixel by pixel, in plain NumPy.

A pixel counts as sure where rays a thousandth of a pixel to each side meet the same surface; sure pixels must
agree exactly in what they show.
"""

from __future__ import annotations

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from envs_jax.render import raycast
from envs_jax.render.raycast import BOX, CEILING, FAR, FLOOR, PATCH, SKY, WALL, render, trace
from envs_jax.render.scene import (
    Boxes,
    Camera,
    Patches,
    Scene,
    Walls,
    miniworld_light,
    no_boxes,
    no_patches,
    no_walls,
)
from envs_jax.render.texture import pack_atlas

SIZE = (12, 16)
SKY_COLOUR = (0.25, 0.82, 1.0)
UP = np.array([0.0, 1.0, 0.0])


def noisy_atlas(side=16):
    """White, then three textures of independent texels with tiles of 1, 1.5 and 2 metres."""
    random = np.random.default_rng(5)
    white = np.full((side, side, 3), 255.0)
    noisy = [(f"noise{i}", random.integers(0, 256, (side, side, 3)).astype(float), 1 + i / 2) for i in range(3)]
    return pack_atlas([("white", white, 1.0), *noisy])


ATLAS = noisy_atlas()


@pytest.fixture(scope="module")
def traced():
    """trace at SIZE, compiled once for every number of rows."""
    return jax.jit(lambda scene, camera: trace(scene, camera, SIZE))


@pytest.fixture(scope="module")
def rendered():
    return jax.jit(lambda scene, camera: render(scene, camera, ATLAS, SIZE))


# ---------------------------------------------------------------- making scenes


def walls(rows, texture=0):
    """rows: (start x, start z, end x, end z, low, high)."""
    rows = np.array(rows, np.float32).reshape(-1, 6)
    count = len(rows)
    return Walls(
        start=jnp.asarray(rows[:, 0:2]),
        end=jnp.asarray(rows[:, 2:4]),
        low=jnp.asarray(rows[:, 4]),
        high=jnp.asarray(rows[:, 5]),
        offset=jnp.zeros(count, jnp.float32),
        texture=jnp.full(count, texture, jnp.int32),
        exists=jnp.ones(count, bool),
    )


def boxes(rows, colour=(1.0, 0.0, 0.0), texture=0):
    """rows: (centre x, y, z, size x, y, z, yaw)."""
    rows = np.array(rows, np.float32).reshape(-1, 7)
    count = len(rows)
    return Boxes(
        centre=jnp.asarray(rows[:, 0:3]),
        size=jnp.asarray(rows[:, 3:6]),
        yaw=jnp.asarray(rows[:, 6]),
        colour=jnp.tile(jnp.array(colour, jnp.float32), (count, 1)),
        texture=jnp.full(count, texture, jnp.int32),
        exists=jnp.ones(count, bool),
    )


def patches(rows, faces_up, texture=0):
    """rows: (low x, low z, high x, high z, height)."""
    rows = np.array(rows, np.float32).reshape(-1, 5)
    return Patches(
        low=jnp.asarray(rows[:, 0:2]),
        high=jnp.asarray(rows[:, 2:4]),
        height=jnp.asarray(rows[:, 4]),
        faces_up=jnp.asarray(np.array(faces_up, bool).reshape(-1)),
        texture=jnp.full(len(rows), texture, jnp.int32),
        exists=jnp.ones(len(rows), bool),
    )


def scene(walls=None, patches=None, boxes=None, floor=0, ceiling=-1, ceiling_height=2.74):
    return Scene(
        walls=walls or no_walls(),
        patches=patches or no_patches(),
        boxes=boxes or no_boxes(),
        floor_texture=jnp.int32(floor),
        ceiling_texture=jnp.int32(ceiling),
        ceiling_height=jnp.float32(ceiling_height),
        sky=jnp.array(SKY_COLOUR, jnp.float32),
        light=miniworld_light(),
    )


def camera(x=0.0, y=1.5, z=0.0, yaw=0.0, pitch=0.0, fov=60.0):
    return Camera(
        position=jnp.array([x, y, z], jnp.float32),
        yaw=jnp.float32(yaw),
        pitch=jnp.float32(pitch),
        fov_y=jnp.float32(math.radians(fov)),
    )


def random_scene(seed, n_walls, n_patches, n_boxes):
    """Surfaces strewn over 10 x 10 m, some absent, and a camera anywhere, turned and tilted anyhow."""
    random = np.random.default_rng(seed)

    def between(low, high, *shape):
        return random.uniform(low, high, shape).astype(np.float32)

    low = between(0, 2, n_walls) * random.integers(0, 2, n_walls)
    corner = between(-5, 4, n_patches, 2)
    texture = lambda count: jnp.asarray(random.integers(0, 4, count), jnp.int32)  # noqa: E731
    exists = lambda count: jnp.asarray(random.random(count) < 0.8)  # noqa: E731
    made = Scene(
        walls=Walls(
            start=jnp.asarray(between(-5, 5, n_walls, 2)),
            end=jnp.asarray(between(-5, 5, n_walls, 2)),
            low=jnp.asarray(low),
            high=jnp.asarray(low + between(0.2, 2, n_walls)),
            offset=jnp.asarray(between(0, 2, n_walls)),
            texture=texture(n_walls),
            exists=exists(n_walls),
        ),
        patches=Patches(
            low=jnp.asarray(corner),
            high=jnp.asarray(corner + between(0.5, 4, n_patches, 2)),
            height=jnp.asarray(between(0, 2.7, n_patches)),
            faces_up=jnp.asarray(random.random(n_patches) < 0.5),
            texture=texture(n_patches),
            exists=exists(n_patches),
        ),
        boxes=Boxes(
            centre=jnp.asarray(between(-4, 4, n_boxes, 3) * np.float32([1, 0.2, 1]) + np.float32([0, 1, 0])),
            size=jnp.asarray(between(0.2, 1.5, n_boxes, 3)),
            yaw=jnp.asarray(between(-4, 4, n_boxes)),
            colour=jnp.asarray(between(0, 1, n_boxes, 3)),
            texture=texture(n_boxes),
            exists=exists(n_boxes),
        ),
        floor_texture=jnp.int32(random.integers(-1, 4)),
        ceiling_texture=jnp.int32(random.integers(-1, 4)),
        ceiling_height=jnp.float32(2.74),
        sky=jnp.array(SKY_COLOUR, jnp.float32),
        light=miniworld_light(),
    )
    x, z, yaw, pitch = between(-4, 4), between(-4, 4), between(-4, 4), between(-0.6, 0.6)
    return made, camera(x, between(0.3, 2.5), z, yaw, pitch, random.uniform(30, 100))


# ---------------------------------------------------------------- the slow ray caster


def rays(view, size, shift=(0.0, 0.0)):
    """Ray of every pixel's centre [H, W, 3], of length 1 along the camera's axis."""
    height, width = size
    half = math.tan(float(view.fov_y) / 2)
    pitch, yaw = float(view.pitch), float(view.yaw)
    tilt = np.array(
        [[math.cos(pitch), -math.sin(pitch), 0], [math.sin(pitch), math.cos(pitch), 0], [0, 0, 1]]
    )  # x towards y
    turn = np.array([[math.cos(yaw), 0, math.sin(yaw)], [0, 1, 0], [-math.sin(yaw), 0, math.cos(yaw)]])
    out = np.zeros((height, width, 3))
    for row, column in itertools.product(range(height), range(width)):
        right = ((column + 0.5 + shift[0]) / width * 2 - 1) * half * width / height
        up = (1 - (row + 0.5 + shift[1]) / height * 2) * half
        out[row, column] = turn @ tilt @ np.array([1.0, up, right])  # looking along x, z is to the right
    return out


def surfaces(made, eye):
    """Every flat surface that may be seen: dicts of a point, normal, test(point) -> inside, uv(point), ..."""
    f64 = lambda leaf: np.asarray(leaf, np.float64)  # noqa: E731
    found = []

    def add(kind, index, point, normal, inside, uv, texture, colour=(1, 1, 1), face=0):
        if np.dot(eye - point, normal) > 1e-9:  # one-sided
            found.append(
                {
                    "label": (kind, index, face),
                    "point": np.array(point, float),
                    "normal": np.array(normal, float),
                    "inside": inside,
                    "uv": uv,
                    "texture": int(texture),
                    "colour": np.array(colour, float),
                    "stretched": kind == BOX,
                }
            )

    def near_eye(p):
        return abs(p[0] - eye[0]) <= FAR and abs(p[2] - eye[2]) <= FAR

    def flat(p):
        return p[0], p[2]

    if made.floor_texture >= 0:
        add(FLOOR, 0, [0, 0, 0], UP, near_eye, flat, made.floor_texture)
    if made.ceiling_texture >= 0:
        add(CEILING, 0, [0, float(made.ceiling_height), 0], -UP, near_eye, flat, made.ceiling_texture)
    for i in range(len(made.walls.exists)):
        if not made.walls.exists[i]:
            continue
        start, end = f64(made.walls.start[i]), f64(made.walls.end[i])
        length = np.linalg.norm(end - start)
        along = np.array([end[0] - start[0], 0, end[1] - start[1]]) / length
        base = np.array([start[0], 0, start[1]])
        low, high, offset = (float(x[i]) for x in (made.walls.low, made.walls.high, made.walls.offset))
        add(
            WALL,
            i,
            base,
            np.cross(UP, along),
            lambda p, b=base, a=along, n=length, lo=low, hi=high: 0 <= (p - b) @ a <= n and lo <= p[1] <= hi,
            lambda p, b=base, a=along, o=offset: ((p - b) @ a + o, p[1]),
            made.walls.texture[i],
        )
    for i in range(len(made.patches.exists)):
        if not made.patches.exists[i]:
            continue
        low, high, up = f64(made.patches.low[i]), f64(made.patches.high[i]), bool(made.patches.faces_up[i])
        add(
            PATCH,
            i,
            [0, float(made.patches.height[i]) + (1e-3 if up else -1e-3), 0],
            UP if up else -UP,
            lambda p, lo=low, hi=high: lo[0] <= p[0] <= hi[0] and lo[1] <= p[2] <= hi[1],
            flat,
            made.patches.texture[i],
        )
    for i in range(len(made.boxes.exists)):
        if not made.boxes.exists[i]:
            continue
        yaw, centre, size = float(made.boxes.yaw[i]), f64(made.boxes.centre[i]), f64(made.boxes.size[i])
        axes = [np.array([math.cos(yaw), 0, -math.sin(yaw)]), UP, np.array([math.sin(yaw), 0, math.cos(yaw)])]
        for axis, sign in itertools.product(range(3), (1, -1)):
            normal = sign * axes[axis]
            others = [k for k in range(3) if k != axis]

            def inside(p, c=centre, s=size, ax=axes, o=others):
                return all(abs((p - c) @ ax[k]) <= s[k] / 2 for k in o)

            def uv(p, c=centre, s=size, n=normal, axis=axis):
                if axis == 1:
                    return np.nan, np.nan  # not specified for the top
                right = np.cross(-n, UP)  # to the right of who looks at this side
                return 0.5 + (p - c) @ right / s[2 - axis], 0.5 + (p - c)[1] / s[1]

            add(
                BOX,
                i,
                centre + normal * size[axis] / 2,
                normal,
                inside,
                uv,
                made.boxes.texture[i],
                f64(made.boxes.colour[i]),
                face=2 * axis + (sign > 0),
            )
    return found


def meet(surface, eye, ray):
    """Depth and point where a ray meets a surface's plane."""
    towards = ray @ surface["normal"]
    if abs(towards) < 1e-12:
        return np.inf, eye
    depth = ((surface["point"] - eye) @ surface["normal"]) / towards
    return (depth, eye + depth * ray) if depth > 0 else (np.inf, eye)


def cast(made, view, size=SIZE, shift=(0.0, 0.0)):
    """[H][W] of (depth, surface or None, point)."""
    eye = np.asarray(view.position, np.float64)
    every = surfaces(made, eye)
    out = []
    for line in rays(view, size, shift):
        out.append([])
        for ray in line:
            best = (np.inf, None, eye)
            for surface in every:
                depth, point = meet(surface, eye, ray)
                if depth < best[0] and surface["inside"](point):
                    best = (depth, surface, point)
            out[-1].append(best)
    return out


def labels(picture):
    """What each pixel shows: (kind, index, face of a box), [H, W, 3]."""
    return np.array([[s["label"] if s else (SKY, 0, 0) for _, s, _ in line] for line in picture])


def sure(made, view, picture, size=SIZE):
    """bool[H, W], see the module's docstring."""
    centre = labels(picture)
    shifted = [labels(cast(made, view, size, s)) for s in ((1e-3, 1e-3), (-1e-3, -1e-3), (1e-3, -1e-3))]
    return np.all([np.all(other == centre, axis=-1) for other in shifted], axis=0)


def check_trace(traced, made, view):
    """Compares trace with the slow caster; returns the labels seen, for tests that expect some."""
    hit = jax.tree.map(np.asarray, traced(made, view))
    picture = cast(made, view)
    is_sure, want = sure(made, view, picture), labels(picture)
    assert is_sure.mean() > 0.9
    np.testing.assert_array_equal(np.stack([hit.kind, hit.index], axis=-1)[is_sure], want[is_sure][:, :2])
    for row, column in np.argwhere(is_sure):
        depth, surface, point = picture[row][column]
        if surface is None:
            assert hit.depth[row, column] == np.inf
            continue
        assert hit.depth[row, column] == pytest.approx(depth, rel=2e-3, abs=1e-4)
        uv = np.array(surface["uv"](point))
        if not np.isnan(uv).any():
            np.testing.assert_allclose(hit.uv[row, column], uv, rtol=2e-3, atol=5e-3 * max(1.0, depth))
    return want[..., :2]


# ---------------------------------------------------------------- what is seen


@pytest.mark.parametrize("seed", range(10))
def test_trace_is_the_slow_caster_on_random_scenes(traced, seed):
    check_trace(traced, *random_scene(seed, n_walls=10, n_patches=3, n_boxes=3))


@pytest.mark.parametrize("seed", (0, 1))
def test_trace_is_the_slow_caster_where_facets_are_scanned_in_groups(traced, seed):
    check_trace(traced, *random_scene(100 + seed, n_walls=60, n_patches=2, n_boxes=4))  # 77 facets, 3 groups


def test_lintel_leaves_the_doorway_open_below_it(traced):
    door = [[3, 3, 3, 1, 0, 2.74], [3, 1, 3, -1, 2.2, 2.74], [3, -1, 3, -3, 0, 2.74], [6, 3, 6, -3, 0, 2.74]]
    seen = check_trace(traced, scene(walls(door), ceiling=0), camera(1.5))
    middle = [tuple(label) for label in seen[:, SIZE[1] // 2]]
    assert (WALL, 1) in middle and (WALL, 3) in middle  # the lintel above, the room behind it below
    assert middle.index((WALL, 1)) < middle.index((WALL, 3))


@pytest.mark.parametrize(("yaw", "seen"), [(0.0, True), (math.pi, False)])
def test_walls_are_seen_from_their_left_only(traced, yaw, seen):
    ends = [4, 4, 4, -4] if yaw == 0 else [-4, 4, -4, -4]  # the second, ahead as well, is turned away
    found = check_trace(traced, scene(walls([[*ends, 0, 3]])), camera(yaw=yaw))
    assert (WALL in found[..., 0]) == seen


def test_patches_cover_floor_and_hang_below_the_ceiling(traced):
    rows = [[1, -1, 4, 1, 0.0], [1, -1, 4, 1, 2.2]]
    found = check_trace(traced, scene(patches=patches(rows, [True, False]), ceiling=0), camera(fov=90))
    assert {(PATCH, 0), (PATCH, 1), (FLOOR, 0), (CEILING, 0)} <= {tuple(label) for label in found.reshape(-1, 2)}
    found = check_trace(traced, scene(patches=patches(rows, [False, True]), ceiling=0), camera(fov=90))
    assert PATCH not in found[..., 0]  # seen from the other side they are not there


@pytest.mark.parametrize("pitch", (-0.5, 0.0, 0.5))
@pytest.mark.parametrize("fov", (30.0, 60.0, 110.0))
def test_pitch_and_field_of_view(traced, pitch, fov):
    check_trace(
        traced, scene(boxes=boxes([[4, 0.4, 0.3, 0.8, 0.8, 0.8, 0.4]]), ceiling=0), camera(0, pitch=pitch, fov=fov)
    )


@pytest.mark.parametrize("yaw", (0.0, 0.4, math.pi / 4, 2.0, -3.0))
def test_boxes_turn_with_their_yaw_and_are_closed(traced, yaw):
    made = scene(boxes=boxes([[3, 0.5, 0, 1.2, 1.0, 0.4, yaw]]), floor=-1)
    found = check_trace(traced, made, camera(y=2.5, pitch=-0.6, fov=40))
    assert np.sum(found[..., 0] == BOX) > 8


def test_a_step_left_looks_along_minus_z(traced):
    found = check_trace(traced, scene(boxes=boxes([[0, 1.5, -3, 1, 1, 1, 0]]), floor=-1), camera(yaw=math.pi / 2))
    assert found[SIZE[0] // 2, SIZE[1] // 2, 0] == BOX


def test_rows_that_do_not_exist_change_nothing_whatever_they_hold(traced):
    made, view = random_scene(3, n_walls=10, n_patches=3, n_boxes=3)

    def spoil(rows):
        def leaf(x):
            if x.dtype != jnp.float32:
                return x
            gone = ~rows.exists.reshape(-1, *[1] * (x.ndim - 1))
            return jnp.where(gone, jnp.nan, x)

        return jax.tree.map(leaf, rows)

    spoilt = made.replace(walls=spoil(made.walls), patches=spoil(made.patches), boxes=spoil(made.boxes))
    assert not all(np.asarray(rows.exists).all() for rows in (made.walls, made.patches, made.boxes))
    for one, two in zip(jax.tree.leaves(traced(made, view)), jax.tree.leaves(traced(spoilt, view)), strict=True):
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize(
    "view",
    [
        camera(0, 0.5, 0),  # inside the box
        camera(0, 0.0, 3),  # in the plane of the floor
        camera(0, -1.0, 3),  # below it
        camera(0, 2.74, 3),  # in the ceiling
        camera(0, 5.0, 3, pitch=-1.2),  # above it
        camera(2, 1.5, 0),  # in a wall
        camera(2, 1.5, 0, yaw=math.pi / 2),  # in a wall, along it
        camera(1e-7, 1.5, 1e-7, pitch=math.pi / 2),
        camera(0.5, 1.0, 0.5, pitch=-math.pi / 2),  # on a corner of the box, straight down
        camera(5000.0, 1.5, -5000.0, yaw=1.0),
        camera(0, 1.5, 3, fov=1e-3),
        camera(0, 1.5, 3, fov=179.0),
    ],
)
def test_odd_places_give_numbers(traced, rendered, view):
    made = scene(
        walls([[2, 2, 2, -2, 0, 2.74], [1, 1, 1, 1, 0, 2], [-1, 0, -2, 0, 1, 1]], texture=1),  # two have no area
        patches([[0, 0, 1, 1, 0], [1, 1, 1, 1, 0]], [True, True], texture=2),
        boxes([[0, 0.5, 0, 1, 1, 1, 0], [1, 1, 1, 0, 0, 0, 0]], texture=3),
        floor=1,
        ceiling=2,
    )
    hit = traced(made, view)
    assert np.isfinite(hit.uv).all() and (np.asarray(hit.depth) > 0).all()
    assert not np.isnan(hit.depth).any()
    np.testing.assert_array_equal(np.isinf(hit.depth), np.asarray(hit.kind) == SKY)
    assert rendered(made, view).shape == (*SIZE, 3)
    if float(view.position[1]) == 0.5:
        assert BOX not in np.asarray(hit.kind)  # from within, a box is not there


def test_nothing_at_all_is_sky(traced, rendered):
    hit = traced(scene(floor=-1), camera())
    assert (np.asarray(hit.kind) == SKY).all() and np.isinf(hit.depth).all()
    np.testing.assert_array_equal(
        rendered(scene(floor=-1), camera()), np.broadcast_to(np.rint(255 * np.array(SKY_COLOUR)), (*SIZE, 3))
    )


# ---------------------------------------------------------------- light and texture


def slow_texel(atlas_pictures, metres, texture, u, v, du, dv):
    """Trilinear, as OpenGL defines it; du, dv: derivatives of (u, v) by column and by row, metres."""
    pyramid, tile = atlas_pictures[texture], metres[texture]
    side = pyramid[0].shape[0]
    rho = max(np.hypot(*(np.array(du) / tile * side)), np.hypot(*(np.array(dv) / tile * side)))
    level = min(max(np.log2(max(rho, 1e-12)), 0.0), len(pyramid) - 1.0)

    def bilinear(picture):
        n = picture.shape[0]
        x, y = u / tile * n - 0.5, v / tile * n - 0.5
        x0, y0 = math.floor(x), math.floor(y)
        return sum(
            picture[(y0 + j) % n, (x0 + i) % n] * (1 - abs(x - x0 - i)) * (1 - abs(y - y0 - j))
            for i in (0, 1)
            for j in (0, 1)
        )

    low = int(level)
    share = level - low
    return bilinear(pyramid[low]) * (1 - share) + bilinear(pyramid[min(low + 1, len(pyramid) - 1)]) * share


def pyramids(atlas):
    """The levels of each texture, read back from the atlas' documented layout: [texture][level] -> [S, S, 3]."""
    texels = np.asarray(atlas.texels)[:, 0].reshape(len(atlas.names), -1)
    out = []
    for row in texels:
        sides = [atlas.side >> k for k in range(atlas.side.bit_length())]
        colours = np.stack([(row >> shift) & 255 for shift in (0, 8, 16)], axis=-1).astype(float)
        out.append([colours[s * s : 2 * s * s].reshape(s, s, 3) for s in sides])
    return out


@pytest.mark.parametrize("seed", range(3))
def test_render_is_the_slow_caster_with_trilinear_textures_and_the_light(rendered, seed):
    made, view = random_scene(seed, n_walls=10, n_patches=3, n_boxes=3)
    eye = np.asarray(view.position, np.float64)
    picture = cast(made, view)
    is_sure = sure(made, view, picture)
    nearby = [rays(view, SIZE, shift) for shift in ((0.01, 0), (-0.01, 0), (0, 0.01), (0, -0.01))]
    textures, metres = pyramids(ATLAS), np.asarray(ATLAS.metres)
    towards = np.array([1, 3.5, 1]) / np.linalg.norm([1, 3.5, 1])
    got = np.asarray(rendered(made, view)).astype(float)
    off, compared = [], 0
    for row, column in np.argwhere(is_sure):
        _, surface, point = picture[row][column]
        if surface is None:
            want = 255 * np.array(SKY_COLOUR)
        else:
            uv = surface["uv"](point)
            if np.isnan(uv).any():
                continue
            around = [np.array(surface["uv"](meet(surface, eye, r[row, column])[1])) for r in nearby]
            du, dv = (around[0] - around[1]) / 0.02, (around[2] - around[3]) / 0.02
            sizes = np.ones_like(metres) if surface["stretched"] else metres
            texel = slow_texel(textures, sizes, surface["texture"], *uv, du, dv)
            lambert = max(0.0, surface["normal"] @ towards)
            want = texel * np.clip(surface["colour"] * (0.2 + 0.45 + 0.7 * lambert), 0, 1)
        compared += 1
        off.append(np.abs(got[row, column] - want).max())
    assert compared > 0.5 * SIZE[0] * SIZE[1]
    off = np.array(off)
    # Texels differ by up to 255 and grazing surfaces cross many: float32 may move a few by a little more.
    assert np.quantile(off, 0.97) <= 1.0 and off.max() < 12


def test_lighting_of_the_six_directions():
    """floor 1, ceiling .65, walls facing +x or +z .835, facing -x or -z .65 of a white surface."""
    room = [[4, 4, 4, -4], [4, -4, -4, -4], [-4, -4, -4, 4], [-4, 4, 4, 4]]  # faces -x, +z, +x, -z
    made = scene(walls([[*row, 0, 2.74] for row in room]), ceiling=0)
    look = jax.jit(lambda yaw, pitch: render(made, camera().replace(yaw=yaw, pitch=pitch), ATLAS, (5, 5))[2, 2])
    want = {(0, 0): 0.65, (math.pi / 2, 0): 0.835, (math.pi, 0): 0.835, (-math.pi / 2, 0): 0.65}
    want |= {(0, -math.pi / 2): 1.0, (0, math.pi / 2): 0.65}
    for (yaw, pitch), share in want.items():
        np.testing.assert_allclose(look(jnp.float32(yaw), jnp.float32(pitch)), 255 * share, atol=0.6)


def test_colour_is_multiplied_before_the_light_is_clipped():
    made = scene(boxes=boxes([[0, 0.5, 0, 1, 1, 1, 0]], colour=(0.44, 0.15, 0.76)), floor=-1)
    view = camera(y=3.0, pitch=-math.pi / 2)
    top = jax.jit(lambda made, view: render(made, view, ATLAS, (5, 5)))(made, view)[2, 2]
    full = 0.65 + 0.7 * 3.5 / math.sqrt(14.25)  # over 1: clipped after the product
    np.testing.assert_allclose(top, np.clip(255 * np.array([0.44, 0.15, 0.76]) * full, 0, 255), atol=0.6)


def test_a_distant_floor_neither_aliases_nor_shimmers():
    """Against one unfiltered texel a pixel, far floor is flat, has the mean colour, and stays when one moves."""
    random = np.random.default_rng(0)
    checks = np.where(random.random((32, 32)) < 0.5, 0.0, 255.0)[..., None].repeat(3, axis=-1)
    atlas = pack_atlas([("white", np.full((32, 32, 3), 255.0), 1.0), ("checks", checks, 4.0)])
    made, size = scene(floor=1), (60, 80)
    look = jax.jit(lambda view: (render(made, view, atlas, size)[..., 0], trace(made, view, size)))

    def both(view):
        picture, hit = look(view)
        u, v = (np.asarray(hit.uv)[..., k] / 4.0 * 32 for k in (0, 1))
        raw = checks[np.floor(v).astype(int) % 32, np.floor(u).astype(int) % 32, 0]
        far = (np.asarray(hit.kind) == FLOOR) & (np.asarray(hit.depth) > 15)
        return np.asarray(picture, float), raw, far

    (picture, raw, far), (moved, raw_moved, _) = both(camera(0.3)), both(camera(0.32, z=0.01))
    assert far.sum() > 100 and raw[far].std() > 100
    assert picture[far].std() < 6
    assert abs(picture[far].mean() - checks.mean()) < 4
    assert np.abs(moved - picture)[far].mean() < 2 < 20 < np.abs(raw_moved - raw)[far].mean()
    near = np.zeros_like(far)
    near[-10:] = True
    assert picture[near].std() > 30  # and close by the squares are seen


@pytest.mark.parametrize("size", ((1, 4), (6, 10), (5, 5)))
def test_words_and_bytes_are_the_same_picture(size):
    """CPU writes bytes, GPU words where four pixels make three."""
    packed = np.random.default_rng(0).integers(0, 1 << 24, size).astype(np.uint32)
    want = np.stack([packed >> shift & 255 for shift in (0, 8, 16)], axis=-1)
    np.testing.assert_array_equal(raycast._bytes(jnp.asarray(packed)), want)
    if packed.size % 4 == 0:
        np.testing.assert_array_equal(raycast._bytes_joined(jnp.asarray(packed)), want)


def test_vmap_is_a_loop(rendered):
    pairs = [random_scene(seed, n_walls=10, n_patches=3, n_boxes=3) for seed in range(4)]
    together = jax.tree.map(lambda *leaves: jnp.stack(leaves), *pairs)
    batch = np.asarray(jax.jit(jax.vmap(lambda s, v: render(s, v, ATLAS, SIZE)))(*together)).astype(int)
    for one, pair in zip(batch, pairs, strict=True):
        assert np.mean(np.abs(one - np.asarray(rendered(*pair)).astype(int)) > 1) < 0.002
