"""What the agent sees: its camera, a scene put together from a task's plan and things, and which things are seen.

All that a task looks like is decided here; nothing else of this package knows how a thing is drawn.
"""

from __future__ import annotations

import math
from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from envs_jax.miniworld.dynamics import Agent, direction
from envs_jax.miniworld.entities import COLOURS, KINDS, Entities
from envs_jax.miniworld.layout import WALL_HEIGHT, FixedPlan
from envs_jax.miniworld.maze import MazePlan
from envs_jax.miniworld.randomise import PARAMETERS, Look
from envs_jax.miniworld.task import Task
from envs_jax.render import shapes
from envs_jax.render.raycast import Hit
from envs_jax.render.scene import Camera, Light, Patches, Scene, Walls, alike, miniworld_light, no_patches

IMAGE_SHAPE = (60, 80, 3)
CAMERA_HEIGHT = PARAMETERS["cam_height"][0]  # metres
FIELD_OF_VIEW = math.radians(PARAMETERS["cam_fov_y"][0])  # vertical
SKY = PARAMETERS["sky_color"][0]

_TINTED = {"ball": shapes.ball, "key": shapes.key}
_PLAIN = {"med_kit": shapes.med_kit, "duckie": shapes.duckie, "cone": shapes.cone}
_BUILDING, _PICTURE = ("blocks_of_flats", "windows"), "picture"  # materials


def camera(agent: Agent, look: Look | None = None) -> Camera:
    """The camera at the agent's position, level unless its look says otherwise."""
    if look is None:
        return Camera(
            position=agent.position + jnp.array([0.0, CAMERA_HEIGHT, 0.0], jnp.float32),
            yaw=agent.yaw,
            pitch=jnp.float32(0.0),
            fov_y=jnp.float32(FIELD_OF_VIEW),
        )
    up = look.height * jnp.array([0.0, 1.0, 0.0], jnp.float32)
    return Camera(
        position=agent.position + look.ahead * direction(agent.yaw) + up,
        yaw=agent.yaw,
        pitch=look.pitch,
        fov_y=look.fov_y,
    )


def materials(task: Task) -> tuple[str, ...]:
    """All that a task is made of, its rooms' materials first; a texture id is the place in this list."""
    names = list(task.plan.materials)
    if any(kind == "building" for thing in task.things for kind, _, _ in thing.kinds):
        names += _BUILDING
    for picture in task.pictures:
        names += [f"glyph_{letter}" for text in picture.text for letter in text] or [_PICTURE]
    return tuple(dict.fromkeys(names))


def scene(
    task: Task,
    walls: Walls,
    things: Entities,
    look: Look | None = None,
    written: Int[Array, ""] | int = 0,
) -> Scene:
    """Rooms and things as the renderer takes them; texture ids are places in `materials`.

    Args:
      task, walls, things, look: of an episode.
      written: which of its texts a sign shows.
    """
    plan = task.plan
    first = plan if isinstance(plan, MazePlan) else plan.rooms[0]
    ceiling = -1 if first.ceiling is None else plan.materials.index(first.ceiling)
    groups = [made for _, made in _groups(task, things, look)] + _pictures(task, written)
    made = shapes.join(*groups)
    return Scene(
        walls=walls.replace(alike=_alike(plan)),
        patches=no_patches() if isinstance(plan, MazePlan) else patches(plan),
        boxes=made.boxes,
        balls=made.balls,
        cones=made.cones,
        panels=made.panels,
        floor_texture=jnp.int32(plan.materials.index(first.floor)),
        ceiling_texture=jnp.int32(ceiling),
        ceiling_height=jnp.float32(WALL_HEIGHT),
        sky=jnp.array(SKY, jnp.float32) if look is None else look.sky,
        light=miniworld_light() if look is None else light(look),
    )


@lru_cache(maxsize=64)
def _alike(plan: FixedPlan | MazePlan) -> tuple[int, ...]:
    """Which walls have the same heights, known beforehand."""
    if isinstance(plan, MazePlan):
        count = 4 * plan.count
        return alike(np.zeros(count), np.full(count, WALL_HEIGHT), CAMERA_HEIGHT)
    return alike(plan.walls_array.low, plan.walls_array.high, CAMERA_HEIGHT)


