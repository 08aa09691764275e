"""Variants of wall textures, drawn under domain randomisation: one a room, passages included, as in MiniWorld.

* MiniWorld keeps several files of some textures, name_1.png, name_2.png and so on, and takes the first unless
  randomised (miniworld/opengl.py, Texture.get). Of those that its tasks show only `concrete` has more than one: it
  has four. It is on the walls of OneRoom, Hallway, TMaze, YMaze, FourRooms, ThreeRooms, PutNext and Sign, and
  beside Sidewalk's street. Floors, ceilings and all other walls never differ.
* The pictures are this project's own, near the mean colours, contrast and tile sizes of those files.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, PRNGKeyArray

from envs_jax.miniworld.layout import FixedPlan
from envs_jax.miniworld.maze import MazePlan
from envs_jax.render.materials import MATERIALS, Material, cloud, hashed
from envs_jax.render.scene import Walls
from envs_jax.render.texture import Atlas, pack_atlas

VARIANTS = {"concrete": ("concrete", "concrete_2", "concrete_3", "concrete_4")}
_SIDE = 128  # texels of a texture, as `build_atlas`


def _grey(shade: np.ndarray) -> np.ndarray:
    return np.repeat(np.clip(shade, 0, 255)[..., None], 3, axis=-1)


def _grained(side: int) -> np.ndarray:
    """Darker, with a fine grain."""
    texel = np.arange(side)
    grain = hashed(texel[None, :], texel[:, None], 127) - 0.5
    return _grey(133 * (1 + 0.06 * grain + 0.02 * cloud(side, 24, 24, 131)))


def _stained(side: int) -> np.ndarray:
    """Lighter, poured in layers: rows of flat stains and a few blowholes."""
    v = (np.arange(side) + 0.5)[:, None] / side
    layer = 0.5 - 0.5 * np.cos(2 * np.pi * 4 * v)
    stains = np.clip(cloud(side, 16, 6, 137), 0, None) * layer
    holes = cloud(side, 24, 24, 139, 2) > 3.1
    shade = 1.02 - 0.035 * stains + 0.01 * cloud(side, 12, 12, 149)
    return _grey(176 * shade * np.where(holes, 0.86, 1.0))


def _smooth(side: int) -> np.ndarray:
    """Darker, hardly any grain."""
    return _grey(133 * (1 + 0.012 * cloud(side, 6, 6, 151)))


_MORE = {
    "concrete_2": Material(_grained, 1.0),
    "concrete_3": Material(_stained, 1.5),
    "concrete_4": Material(_smooth, 1.0),
}


def most(plan: FixedPlan | MazePlan) -> int:
    """The greatest number of variants that a wall of these rooms may have; 1: none differs."""
    return max((len(VARIANTS.get(name, (name,))) for name in plan.materials), default=1)


def materials(names: tuple[str, ...]) -> tuple[str, ...]:
    """`names` and behind them the further variants of those that have any; a texture id is the place in them."""
    return (*names, *(variant for name in names for variant in VARIANTS.get(name, (name,))[1:]))


@lru_cache(maxsize=8)
def build_atlas(names: tuple[str, ...]) -> Atlas:
    """As `envs_jax.render.texture.build_atlas`, of materials that may be variants."""
    known = {**MATERIALS, **_MORE}
    return pack_atlas([(name, known[name].paint(_SIDE), known[name].metres) for name in names])


def draw(key: PRNGKeyArray, among: Any, plan: FixedPlan) -> Int[Array, " r"]:
    """int32[R], a number for each room and passage, uniform from `among` = (low, high), both included; 0 where the
    texture has no variants."""
    low, high = among
    drawn = jax.random.randint(key, (len(plan.all_rooms),), int(low), int(high) + 1, jnp.int32)
    return jnp.where(np.array([room.wall in VARIANTS for room in plan.all_rooms]), drawn, 0)


def papered(walls: Walls, plan: FixedPlan, drawn: Int[Array, " r"], names: tuple[str, ...]) -> Walls:
    """The walls of these rooms with the drawn variant of each room's texture.

    Worked example, names ("plain", "concrete", "concrete_2"), two rooms with drawn = [1, 0]: the textures 1 of the
    first room's walls become 2, those of the second stay 1.

    Args:
      walls: all of the plan's, in its order.
      plan, drawn: the rooms and what `draw` gave.
      names: as `materials` gave.
    """
    table = np.zeros((len(plan.materials), most(plan)), np.int32)
    for row, name in enumerate(plan.materials):
        found = [names.index(variant) for variant in VARIANTS.get(name, (name,))]
        table[row, : len(found)] = found
    return walls.replace(texture=jnp.asarray(table)[walls.texture, drawn[plan.wall_rooms]])
