"""Films a scene: the walk's frames, rendered by MiniWorld's own ray caster in one jitted program.

Scenes of all kinds have one shape, so that a film size is compiled once: ten walls, and a slot for each thing that
there may be (`SLOTS`), of which those that are in the scene exist.
"""

from __future__ import annotations

from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt8

from envs_jax.miniworld.entities import COLOURS
from envs_jax.miniworld.layout import WALL_HEIGHT
from envs_jax.render import shapes
from envs_jax.render.raycast import render, trace
from envs_jax.render.scene import Camera, Walls, miniworld_light, no_patches
from envs_jax.render.scene import Scene as Drawn
from envs_jax.render.texture import build_atlas
from vldac.evaluate.spatial.scenes import FLOORS, MOST, WALLS, Scene
from vldac.evaluate.spatial.sight import EYE, FIELD_OF_VIEW

MATERIALS = ("plain", *dict.fromkeys((*FLOORS, *WALLS)))
_MOST_WALLS = 10  # of two rooms: three and two pieces each
SLOTS = {"box": MOST + 2, "ball": MOST + 2, "key": 2, "med_kit": 1, "duckie": 1, "cone": MOST}
_MAKE = {
    "ball": shapes.ball,
    "key": shapes.key,
    "med_kit": shapes.med_kit,
    "duckie": shapes.duckie,
    "cone": shapes.cone,
}
_TINTED = ("box", "ball", "key")


def film(scene: Scene, image_shape: tuple[int, int]) -> UInt8[np.ndarray, "frames h w 3"]:
    """The frames of a scene's walk.

    Args:
      scene: see there.
      image_shape: (height, width).
    """
    return np.asarray(_film(image_shape)(*_arrays(scene)))


def surfaces(scene: Scene, image_shape: tuple[int, int]) -> Int[np.ndarray, "frames h w"]:
    """The number of the thing that each pixel shows, -1 where it shows none: what `sight` is held against."""
    numbers = np.asarray(_surfaces(image_shape)(*_arrays(scene)))
    rows = np.full(sum(SLOTS.values()) + 1, -1)
    for thing, slot in enumerate(_slots(scene)):
        rows[slot] = thing
    return rows[numbers]


def _slots(scene: Scene) -> list[int]:
    """The slot of each thing."""
    first = dict(zip(SLOTS, np.cumsum([0, *SLOTS.values()]).tolist(), strict=False))
    taken = dict.fromkeys(SLOTS, 0)
    slots = []
    for kind in scene.kind:
        slots.append(first[kind] + taken[kind])
        taken[kind] += 1
    return slots


def _arrays(scene: Scene) -> tuple:
    """Walls; float32[S, 9] of the slots: place (3), yaw, height, colour (3), exists; floor, wall; the path."""
    rows = np.zeros((sum(SLOTS.values()), 9), np.float32)
    rows[:, 4] = 1.0
    for thing, slot in enumerate(_slots(scene)):
        x, z = scene.position[thing]
        colour = COLOURS.get(scene.colour[thing], (1.0, 1.0, 1.0))
        rows[slot] = (x, 0, z, scene.yaw[thing], scene.height[thing], *colour, 1)
    made = scene.plan.walls_array
    blank = _MOST_WALLS - len(made.start)
    start, end, offset = (
        np.concatenate([column, np.zeros((blank, *column.shape[1:]), np.float32)])
        for column in (made.start, made.end, made.offset)
    )
    exists = np.arange(_MOST_WALLS) < len(made.start)
    room = scene.plan.rooms[0]
    floor, wall = (np.int32(MATERIALS.index(material)) for material in (room.floor, room.wall))
    return start, end, offset, exists, rows, floor, wall, scene.path.astype(np.float32)


def _drawn(
    start: Float[Array, "w 2"],
    end: Float[Array, "w 2"],
    offset: Float[Array, " w"],
    exists: Bool[Array, " w"],
    rows: Float[Array, "s 9"],
    floor: Int[Array, ""],
    wall: Int[Array, ""],
) -> tuple[Drawn, list[shapes.Shapes]]:
    """The scene as the renderer takes it, and its things in the order of the slots."""
    groups, first = [], 0
    for kind, count in SLOTS.items():
        mine = rows[first : first + count]
        first += count
        place, yaw, height, colour, there = mine[:, :3], mine[:, 3], mine[:, 4], mine[:, 5:8], mine[:, 8] > 0
        if kind == "box":
            groups.append(jax.vmap(shapes.box)(place, yaw, jnp.repeat(height[:, None], 3, axis=1), colour, there))
        elif kind in _TINTED:
            groups.append(jax.vmap(_MAKE[kind])(place, yaw, height, colour, there))
        else:
            groups.append(jax.vmap(_MAKE[kind])(place, yaw, height, there))
    made = shapes.join(*groups)
    scene = Drawn(
        walls=Walls(
            start=start,
            end=end,
            low=jnp.zeros(_MOST_WALLS, jnp.float32),
            high=jnp.full(_MOST_WALLS, WALL_HEIGHT, jnp.float32),
            offset=offset,
            texture=jnp.full(_MOST_WALLS, wall, jnp.int32),
            exists=exists,
            alike=(0,) * _MOST_WALLS,
        ),
        patches=no_patches(),
        boxes=made.boxes,
        balls=made.balls,
        cones=made.cones,
        panels=made.panels,
        floor_texture=floor,
        ceiling_texture=jnp.int32(MATERIALS.index("concrete_tiles")),
        ceiling_height=jnp.float32(WALL_HEIGHT),
        sky=jnp.zeros(3, jnp.float32),
        light=miniworld_light(),
    )
    return scene, groups


def _camera(at: Float[Array, "3"]) -> Camera:
    return Camera(
        position=jnp.stack([at[0], jnp.float32(EYE), at[1]]),
        yaw=at[2],
        pitch=jnp.float32(0.0),
        fov_y=jnp.float32(FIELD_OF_VIEW),
    )


@lru_cache(maxsize=4)
def _film(image_shape: tuple[int, int]):
    atlas = build_atlas(MATERIALS)

    @jax.jit
    def frames(*given):
        scene, _ = _drawn(*given[:-1])
        return jax.vmap(lambda at: render(scene, _camera(at), atlas, image_shape, True))(given[-1])

    return frames


@lru_cache(maxsize=4)
def _surfaces(image_shape: tuple[int, int]):
    @jax.jit
    def numbers(*given):
        scene, groups = _drawn(*given[:-1])

        def one(at):
            return shapes.things_seen(trace(scene, _camera(at), image_shape, True), *groups)

        return jax.vmap(one)(given[-1])

    return numbers
