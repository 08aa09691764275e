"""Everything flat in a scene as parallelograms, *facets*: walls, patches, the sides of boxes, panels.

* A ray d from the eye meets a facet with corner c (seen from the eye) and edges a, b at depth 1/w where
  c + s a + t b = d / w, that is [a b c] (s w, t w, w) = d. So the rows of the inverse of a 3x3 matrix give w,
  s w and t w as linear functions of the ray, hence of the pixel's column and row. The facet is hit where
  0 < s w, t w < w: no division and no branch per facet and pixel.
* Lighting is OpenGL's fixed-function diffuse model, one colour a facet, as MiniWorld uses it.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from envs_jax.render.scene import Boxes, Camera, Light, Panels, Patches, Scene, Walls

FAR = 100.0  # metres around the camera where floor and ceiling end, like MiniWorld's far plane
SKY, FLOOR, CEILING, WALL, PATCH, BOX, BALL, CONE, PANEL = range(9)  # Hit.kind
BASE_AMBIENT = 0.2  # OpenGL's default GL_LIGHT_MODEL_AMBIENT

_LIFT = 1e-3  # metres by which patches stand off the floor or ceiling plane that they cover


@struct.dataclass
class Facets:
    """Parallelograms corner + s a + t b, 0 <= s, t <= 1, seen from the side to which b x a points; leaves
    [F, ...]. Texture coordinates are uv_zero + (s, t) uv_span: metres, or shares of a face if `stretched`."""

    corner: Float[Array, "f 3"]
    a: Float[Array, "f 3"]
    b: Float[Array, "f 3"]
    uv_zero: Float[Array, "f 2"]
    uv_span: Float[Array, "f 2"]
    stretched: Bool[Array, " f"]
    texture: Int[Array, " f"]
    colour: Float[Array, "f 3"]
    gain: Float[Array, " f"]
    painted: Bool[Array, " f"]
    exists: Bool[Array, " f"]


def facets_of(scene: Scene, eye: Float[Array, "3"]) -> Facets:
    """Everything flat, in the order sky (a placeholder), floor, ceiling, walls, patches, boxes, panels."""
    parts = [
        _planes(scene, eye),
        _wall_facets(scene.walls),
        _patch_facets(scene.patches),
        _box_facets(scene.boxes, eye),
        _panel_facets(scene.panels),
    ]
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)


def labels(scene: Scene) -> tuple[Int[np.ndarray, " f"], Int[np.ndarray, " f"]]:
    """Hit.kind and Hit.index of every facet."""
    rows = {WALL: scene.walls, PATCH: scene.patches, BOX: scene.boxes, PANEL: scene.panels}
    kind, index = [SKY, FLOOR, CEILING], [0, 0, 0]
    for name, part in rows.items():
        faces = 3 if name == BOX else 1
        kind += [name] * (faces * len(part.exists))
        index += [row for row in range(len(part.exists)) for _ in range(faces)]
    return np.array(kind, np.int32), np.array(index, np.int32)


def rays(camera: Camera, image_size: tuple[int, int]) -> Float[Array, "3 3"]:
    """The ray of a pixel is rays[0] + column rays[1] + row rays[2]; its part along the camera's axis is 1."""
    height, width = image_size
    sin_yaw, cos_yaw = jnp.sin(camera.yaw), jnp.cos(camera.yaw)
    sin_pitch, cos_pitch = jnp.sin(camera.pitch), jnp.cos(camera.pitch)
    forward = jnp.stack([cos_pitch * cos_yaw, sin_pitch, -cos_pitch * sin_yaw])
    right = jnp.stack([sin_yaw, jnp.zeros_like(sin_yaw), cos_yaw])
    up = jnp.stack([-sin_pitch * cos_yaw, cos_pitch, sin_pitch * sin_yaw])
    half = jnp.tan(camera.fov_y / 2)
    pixel = 2 * half / height
    first = forward + (half - pixel / 2) * up - (half * (width / height) - pixel / 2) * right
    return jnp.stack([first, pixel * right, -pixel * up])


