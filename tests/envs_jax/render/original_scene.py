"""What the original MiniWorld shows, and the same rooms and things as our `Scene`, for any of its tasks.

* Surfaces and depth of the original are taken at pixels' centres: one sample a pixel, and fog so thick that each
  surface has one colour, whatever its texture and light.
* Its texture files are read where the test dependency is installed, into an atlas of ours.

Importing this opens a connection to a display: DISPLAY has to be set.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from unittest import mock

import jax.numpy as jnp
import miniworld
import numpy as np
from miniworld import entity as original
from miniworld.opengl import FrameBuffer
from PIL import Image
from pyglet import gl

from envs_jax.render import shapes
from envs_jax.render.scene import (
    Camera,
    Light,
    Patches,
    Scene,
    Walls,
    alike,
)
from envs_jax.render.texture import Atlas, pack_atlas

SIZE = (60, 80)
NEAR, FAR = 0.04, 100.0  # metres, of the original's camera
TEXTURES = (
    ("floor_tiles_bw", 1.0),
    ("concrete", 1.0),
    ("concrete_tiles", 1.5),
    ("brick_wall", 2.0),
    ("asphalt", 1.0),
    ("cinder_blocks", 2.0),
    ("slime", 1.0),
    ("logo_mila", 1.0),
    *((f"chars/ch_0x{ord(letter)}", 1.0) for letter in "BLUERDGN"),
)
_SIDE = 512
_FILES = Path(miniworld.__file__).parent


@cache
def atlas() -> Atlas:
    """White, the original's textures, and the colours on average of its meshes' textures."""
    pictures = [("plain", np.full((_SIDE, _SIDE, 3), 255.0), 1.0)]
    for name, metres in TEXTURES:
        picture = Image.open(_FILES / "textures" / f"{name}_1.png").convert("RGB")
        filtered = Image.Resampling.BOX if picture.width % _SIDE == 0 else Image.Resampling.BICUBIC
        picture = picture.resize((_SIDE, _SIDE), filtered)
        pictures.append((name, np.asarray(picture, np.float64)[::-1], metres))
    return pack_atlas(pictures)


def texture(name: str) -> int:
    """Row of the atlas."""
    return atlas().names.index(name)


# ---------------------------------------------------------------- the original's rooms and things as our scene


def scene_of(env) -> Scene:
    """Rooms with their portals and passages, and all things in them."""
    rows = [row for room in env.rooms for row in _walls(room)]
    tall = max(room.wall_height for room in env.rooms)
    ground = env.rooms[0].floor_tex_name
    patches = []
    for room in env.rooms:
        area = (room.min_x, room.min_z, room.max_x, room.max_z)
        if room.floor_tex_name != ground:
            patches.append((*area, 0.0, True, texture(room.floor_tex_name)))
        if room.wall_height != tall and not room.no_ceiling:
            patches.append((*area, room.wall_height, False, texture(room.ceil_tex_name)))
    ceilings = {room.ceil_tex_name for room in env.rooms if not room.no_ceiling}
    assert len(ceilings) <= 1
    made = things_of(env)
    position = np.array(env.light_pos, np.float64) + 1  # as upstream adds it to each, instead of as a fourth
    return Scene(
        walls=_as_walls(rows),
        patches=_as_patches(patches),
        boxes=made.boxes,
        balls=made.balls,
        cones=made.cones,
        panels=made.panels,
        floor_texture=jnp.int32(texture(ground)),
        ceiling_texture=jnp.int32(texture(ceilings.pop()) if ceilings else -1),
        ceiling_height=jnp.float32(tall),
        sky=jnp.asarray(np.array(env.sky_color), jnp.float32),
        light=Light(
            direction=jnp.asarray(position / np.linalg.norm(position), jnp.float32),
            diffuse=jnp.asarray(np.array(env.light_color), jnp.float32),
            ambient=jnp.asarray(np.array(env.light_ambient), jnp.float32),
        ),
    )


def camera_of(env) -> Camera:
    """Through the agent's eyes."""
    agent = env.agent
    return Camera(
        position=jnp.asarray(agent.cam_pos, jnp.float32),
        yaw=jnp.float32(agent.dir),
        pitch=jnp.float32(math.radians(agent.cam_pitch)),
        fov_y=jnp.float32(math.radians(agent.cam_fov_y)),
    )


