"""What the agent sees: its camera, a scene put together from a task's plan and things, and which things are seen.

All that a task looks like is decided here; nothing else of this package knows how a thing is drawn.
"""

from __future__ import annotations

import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from envs_jax.miniworld.dynamics import Agent, direction
from envs_jax.miniworld.entities import HALF_EXTENTS, COLOURS, KINDS, Entities
from envs_jax.miniworld.layout import WALL_HEIGHT, FixedPlan
from envs_jax.miniworld.maze import MazePlan
from envs_jax.miniworld.randomise import PARAMETERS, Look
from envs_jax.render.raycast import BOX, Hit
from envs_jax.render.scene import Boxes, Camera, Light, Patches, Scene, Walls, miniworld_light, no_patches

IMAGE_SHAPE = (60, 80, 3)
CAMERA_HEIGHT = PARAMETERS["cam_height"][0]  # metres
FIELD_OF_VIEW = math.radians(PARAMETERS["cam_fov_y"][0])  # vertical
SKY = PARAMETERS["sky_color"][0]


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


def scene(plan: FixedPlan | MazePlan, walls: Walls, things: Entities, look: Look | None = None) -> Scene:
    """Rooms and things as the renderer takes them; texture ids are places in `plan.materials`."""
    first = plan if isinstance(plan, MazePlan) else plan.rooms[0]
    ceiling = -1 if first.ceiling is None else plan.materials.index(first.ceiling)
    return Scene(
        walls=walls,
        patches=no_patches() if isinstance(plan, MazePlan) else patches(plan),
        boxes=boxes(things, None if look is None else look.colour_bias),
        floor_texture=jnp.int32(plan.materials.index(first.floor)),
        ceiling_texture=jnp.int32(ceiling),
        ceiling_height=jnp.float32(WALL_HEIGHT),
        sky=jnp.array(SKY, jnp.float32) if look is None else look.sky,
        light=miniworld_light() if look is None else light(look),
    )


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


def boxes(things: Entities, bias: Float[Array, "n 3"] | None = None) -> Boxes:
    """Every thing as the box around it; the bias of their colours is for boxes alone, as upstream."""
    extents = np.array([(2 * x, 1.0, 2 * z) for x, z in HALF_EXTENTS.values()], np.float32)
    size = jnp.asarray(extents)[things.kind] * things.size[:, None]
    colour = jnp.array(list(COLOURS.values()), jnp.float32)[things.colour]
    if bias is not None:
        is_box = (things.kind == KINDS.index("box"))[:, None]
        colour = jnp.clip(colour + jnp.where(is_box, bias, 0.0), 0.0, 1.0)
    return Boxes(
        centre=things.position + size * jnp.array([0.0, 0.5, 0.0], jnp.float32),
        size=size,
        yaw=things.yaw,
        colour=colour,
        texture=jnp.zeros_like(things.colour),
        exists=things.exists,
    )


def shares(hit: Hit, count: int) -> Float[Array, " n"]:
    """Share of the picture that each of `count` things covers, hidden parts left out: float32[count] in 0..1."""
    rows: Int[Array, " n"] = jnp.arange(count, dtype=jnp.int32)
    covered = (hit.kind == BOX)[..., None] & (hit.index[..., None] == rows)
    return jnp.mean(covered.astype(jnp.float32), axis=(0, 1))