def linear_of(facets: Facets, camera: Camera, image_size: tuple[int, int]) -> Float[Array, "f 3 3"]:
    """w, s w and t w of every facet as functions of the pixel: [F, (w, sw, tw), (constant, column, row)].

    Facets that do not exist, or are seen from behind or from the side, get zeros and are never hit. The
    first, the sky, is no facet: its w is 1 everywhere, so that nothing is divided by zero.
    """
    c = facets.corner - camera.position
    inverse = jnp.stack(
        [jnp.cross(facets.a, facets.b), jnp.cross(facets.b, c), jnp.cross(c, facets.a)], axis=1
    )  # [F, 3, 3], times the determinant
    determinant = jnp.sum(inverse[:, 0] * c, axis=-1)  # > 0 if seen from the side of b x a
    seen = facets.exists & (determinant > 1e-9)
    inverse = jnp.where(seen[:, None, None], inverse / jnp.where(seen, determinant, 1.0)[:, None, None], 0.0)
    # Not a matrix product: on GPU that would be rounded to TF32, worth decimetres here.
    linear = jnp.sum(inverse[:, :, None, :] * rays(camera, image_size), axis=-1)
    return linear.at[0].set(jnp.zeros((3, 3)).at[0, 0].set(1.0))


def lit(facets: Facets, light: Light, sky: Float[Array, "3"]) -> Float[Array, "f 3"]:
    """Colour of every facet under the light, in 0..1; what the texture is multiplied by."""
    normal = jnp.cross(facets.b, facets.a)
    length = jnp.sqrt(jnp.sum(normal**2, axis=-1, keepdims=True))
    normal = normal / jnp.maximum(length, 1e-12)
    towards = facets.gain[:, None] * jnp.maximum(jnp.sum(normal * light.direction, axis=-1, keepdims=True), 0.0)
    bright = BASE_AMBIENT + light.ambient + light.diffuse * towards
    colour = facets.colour * jnp.where(facets.painted[:, None], jnp.minimum(bright, 1.0), bright)
    return jnp.clip(colour, 0.0, 1.0).at[0].set(sky)


def _planes(scene: Scene, eye) -> Facets:
    """Sky, floor and ceiling: [3, ...]. Floor and ceiling are squares of side 2 FAR around the camera."""
    x, _, z = eye
    zero = jnp.zeros_like(x)
    side = 2.0 * FAR
    texture = jnp.stack([jnp.full_like(scene.floor_texture, -1), scene.floor_texture, scene.ceiling_texture])
    # The ceiling's first edge runs along -x, so that b x a points down; its u falls with s accordingly.
    return Facets(
        corner=jnp.stack(
            [
                jnp.stack([zero, zero, zero]),
                jnp.stack([x - FAR, zero, z - FAR]),
                jnp.stack([x + FAR, scene.ceiling_height, z - FAR]),
            ]
        ),
        a=jnp.array([[0, 0, 0], [side, 0, 0], [-side, 0, 0]], jnp.float32),
        b=jnp.array([[0, 0, 0], [0, 0, side], [0, 0, side]], jnp.float32),
        uv_zero=jnp.stack([jnp.stack([zero, zero]), jnp.stack([x - FAR, z - FAR]), jnp.stack([x + FAR, z - FAR])]),
        uv_span=jnp.array([[0, 0], [side, side], [-side, side]], jnp.float32),
        stretched=jnp.zeros(3, bool),
        texture=jnp.maximum(texture, 0),
        colour=jnp.ones((3, 3), jnp.float32),
        gain=jnp.ones(3, jnp.float32),
        painted=jnp.zeros(3, bool),
        exists=texture >= 0,
    )


def _wall_facets(walls: Walls) -> Facets:
    along = walls.end - walls.start  # [N, 2]
    length = jnp.sqrt(jnp.sum(along**2, axis=-1))
    height = walls.high - walls.low
    zero = jnp.zeros_like(height)
    return Facets(
        corner=jnp.stack([walls.start[:, 0], walls.low, walls.start[:, 1]], axis=1),
        a=jnp.stack([along[:, 0], zero, along[:, 1]], axis=1),
        b=jnp.stack([zero, height, zero], axis=1),
        uv_zero=jnp.stack([walls.offset, walls.low], axis=1),
        uv_span=jnp.stack([length, height], axis=1),
        stretched=jnp.zeros_like(walls.exists),
        texture=walls.texture,
        colour=jnp.ones((len(height), 3), jnp.float32),
        gain=jnp.ones_like(height),
        painted=jnp.zeros_like(walls.exists),
        exists=walls.exists,
    )