def entities_of(env) -> list:
    """The things, in the order of `things_of`."""
    return [entity for entity in env.entities if entity is not env.agent]


def groups_of(env) -> list[shapes.Shapes]:
    """One group of primitives a thing."""
    return [_thing(entity) for entity in entities_of(env)]


def things_of(env) -> shapes.Shapes:
    """All things' primitives."""
    return shapes.join(*groups_of(env))


def mesh_name(entity) -> str:
    """ "" for what is no mesh."""
    if not isinstance(entity, original.MeshEnt):
        return ""
    names = {id(mesh): Path(path).stem for path, mesh in original.ObjMesh.cache.items()}
    return names[id(entity.mesh)]


def _thing(entity) -> shapes.Shapes:
    position, yaw = jnp.asarray(np.array(entity.pos, np.float64), jnp.float32), jnp.float32(entity.dir)
    if isinstance(entity, original.Box):
        size, colour = (jnp.asarray(np.array(x), jnp.float32) for x in (entity.size, entity.color_vec))
        return shapes.box(position, yaw, size, colour, True)
    height = jnp.float32(entity.height)
    if isinstance(entity, original.TextFrame):
        glyphs = [texture(f"chars/ch_0x{ord(letter)}") for letter in entity.str]
        return shapes.text_sign(position, yaw, height, jnp.array(glyphs, jnp.int32), True)
    if isinstance(entity, original.ImageFrame):
        picture = texture("logo_mila")
        return shapes.picture_frame(position, yaw, jnp.float32(entity.width), height, picture, True)
    name = mesh_name(entity)
    kind, _, colour = name.partition("_")
    if kind in ("key", "ball"):
        make = {"key": shapes.key, "ball": shapes.ball}[kind]
        return make(position, yaw, height, jnp.asarray(original.COLORS[colour], jnp.float32), True)
    make = {"medkit": shapes.med_kit, "cone": shapes.cone, "duckie": shapes.duckie, "building": shapes.building}
    return make[name](position, yaw, height, True)


