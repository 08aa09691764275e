"""The original MiniWorld's rooms, things and poses as our states, for whatever is compared with it."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from envs_jax.miniworld import randomise, variants
from envs_jax.miniworld.dynamics import Agent
from envs_jax.miniworld.entities import COLOUR_NAMES, COLOURS, KINDS, Entities
from envs_jax.miniworld.maze import MazePlan
from envs_jax.miniworld.sign import Errand
from envs_jax.miniworld.world import State


def passages_of(plan, env):
    """bool[P]: which of a maze's passages the original has."""
    middles = [np.mean(room.outline[:, [0, 2]], axis=0) for room in env.rooms[plan.count :]]
    ours = (plan.passages[0] + plan.passages[1]) / 2
    return np.array([min(math.dist(middle, m) for m in middles) < 1e-6 for middle in ours])


def walls_of(env):
    """The original's quads, float64[N, 7]: start and end (x, z), low, high, metres along the edge of the start."""
    quads = []
    for room in env.rooms:
        corners = np.array(room.wall_verts).reshape(-1, 4, 3)
        along = np.array(room.wall_texcs).reshape(-1, 4, 2)[:, 0, 0] * room.wall_tex.width / 512
        quads += [
            (*q[0, [0, 2]], *q[3, [0, 2]], q[0, 1], q[1, 1], metres)
            for q, metres in zip(corners, along, strict=True)
        ]
    return np.array(quads)


def rows_of(walls):
    """Ours in the same columns."""
    numbers = (walls.start, walls.end, walls.low[:, None], walls.high[:, None], walls.offset[:, None])
    return np.concatenate([np.asarray(part) for part in numbers], axis=1)


def entities_of(original, things, present):
    """Our rows of the original's things, NumPy; those not in `present` do not exist."""
    colours = [original.colour(e) or COLOUR_NAMES[0] for e in things]
    return Entities(
        position=np.array([e.pos for e in things], np.float32).reshape(-1, 3),
        yaw=np.array([e.dir for e in things], np.float32),
        kind=np.array([KINDS.index(original.kind(e)) for e in things], np.int32),
        size=np.array([e.height for e in things], np.float32),
        colour=np.array([COLOUR_NAMES.index(c) for c in colours], np.int32),
        exists=np.array([any(e is p for p in present) for e in things]),
    )


def bias_of(entity):
    """What domain randomisation added to a box's colour, float64[3]; 0 for all else."""
    return entity.color_vec - COLOURS[entity.color] if hasattr(entity, "color_vec") else np.zeros(3)


def papers_of(env):
    """int32[R], which file of its wall's texture each room has, 0 the first: "concrete_3.png" is 2."""
    files = {id(texture): Path(path).stem for path, texture in env.rooms[0].wall_tex.tex_cache.items()}
    return np.int32([int(files[id(room.wall_tex)].rsplit("_", 1)[1]) - 1 for room in env.rooms])


def state_of(original, name, world, env, things):
    """The original's state as ours, leaves NumPy."""
    carried = [i for i, e in enumerate(things) if e is env.agent.carrying]
    memory = None
    if name == "collect_health":
        memory = np.int32(env.health)
    elif name == "room_objects":
        memory = np.int32(0)
    elif name == "sign":
        memory = Errand(np.int32(env._color_index), np.int32(env._goal))
    maze = isinstance(world.task.plan, MazePlan)
    look = randomise.Look(
        sky=np.float32(env.sky_color),
        light_from=np.float32(env.light_pos),
        light=np.float32(env.light_color),
        ambient=np.float32(env.light_ambient),
        colour_bias=np.float32([bias_of(e) for e in things]).reshape(-1, 3),
        pitch=np.float32(math.radians(env.agent.cam_pitch)),
        fov_y=np.float32(math.radians(env.agent.cam_fov_y)),
        height=np.float32(env.agent.cam_height),
        ahead=np.float32(env.agent.cam_fwd_disp),
        papers=papers_of(env) if variants.most(world.task.plan) > 1 else None,
    )
    return State(
        key=np.zeros(2, np.uint32),
        steps=np.int32(env.step_count),
        agent=Agent(np.float32(env.agent.pos), np.float32(math.remainder(env.agent.dir, 2 * math.pi))),
        things=entities_of(original, things, env.entities),
        carried=np.int32(carried[0] if carried else -1),
        passages=passages_of(world.task.plan, env) if maze else None,
        look=look,
        memory=memory,
    )