def _patch_facets(patches: Patches) -> Facets:
    # Seen from above the first edge runs along x, seen from below along -x: b x a points up or down.
    turn = jnp.where(patches.faces_up, 1.0, -1.0)
    size = patches.high - patches.low  # [N, 2]
    zero = jnp.zeros_like(patches.height)
    x = jnp.where(patches.faces_up, patches.low[:, 0], patches.high[:, 0])
    z = patches.low[:, 1]
    return Facets(
        corner=jnp.stack([x, patches.height + turn * _LIFT, z], axis=1),
        a=jnp.stack([turn * size[:, 0], zero, zero], axis=1),
        b=jnp.stack([zero, zero, size[:, 1]], axis=1),
        uv_zero=jnp.stack([x, z], axis=1),
        uv_span=jnp.stack([turn * size[:, 0], size[:, 1]], axis=1),
        stretched=jnp.zeros_like(patches.exists),
        texture=patches.texture,
        colour=jnp.ones((len(zero), 3), jnp.float32),
        gain=jnp.ones_like(zero),
        painted=jnp.zeros_like(patches.exists),
        exists=patches.exists,
    )


def _box_facets(boxes: Boxes, eye) -> Facets:
    """The three faces of each box that are turned to the camera, across its x, y and z axis: [3 N, ...]."""
    count = len(boxes.yaw)
    cos, sin, zero = jnp.cos(boxes.yaw), jnp.sin(boxes.yaw), jnp.zeros_like(boxes.yaw)
    x_axis = jnp.stack([cos, zero, -sin], axis=1)
    y_axis = jnp.stack([zero, zero + 1.0, zero], axis=1)
    z_axis = jnp.stack([sin, zero, cos], axis=1)
    axes = jnp.stack([x_axis, y_axis, z_axis], axis=1)  # [N, axis, 3]
    side = jnp.where(jnp.sum(axes * (eye - boxes.centre)[:, None], axis=-1) >= 0, 1.0, -1.0)  # [N, axis]
    edges = axes * boxes.size[:, :, None]
    x, y, z = edges[:, 0], edges[:, 1], edges[:, 2]
    sx, sy, sz = (side[:, k, None] for k in range(3))
    # b x a points outwards on each: y x z = x, z x x = y, y x (-x) = z. b is upright on the four sides.
    a = jnp.stack([sx * z, sy * x, -sz * x], axis=1)
    b = jnp.stack([y, z, y], axis=1)
    middle = boxes.centre[:, None] + side[:, :, None] * edges / 2  # [N, axis, 3]

    def spread(values):  # [N, ...] -> [3 N, ...]
        return jnp.repeat(values, 3, axis=0)

    return Facets(
        corner=(middle - a / 2 - b / 2).reshape(-1, 3),
        a=a.reshape(-1, 3),
        b=b.reshape(-1, 3),
        # From outside, a runs from right to left.
        uv_zero=jnp.tile(jnp.array([[1.0, 0.0]], jnp.float32), (3 * count, 1)),
        uv_span=jnp.tile(jnp.array([[-1.0, 1.0]], jnp.float32), (3 * count, 1)),
        stretched=jnp.ones(3 * count, bool),
        texture=spread(boxes.texture),
        colour=spread(boxes.colour),
        gain=jnp.ones(3 * count, jnp.float32) if boxes.gain is None else spread(boxes.gain),
        painted=jnp.zeros(3 * count, bool) if boxes.painted is None else spread(boxes.painted),
        exists=spread(boxes.exists),
    )


def _panel_facets(panels: Panels) -> Facets:
    count = len(panels.yaw)
    cos, sin, zero = jnp.cos(panels.yaw), jnp.sin(panels.yaw), jnp.zeros_like(panels.yaw)
    # From the right edge to the left one, as on a box: upwards x leftwards is the way that a panel faces.
    a = panels.size[:, :1] * jnp.stack([sin, zero, cos], axis=1)
    b = jnp.stack([zero, panels.size[:, 1], zero], axis=1)
    return Facets(
        corner=panels.centre - a / 2 - b / 2,
        a=a,
        b=b,
        uv_zero=jnp.tile(jnp.array([[1.0, 0.0]], jnp.float32), (count, 1)),
        uv_span=jnp.tile(jnp.array([[-1.0, 1.0]], jnp.float32), (count, 1)),
        stretched=jnp.ones(count, bool),
        texture=panels.texture,
        colour=panels.colour,
        gain=panels.gain,
        painted=panels.painted,
        exists=panels.exists,
    )
