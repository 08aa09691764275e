"""Things that stand in a room or are carried: boxes, balls, keys and the like, as rows of arrays.

* The position is that of the base's centre, as in MiniWorld: y = 0 on the floor, more when carried.
* For collisions a thing is a circle around its footprint, whatever its yaw (miniworld/entity.py). What is not a
  box is one shape scaled to its height, so its radius is a fixed share of the height.
"""

from __future__ import annotations

import math

import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float, Int

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

# Half extents in x and z over the height, of MiniWorld's shapes (miniworld/meshes, re-centred as objmesh.py does).
_HALF_EXTENTS = {
    "box": (0.5, 0.5),
    "ball": (1.284565 / 2.564372, 1.285002 / 2.564372),
    "key": (0.401406 / 2.0, 2.4187405 / 2.0),
    "med_kit": (28.1319 / 51.0648, 15.62425 / 51.0648),
    "duckie": (0.8303055 / 1.518421, 0.58813 / 1.518421),
    "cone": (10.0 / 31.5229, 10.0 / 31.5229),
    "building": (1.84 / 3.45, 1.22 / 3.45),
}
KINDS = tuple(_HALF_EXTENTS)  # a kind id is the place in this list
RADIUS_OF_HEIGHT = {kind: math.hypot(*extents) for kind, extents in _HALF_EXTENTS.items()}
STATIC_KINDS = ("cone", "building")  # can not be picked up
_RADII = np.array(list(RADIUS_OF_HEIGHT.values()), np.float32)
_MOVABLE = np.array([kind not in STATIC_KINDS for kind in KINDS])


@struct.dataclass
class Entities:
    """N things that stand on the floor or are carried, in MiniWorld's order.

    Attributes:
      position: float32[N, 3], metres, centre of the base.
      yaw: float32[N], radians.
      kind: int32[N], place in KINDS.
      size: float32[N], metres, the height. A box is a cube.
      colour: int32[N], place in COLOUR_NAMES; of boxes, balls and keys, the other kinds have colours of their own.
      exists: bool[N]; what does not exist is not drawn and collides with nothing.
    """

    position: Float[Array, "n 3"]
    yaw: Float[Array, " n"]
    kind: Int[Array, " n"]
    size: Float[Array, " n"]
    colour: Int[Array, " n"]
    exists: Bool[Array, " n"]


def boxes(colours: tuple[str, ...], size: float = BOX_SIZE) -> Entities:
    """Cubes of the given colours, not placed yet: at the origin and not existing."""
    count = len(colours)
    return Entities(
        position=jnp.zeros((count, 3), jnp.float32),
        yaw=jnp.zeros(count, jnp.float32),
        kind=jnp.full(count, KINDS.index("box"), jnp.int32),
        size=jnp.full(count, size, jnp.float32),
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


def radii(entities: Entities) -> Float[Array, " n"]:
    """Radius of the circle around each footprint, metres."""
    return jnp.asarray(_RADII)[entities.kind] * entities.size


def movable(entities: Entities) -> Bool[Array, " n"]:
    """Which can be picked up."""
    return jnp.asarray(_MOVABLE)[entities.kind]