def _walls(room) -> list[tuple]:
    """(start, end, low, high, offset, texture) of every quadrilateral, which are listed from its start upwards."""
    rows = []
    for quad in range(len(room.wall_verts) // 4):
        corners = room.wall_verts[4 * quad : 4 * quad + 4]
        low, high = corners[0][1], corners[1][1]
        metres = dict(TEXTURES)[room.wall_tex_name]
        offset = room.wall_texcs[4 * quad][0] * metres
        start, end = corners[0][[0, 2]], corners[3][[0, 2]]
        rows.append((start, end, low, high, offset, texture(room.wall_tex_name)))
    return rows


def _as_walls(rows) -> Walls:
    start, end, low, high, offset, names = (np.array(column) for column in zip(*rows, strict=True))
    number = lambda x: jnp.asarray(x, jnp.float32)  # noqa: E731
    return Walls(
        start=number(start),
        end=number(end),
        low=number(low),
        high=number(high),
        offset=number(offset),
        texture=jnp.asarray(names, jnp.int32),
        exists=jnp.ones(len(rows), bool),
        alike=alike(low, high, 1.5),
    )


def _as_patches(rows) -> Patches:
    table = np.array(rows, np.float64).reshape(-1, 7)
    return Patches(
        low=jnp.asarray(table[:, 0:2], jnp.float32),
        high=jnp.asarray(table[:, 2:4], jnp.float32),
        height=jnp.asarray(table[:, 4], jnp.float32),
        faces_up=jnp.asarray(table[:, 5] > 0),
        texture=jnp.asarray(table[:, 6], jnp.int32),
        exists=jnp.ones(len(table), bool),
    )


# ---------------------------------------------------------------- what the original shows


@dataclass
class Seen:
    """The original's picture, one sample a pixel.

    Attributes:
      label: [H, W], 0 sky, 1 floor, 2 ceiling, 3 + number of the wall, -1 - number of the thing.
      w: [H, W], 1 / depth, 1 / metres; its steps are 1 / (65536 NEAR).
      colour: uint8[H, W, 3], with light and textures.
      observation: uint8[H, W, 3], as an agent gets it: several samples a pixel.
    """

    label: np.ndarray
    w: np.ndarray
    colour: np.ndarray
    observation: np.ndarray


@cache
def _one_sample(env) -> FrameBuffer:
    env.shadow_window.switch_to()
    with mock.patch.object(gl.gl_info, "have_extension", lambda name: False):  # with it, Mesa takes four
        return FrameBuffer(SIZE[1], SIZE[0], 1)


def look(env) -> Seen:
    """Everything about the present picture."""
    env._render_static()
    observation = env.render_obs()
    buffer = _one_sample(env)
    colour = env.render_obs(buffer).copy()
    depth = buffer.get_depth_map(NEAR, FAR)[..., 0]
    return Seen(label=_labels(env, buffer), w=1.0 / depth, colour=colour, observation=observation.copy())


def _labels(env, buffer) -> np.ndarray:
    """Every surface again, each in a fog of its own colour that hides everything else about it."""
    gl.glCallList(1)  # the light, the camera and all else stay as they are in the last picture
    buffer.bind()
    gl.glClearColor(0, 0, 0, 1)
    gl.glClear(gl.GL_COLOR_BUFFER_BIT | gl.GL_DEPTH_BUFFER_BIT)
    gl.glEnable(gl.GL_FOG)
    gl.glFogi(gl.GL_FOG_MODE, gl.GL_EXP)
    gl.glFogf(gl.GL_FOG_DENSITY, 1e9)

    def dye(number: int) -> None:
        colour = ((number & 255) / 255, (number >> 8) / 255, 0.0, 1.0)
        gl.glFogfv(gl.GL_FOG_COLOR, (gl.GLfloat * 4)(*colour))

    def polygon(corners) -> None:
        gl.glBegin(gl.GL_POLYGON)
        for corner in corners:
            gl.glVertex3f(*corner)
        gl.glEnd()

    number = 0
    for room in env.rooms:
        dye(1)
        polygon(room.floor_verts)
        if not room.no_ceiling:
            dye(2)
            polygon(room.ceil_verts)
        for quad in range(len(room.wall_verts) // 4):
            dye(3 + number)
            polygon(room.wall_verts[4 * quad : 4 * quad + 4])
            number += 1
    for place, entity in enumerate(entities_of(env)):
        dye(0x8000 + place)
        entity.render()
    gl.glDisable(gl.GL_FOG)
    gl.glEnable(gl.GL_TEXTURE_2D)
    picture = buffer.resolve().astype(np.int64)
    label = picture[..., 0] + 256 * picture[..., 1]
    return np.where(label >= 0x8000, -1 - (label - 0x8000), label)


def may_stand(env, position: np.ndarray) -> bool:
    """Whether the agent fits there."""
    inside = any(room.point_inside(position) for room in env.rooms)
    return inside and not env.intersect(env.agent, position, env.agent.radius)


def surroundings(env, seed: int, count: int) -> list[tuple[np.ndarray, float]]:
    """Poses where the agent may stand, (position, yaw), anywhere in the rooms."""
    random = np.random.default_rng(seed)
    poses = []
    while len(poses) < count:
        room = env.rooms[random.integers(len(env.rooms))]
        at = np.array([random.uniform(room.min_x, room.max_x), 0.0, random.uniform(room.min_z, room.max_z)])
        if may_stand(env, at):
            poses.append((at, random.uniform(-math.pi, math.pi)))
    return poses


def face(env, thing, yaw: float, distance: float) -> None:
    """Puts the agent before a thing, which it looks at."""
    towards = np.array([math.cos(yaw), 0.0, -math.sin(yaw)])
    env.agent.pos, env.agent.dir = np.array(thing.pos) * [1, 0, 1] - distance * towards, yaw


class Stage(miniworld.miniworld.MiniWorldEnv):
    """One thing in the middle of a large room without a ceiling, to be looked at from all sides."""

    def __init__(self, make):
        self.make = make
        super().__init__(obs_width=SIZE[1], obs_height=SIZE[0])

    def _gen_world(self) -> None:
        self.add_rect_room(min_x=-60, max_x=60, min_z=-60, max_z=60, no_ceiling=True)
        self.place_entity(self.make(), pos=np.zeros(3), dir=0.0)
        self.place_agent(pos=np.zeros(3), dir=0.0)
