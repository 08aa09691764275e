"""What a first-person picture is made of: surfaces, a light and a camera, as fixed-size arrays.

* The number of rows is static, `exists` says which are used, so scenes of one shape can be `jax.vmap`ped.
* Axes are right-handed with y up. Yaw 0 looks along +x and a quarter turn left (yaw = pi/2) along -z: seen
  from above with x to the right, z points down the page. Lengths are metres, angles radians.
* Things are composed of these primitives, see `envs_jax.render.shapes`. A kind with zero rows costs nothing.
* `gain` multiplies the directional light that a surface gets. MiniWorld shrinks its meshes without making their
  normals unit vectors again, so that a mesh drawn at scale k is lit 1 / k times as strongly; 1 is a plain surface.
* Light can be stronger than white. `painted` surfaces get at most white light, of which their colour then takes
  its share: what OpenGL does with a texture. Elsewhere only what a pixel can show limits the light.
"""

from __future__ import annotations

from typing import Any

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
      alike: static, the group of every wall, or () if nothing is known: walls of one group (a number >= 0) have
        the same `low` and the same `high`, with the eye between the two; -1 = in no group. A level camera then
        looks for the nearest of a group once a column of pixels instead of once a pixel. See `alike`.
    """

    start: Float[Array, "n 2"]
    end: Float[Array, "n 2"]
    low: Float[Array, " n"]
    high: Float[Array, " n"]
    offset: Float[Array, " n"]
    texture: Int[Array, " n"]
    exists: Bool[Array, " n"]
    alike: tuple[int, ...] = struct.field(pytree_node=False, default=())


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
      gain: float32[N], see the module; None = 1.
      painted: bool[N], see the module; None = not.
    """

    centre: Float[Array, "n 3"]
    size: Float[Array, "n 3"]
    yaw: Float[Array, " n"]
    colour: Float[Array, "n 3"]
    texture: Int[Array, " n"]
    exists: Bool[Array, " n"]
    gain: Float[Array, " n"] | None = None
    painted: Bool[Array, " n"] | None = None


@struct.dataclass
class Balls:
    """N ellipsoids turned about the vertical axis.

    Attributes:
      centre: float32[N, 3], metres.
      radii: float32[N, 3], metres along the ellipsoid's own axes, > 0.
      yaw: float32[N], radians, as for boxes.
      colour: float32[N, 3] in 0..1.
      gain: float32[N], see the module.
      painted: bool[N], see the module.
      exists: bool[N], false for unused rows.
    """

    centre: Float[Array, "n 3"]
    radii: Float[Array, "n 3"]
    yaw: Float[Array, " n"]
    colour: Float[Array, "n 3"]
    gain: Float[Array, " n"]
    painted: Bool[Array, " n"]
    exists: Bool[Array, " n"]


@struct.dataclass
class Cones:
    """N upright truncated cones without lids, seen from outside only.

    A lid is one more cone, almost flat, that ends in a radius of 0.

    Attributes:
      base: float32[N, 3], centre of the lower circle, metres.
      low_radius, high_radius: float32[N], metres, >= 0.
      height: float32[N], metres between the circles, > 0.
      colour: float32[N, 3] in 0..1.
      gain: float32[N], see the module.
      painted: bool[N], see the module.
      exists: bool[N], false for unused rows.
    """

    base: Float[Array, "n 3"]
    low_radius: Float[Array, " n"]
    high_radius: Float[Array, " n"]
    height: Float[Array, " n"]
    colour: Float[Array, "n 3"]
    gain: Float[Array, " n"]
    painted: Bool[Array, " n"]
    exists: Bool[Array, " n"]


@struct.dataclass
class Panels:
    """N upright rectangles, seen from one side only, with one picture stretched over each.

    Attributes:
      centre: float32[N, 3], metres.
      size: float32[N, 2], width and height, metres.
      yaw: float32[N], radians; the side that is seen faces along (cos yaw, 0, -sin yaw).
      colour: float32[N, 3] in 0..1, multiplies the texture.
      texture: int32[N], row of the atlas.
      gain: float32[N], see the module.
      painted: bool[N], see the module.
      exists: bool[N], false for unused rows.
    """

    centre: Float[Array, "n 3"]
    size: Float[Array, "n 2"]
    yaw: Float[Array, " n"]
    colour: Float[Array, "n 3"]
    texture: Int[Array, " n"]
    gain: Float[Array, " n"]
    painted: Bool[Array, " n"]
    exists: Bool[Array, " n"]


def _no_rows(kind: Any, **columns: int | type) -> Any:
    """`kind` of zero rows. Columns: vectors of so many numbers (0 = one number each), ids (int), flags (bool)."""

    def column(what):
        if isinstance(what, type):
            return jnp.zeros(0, jnp.int32 if what is int else bool)
        return jnp.zeros((0, what) if what else 0, jnp.float32)

    return kind(**{name: column(what) for name, what in columns.items()})


def no_balls() -> Balls:
    """Balls of zero rows."""
    return _no_rows(Balls, centre=3, radii=3, yaw=0, colour=3, gain=0, painted=bool, exists=bool)


def no_cones() -> Cones:
    """Cones of zero rows."""
    return _no_rows(
        Cones, base=3, low_radius=0, high_radius=0, height=0, colour=3, gain=0, painted=bool, exists=bool
    )


def no_panels() -> Panels:
    """Panels of zero rows."""
    return _no_rows(Panels, centre=3, size=2, yaw=0, colour=3, texture=int, gain=0, painted=bool, exists=bool)


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
      walls, patches, boxes, balls, cones, panels: see there; zero rows are allowed.
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
    balls: Balls = struct.field(default_factory=no_balls)
    cones: Cones = struct.field(default_factory=no_cones)
    panels: Panels = struct.field(default_factory=no_panels)


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
    return _no_rows(Walls, start=2, end=2, low=0, high=0, offset=0, texture=int, exists=bool)


def no_patches() -> Patches:
    """Patches of zero rows."""
    return _no_rows(Patches, low=2, high=2, height=0, faces_up=bool, texture=int, exists=bool)


def no_boxes() -> Boxes:
    """Boxes of zero rows."""
    return _no_rows(Boxes, centre=3, size=3, yaw=0, colour=3, texture=int, exists=bool)


def alike(low: np.ndarray, high: np.ndarray, eye: float) -> tuple[int, ...]:
    """Value of `Walls.alike` for walls whose heights are known beforehand.

    Args:
      low, high: [N], metres, plain numbers.
      eye: metres, the camera's height or anything near it that is between the same heights.
    """
    spans = list(zip(np.asarray(low).tolist(), np.asarray(high).tolist(), strict=True))
    around = sorted({span for span in spans if span[0] < eye < span[1]})
    return tuple(around.index(span) if span in around else -1 for span in spans)


def miniworld_light() -> Light:
    """The light of MiniWorld's default parameters: white, directional, from (1, 3.5, 1)."""
    direction = np.array([1.0, 3.5, 1.0])
    return Light(
        direction=jnp.asarray(direction / np.linalg.norm(direction), jnp.float32),
        diffuse=jnp.full(3, 0.7, jnp.float32),
        ambient=jnp.full(3, 0.45, jnp.float32),
    )
