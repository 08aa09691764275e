"""Things that stand in a room: coloured boxes, as rows of arrays.

* The position is that of the base's centre, as in MiniWorld: y = 0 on the floor, more when carried.
* For collisions a thing is a circle around its footprint, whatever its yaw (miniworld/entity.py).
"""

from __future__ import annotations

import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from envs_jax.render.scene import Boxes

# Red, green, blue; the order of MiniWorld's COLOR_NAMES, which tasks draw from.
COLOURS = {
    "blue": (0.0, 0.0, 1.0),
    "green": (0.0, 1.0, 0.0),
    "grey": (0.39, 0.39, 0.39),
    "purple": (0.44, 0.15, 0.76),
    "red": (1.0, 0.0, 0.0),
    "yellow": (1.0, 1.0, 0.0),
}
COLOUR_NAMES = tuple(COLOURS)  # a colour id is the place in this list
BOX_SIZE = 0.8  # metres a side, if a task says nothing else


@struct.dataclass
class Entities:
    """N boxes that stand on the floor or are carried.

    Attributes:
      position: float32[N, 3], metres, centre of the base.
      yaw: float32[N], radians.
      size: float32[N, 3], metres, along the box's own axes.
      colour: int32[N], place in COLOUR_NAMES.
      exists: bool[N]; what does not exist is not drawn and collides with nothing.
    """

    position: Float[Array, "n 3"]
    yaw: Float[Array, " n"]
    size: Float[Array, "n 3"]
    colour: Int[Array, " n"]
    exists: Bool[Array, " n"]


def boxes(colours: tuple[str, ...], size: float = BOX_SIZE) -> Entities:
    """Cubes of the given colours, not placed yet: at the origin and not existing."""
    count = len(colours)
    return Entities(
        position=jnp.zeros((count, 3), jnp.float32),
        yaw=jnp.zeros(count, jnp.float32),
        size=jnp.full((count, 3), size, jnp.float32),
        colour=jnp.array([COLOUR_NAMES.index(colour) for colour in colours], jnp.int32),
        exists=jnp.zeros(count, bool),
    )


def put(entities: Entities, row: int, position: Float[Array, "3"], yaw: Float[Array, ""]) -> Entities:
    """Entity `row` now exists, there."""
    return entities.replace(
        position=entities.position.at[row].set(position),
        yaw=entities.yaw.at[row].set(yaw),
        exists=entities.exists.at[row].set(True),
    )


def radii(size: Float[Array, "*n 3"]) -> Float[Array, "*n"]:
    """Radius of the circle around a footprint, metres."""
    return jnp.sqrt(size[..., 0] ** 2 + size[..., 2] ** 2) / 2


def as_boxes(entities: Entities, texture: int = 0) -> Boxes:
    """What the renderer draws."""
    up = jnp.array([0.0, 0.5, 0.0], jnp.float32)
    return Boxes(
        centre=entities.position + entities.size * up,
        size=entities.size,
        yaw=entities.yaw,
        colour=jnp.array(list(COLOURS.values()), jnp.float32)[entities.colour],
        texture=jnp.full_like(entities.colour, texture),
        exists=entities.exists,
    )
