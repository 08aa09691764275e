"""What a first-person picture is made of: walls, patches, boxes, a light and a camera, as fixed-size arrays.

* The number of rows is static, `exists` says which are used, so scenes of one shape can be `jax.vmap`ped.
* Axes are right-handed with y up. Yaw 0 looks along +x and a quarter turn left (yaw = pi/2) along -z: seen
  from above with x to the right, z points down the page. Lengths are metres, angles radians.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float, Int


@struct.dataclass
class Walls:
    """N vertical rectangles, seen from one side only.

    Attributes:
      start, end: float32[N, 2], the lower edge's ends as (x, z), metres. The wall is visible from the left of
        start -> end seen from above. Worked example: start (4, 4), end (4, 0) is the wall x = 4 seen from
        x < 4, the east wall of the room 0 <= x, z <= 4.
      low, high: float32[N], height range. A lintel above a doorway has low > 0.
      offset: float32[N], metres by which the texture is shifted along the wall, so that the pieces of one
        wall on both sides of a doorway continue each other.
      texture: int32[N], row of the atlas.
      exists: bool[N], false for unused rows.
        Worked example: three rows, exists = [1, 0, 1] draws the first and the last.
    """

    start: Float[Array, "n 2"]
    end: Float[Array, "n 2"]
    low: Float[Array, " n"]
    high: Float[Array, " n"]
    offset: Float[Array, " n"]
    texture: Int[Array, " n"]
    exists: Bool[Array, " n"]


@struct.dataclass
class Patches:
    """N horizontal rectangles: a street beside the pavement, the low ceiling of a doorway.

    Attributes:
      low, high: float32[N, 2], opposite corners as (x, z), low < high in both.
      height: float32[N], metres.
      faces_up: bool[N], seen from above (a floor) or from below (a ceiling).
      texture: int32[N], row of the atlas.
      exists: bool[N], false for unused rows.
    """

    low: Float[Array, "n 2"]
    high: Float[Array, "n 2"]
    height: Float[Array, " n"]
    faces_up: Bool[Array, " n"]
    texture: Int[Array, " n"]
    exists: Bool[Array, " n"]


@struct.dataclass
class Boxes:
    """N boxes turned about the vertical axis.

    Attributes:
      centre: float32[N, 3], metres.
      size: float32[N, 3], full extents along the box's own axes.
      yaw: float32[N], radians; the box's own x axis points along (cos yaw, 0, -sin yaw).
      colour: float32[N, 3] in 0..1, multiplies the texture.
      texture: int32[N], row of the atlas, stretched over each face.
      exists: bool[N], false for unused rows.
    """

    centre: Float[Array, "n 3"]
    size: Float[Array, "n 3"]
    yaw: Float[Array, " n"]
    colour: Float[Array, "n 3"]
    texture: Int[Array, " n"]
    exists: Bool[Array, " n"]


@struct.dataclass
class Light:
    """One directional light, and light from everywhere.

    Attributes:
      direction: float32[3], unit vector towards the light.
      diffuse, ambient: float32[3], red, green, blue in 0..1.
    """

    direction: Float[Array, "3"]
    diffuse: Float[Array, "3"]
    ambient: Float[Array, "3"]


@struct.dataclass
class Scene:
    """All that can be seen.

    Attributes:
      walls, patches, boxes: see there; zero rows are allowed.
      floor_texture: int32[], of the plane y = 0, -1 = no floor. A patch at height 0 lies on top of it.
      ceiling_texture: int32[], of the plane y = ceiling_height, -1 = no ceiling: the sky is seen.
      ceiling_height: float32[], metres.
      sky: float32[3], the colour where nothing is hit, in 0..1.
      light: see there.
    """

    walls: Walls
    patches: Patches
    boxes: Boxes
    floor_texture: Int[Array, ""]
    ceiling_texture: Int[Array, ""]
    ceiling_height: Float[Array, ""]
    sky: Float[Array, "3"]
    light: Light


@struct.dataclass
class Camera:
    """A pinhole camera with square pixels: the aspect ratio follows from the picture's shape.

    Attributes:
      position: float32[3], metres.
      yaw: float32[], radians, to the left.
      pitch: float32[], radians, upwards.
      fov_y: float32[], vertical field of view, radians.
    """

    position: Float[Array, "3"]
    yaw: Float[Array, ""]
    pitch: Float[Array, ""]
    fov_y: Float[Array, ""]


def no_walls() -> Walls:
    """Walls of zero rows."""
    corners, numbers = jnp.zeros((0, 2), jnp.float32), jnp.zeros(0, jnp.float32)
    return Walls(
        start=corners,
        end=corners,
        low=numbers,
        high=numbers,
        offset=numbers,
        texture=jnp.zeros(0, jnp.int32),
        exists=jnp.zeros(0, bool),
    )


def no_patches() -> Patches:
    """Patches of zero rows."""
    corners = jnp.zeros((0, 2), jnp.float32)
    return Patches(
        low=corners,
        high=corners,
        height=jnp.zeros(0, jnp.float32),
        faces_up=jnp.zeros(0, bool),
        texture=jnp.zeros(0, jnp.int32),
        exists=jnp.zeros(0, bool),
    )


def no_boxes() -> Boxes:
    """Boxes of zero rows."""
    vectors = jnp.zeros((0, 3), jnp.float32)
    return Boxes(
        centre=vectors,
        size=vectors,
        yaw=jnp.zeros(0, jnp.float32),
        colour=vectors,
        texture=jnp.zeros(0, jnp.int32),
        exists=jnp.zeros(0, bool),
    )


def miniworld_light() -> Light:
    """The light of MiniWorld's default parameters: white, directional, from (1, 3.5, 1)."""
    direction = np.array([1.0, 3.5, 1.0])
    return Light(
        direction=jnp.asarray(direction / np.linalg.norm(direction), jnp.float32),
        diffuse=jnp.full(3, 0.7, jnp.float32),
        ambient=jnp.full(3, 0.45, jnp.float32),
    )