def light(look: Look) -> Light:
    """MiniWorld adds 1 to each coordinate of its light's place and then takes it for a direction."""
    towards = look.light_from + 1.0
    length = jnp.sqrt(jnp.sum(towards**2))
    return Light(direction=towards / length, diffuse=look.light, ambient=look.ambient)


def patches(plan: FixedPlan) -> Patches:
    """Floors unlike the first room's, and the low ceilings of passages."""
    rows = []  # (low, high, height, faces up, texture)
    for room in plan.all_rooms:
        low, high = room.bounds
        if room.floor != plan.rooms[0].floor:
            rows.append((low, high, 0.0, True, plan.materials.index(room.floor)))
        if room.ceiling is not None and room.height < WALL_HEIGHT:
            rows.append((low, high, room.height, False, plan.materials.index(room.ceiling)))
    if not rows:
        return no_patches()
    low, high, height, faces_up, texture = zip(*rows, strict=True)
    return Patches(
        low=jnp.asarray(np.array(low), jnp.float32),
        high=jnp.asarray(np.array(high), jnp.float32),
        height=jnp.array(height, jnp.float32),
        faces_up=jnp.array(faces_up),
        texture=jnp.array(texture, jnp.int32),
        exists=jnp.ones(len(rows), bool),
    )


def _groups(task: Task, things: Entities, look: Look | None) -> list[tuple[list[int], shapes.Shapes]]:
    """Everything drawn, kind by kind: (rows of the things, their primitives). A row that may be of several kinds
    is in the groups of all of them and exists in one."""
    colour = jnp.array(list(COLOURS.values()), jnp.float32)[things.colour]
    groups = []
    for number, kind in enumerate(KINDS):
        rows = [r for r, thing in enumerate(task.things) if any(kind == k for k, _, _ in thing.kinds)]
        if not rows:
            continue
        mine = jax.tree.map(lambda leaf, rows=rows: leaf[np.array(rows)], things)
        tint = colour[np.array(rows)]
        exists = mine.exists & (mine.kind == number)
        if kind == "box":
            if look is not None:  # upstream biases the colours of boxes alone
                tint = jnp.clip(tint + look.colour_bias[np.array(rows)], 0.0, 1.0)
            sizes = jnp.repeat(mine.size[:, None], 3, axis=1)
            made = jax.vmap(shapes.box)(mine.position, mine.yaw, sizes, tint, exists)
        elif kind in _TINTED:
            made = jax.vmap(_TINTED[kind])(mine.position, mine.yaw, mine.size, tint, exists)
        elif kind == "building":
            ids = [materials(task).index(name) for name in _BUILDING]
            build = lambda *given, ids=ids: shapes.building(*given, wall=ids[0], windows=ids[1])  # noqa: E731
            made = jax.vmap(build)(mine.position, mine.yaw, mine.size, exists)
        else:
            made = jax.vmap(_PLAIN[kind])(mine.position, mine.yaw, mine.size, exists)
        groups.append((rows, made))
    return groups


def _pictures(task: Task, written: Int[Array, ""] | int) -> list[shapes.Shapes]:
    """What hangs on the walls; of a sign all texts, of which one exists."""
    names, made = materials(task), []
    for picture in task.pictures:
        position, yaw = jnp.array(picture.position, jnp.float32), jnp.float32(picture.yaw)
        if not picture.text:
            size = jnp.float32(picture.width), jnp.float32(picture.height)
            made.append(shapes.picture_frame(position, yaw, *size, names.index(_PICTURE), True))
        for number, text in enumerate(picture.text):
            glyphs = jnp.array([names.index(f"glyph_{letter}") for letter in text], jnp.int32)
            shown = jnp.asarray(written == number)
            made.append(shapes.text_sign(position, yaw, jnp.float32(picture.height), glyphs, shown))
    return made


def shares(hit: Hit, task: Task, things: Entities, written: Int[Array, ""] | int = 0) -> Float[Array, " n"]:
    """Share of the picture that each thing covers, hidden parts left out: float32[N] in 0..1.

    Args:
      hit: traced in the `scene` of the same.
      task, things, written: as there.
    """
    groups = _groups(task, things, None)
    seen = shapes.shares(hit, *(made for _, made in groups), *_pictures(task, written))
    total, at = jnp.zeros(len(task.things), jnp.float32), 0
    for rows, _ in groups:
        total = total.at[np.array(rows)].add(seen[at : at + len(rows)])
        at += len(rows)
    return total
