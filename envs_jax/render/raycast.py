"""A first-person renderer as one pure function: a scene and a camera in, a picture out.

* Everything drawn is a flat parallelogram, a *facet*: walls with a height range, patches of floor or ceiling,
  the faces of boxes. What a pixel shows is found first; the texture is read afterwards, once a pixel.
* A ray d from the eye meets a facet with corner c (seen from the eye) and edges a, b at depth 1/w where
  c + s a + t b = d / w, that is [a b c] (s w, t w, w) = d. So the rows of the inverse of a 3x3 matrix give w,
  s w and t w as linear functions of the ray, hence of the pixel's column and row. The facet is hit where
  0 < s w, t w < w: no division and no branch per facet and pixel.
* The nearest facet has the largest w. Its number replaces the lowest bits of w, so that the search is one
  integer maximum over the facets in one fused pass over the pixels; nothing of size facets x pixels is kept.
* The same linear functions give exact derivatives of the texture coordinates, which choose the mip level.

Lighting is OpenGL's fixed-function diffuse model, one colour a facet, as MiniWorld uses it.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float, Int, UInt8

from envs_jax.render.scene import Boxes, Camera, Patches, Scene, Walls
from envs_jax.render.texture import Atlas, fetch

FAR = 100.0  # metres around the camera where floor and ceiling end, like MiniWorld's far plane
SKY, FLOOR, CEILING, WALL, PATCH, BOX, BALL, CONE, PANEL = range(9)  # Hit.kind

_BASE_AMBIENT = 0.2  # OpenGL's default GL_LIGHT_MODEL_AMBIENT
_GROWTH = 2e-5  # facets grow by this share, or rounding would leave cracks along the edges they share
_GROUP = 32  # facets searched in one unrolled expression; more are scanned in such groups
_LIFT = 1e-3  # metres by which patches stand off the floor or ceiling plane that they cover


@struct.dataclass
class Hit:
    """What the ray through each pixel's centre meets first.

    Attributes:
      depth: float32[H, W], metres along the camera's axis (as in a z-buffer, not along the ray), infinite
        for the sky.
      kind: int32[H, W], one of SKY, FLOOR, CEILING, WALL, PATCH, BOX.
      index: int32[H, W], row of that wall, patch or box; 0 for the other kinds.
      uv: float32[H, W, 2], texture coordinates: metres along a wall and up it, (x, z) on floors and ceilings,
        0..1 from left to right and upwards on a box's sides.
    """

    depth: Float[Array, "h w"]
    kind: Int[Array, "h w"]
    index: Int[Array, "h w"]
    uv: Float[Array, "h w 2"]


@struct.dataclass
class _Facets:
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
    exists: Bool[Array, " f"]


def trace(scene: Scene, camera: Camera, image_size: tuple[int, int]) -> Hit:
    """Which surface each pixel shows, where on it, and how far away.

    Args:
      scene, camera: one view; `jax.vmap` for many.
      image_size: (height, width), static.
    """
    facets = _facets(scene, camera.position)
    linear = _linear(facets, camera, image_size)
    nearest = _nearest(linear, image_size)
    surface = _Surface.at(nearest, linear, facets.uv_zero, facets.uv_span, image_size)
    kind, index = _labels(scene)
    return Hit(
        depth=jnp.where(nearest == 0, jnp.inf, 1.0 / surface.w),
        kind=jnp.asarray(kind)[nearest],
        index=jnp.asarray(index)[nearest],
        uv=jnp.stack([surface.u, surface.v], axis=-1),
    )


def render(scene: Scene, camera: Camera, atlas: Atlas, image_size: tuple[int, int]) -> UInt8[Array, "h w 3"]:
    """The picture of one view: `trace`, then texture and light.

    Args:
      scene, camera: one view; `jax.vmap` for many.
      atlas: the textures that the scene's texture ids are rows of; row 0 is plain white.
      image_size: (height, width), static.
    """
    facets = _facets(scene, camera.position)
    tile = jnp.where(facets.stretched, 1.0, jnp.asarray(atlas.metres)[facets.texture])[:, None]
    lit = _lit(facets, scene.light, scene.sky)
    linear = _linear(facets, camera, image_size)
    nearest = _nearest(linear, image_size)
    surface = _Surface.at(nearest, linear, facets.uv_zero / tile, facets.uv_span / tile, image_size)
    texel = fetch(atlas, _pick(facets.texture, nearest), surface.u, surface.v, surface.footprint())
    packed = jnp.zeros(image_size, jnp.uint32)
    for channel, value in enumerate(texel):
        level = jnp.round(value * _pick(lit[:, channel], nearest)).astype(jnp.uint32)
        packed |= level << (8 * channel)
    # One number a pixel, whose bytes are the colours: no colour repeats the work of the other two.
    return jax.lax.bitcast_convert_type(packed, jnp.uint8)[..., :3]


@struct.dataclass
class _Surface:
    """The surface behind each pixel, leaves [H, W]; `*_column`, `*_row` are derivatives by pixel."""

    w: Float[Array, "h w"]  # 1 / depth
    u: Float[Array, "h w"]
    v: Float[Array, "h w"]
    u_column: Float[Array, "h w"]
    u_row: Float[Array, "h w"]
    v_column: Float[Array, "h w"]
    v_row: Float[Array, "h w"]

    @classmethod
    def at(cls, nearest, linear, uv_zero, uv_span, image_size) -> _Surface:
        w_of, s_of, t_of = linear[:, 0], linear[:, 1], linear[:, 2]  # [F, 3] each
        u_of = uv_zero[:, :1] * w_of + uv_span[:, :1] * s_of  # u w, linear in the pixel too
        v_of = uv_zero[:, 1:] * w_of + uv_span[:, 1:] * t_of
        column, row = _pixels(image_size)

        def at_pixel(functions):
            zero, by_column, by_row = (_pick(functions[:, k], nearest) for k in range(3))
            return zero + by_column * column + by_row * row, by_column, by_row

        w, w_column, w_row = at_pixel(w_of)
        u_w, uw_column, uw_row = at_pixel(u_of)
        v_w, vw_column, vw_row = at_pixel(v_of)
        depth = 1.0 / w
        u, v = u_w * depth, v_w * depth
        return cls(
            w=w,
            u=u,
            v=v,
            u_column=(uw_column - u * w_column) * depth,
            u_row=(uw_row - u * w_row) * depth,
            v_column=(vw_column - v * w_column) * depth,
            v_row=(vw_row - v * w_row) * depth,
        )

    def footprint(self) -> Float[Array, "h w"]:
        """Squared length in texture coordinates of the longer of a pixel's two sides, as in OpenGL."""
        return jnp.maximum(self.u_column**2 + self.v_column**2, self.u_row**2 + self.v_row**2)


def _pixels(image_size) -> tuple[Float[Array, "1 w"], Float[Array, "h 1"]]:
    height, width = image_size
    return jnp.arange(width, dtype=jnp.float32)[None, :], jnp.arange(height, dtype=jnp.float32)[:, None]


def _pick(values: Array, nearest: Int[Array, "h w"]) -> Array:
    """values [F] at the facet numbers [H, W]."""
    return values.at[nearest].get(mode="promise_in_bounds")


def _rays(camera: Camera, image_size) -> Float[Array, "3 3"]:
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


def _linear(facets: _Facets, camera: Camera, image_size) -> Float[Array, "f 3 3"]:
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
    linear = jnp.sum(inverse[:, :, None, :] * _rays(camera, image_size), axis=-1)
    return linear.at[0].set(jnp.zeros((3, 3)).at[0, 0].set(1.0))


def _nearest(linear: Float[Array, "f 3 3"], image_size) -> Int[Array, "h w"]:
    """The number of the facet that each pixel shows, 0 = sky."""
    column, row = _pixels(image_size)
    count = linear.shape[0]
    low_bits = (1 << count.bit_length()) - 1
    # Measured from the facet's middle and scaled, "inside" is |s'|, |t'| < w; all zeros are outside.
    scale = 2.0 / (1.0 + 2.0 * _GROWTH)
    w_of = linear[:, 0]
    tests = jnp.stack([w_of, (linear[:, 1] - w_of / 2) * scale, (linear[:, 2] - w_of / 2) * scale], axis=1)

    def search(best, group, first):
        for k in range(group.shape[0]):
            w, s, t = (group[k, i, 0] + group[k, i, 1] * column + group[k, i, 2] * row for i in range(3))
            # Positive floats are ordered like their bits read as integers.
            bits = jax.lax.bitcast_convert_type(w, jnp.int32)
            key = (bits & ~low_bits) | (first + k)
            best = jnp.maximum(best, jnp.where(jnp.maximum(jnp.abs(s), jnp.abs(t)) < w, key, 0))
        return best

    best = jnp.zeros(image_size, jnp.int32)
    if count - 1 <= _GROUP:
        best = search(best, tests[1:], 1)
    else:
        groups = -(-(count - 1) // _GROUP)
        padded = jnp.pad(tests[1:], ((0, groups * _GROUP - (count - 1)), (0, 0), (0, 0)))
        firsts = 1 + _GROUP * jnp.arange(groups, dtype=jnp.int32)
        stacked = padded.reshape(groups, _GROUP, 3, 3)
        best, _ = jax.lax.scan(lambda b, x: (search(b, *x), None), best, (stacked, firsts))
    # Materialised: fused with the reads that follow, this loop would not be vectorised on CPU.
    return jax.lax.optimization_barrier(best & low_bits)


def _lit(facets: _Facets, light, sky) -> Float[Array, "f 3"]:
    """Colour of every facet under the light, in 0..1; what the texture is multiplied by."""
    normal = jnp.cross(facets.b, facets.a)
    length = jnp.sqrt(jnp.sum(normal**2, axis=-1, keepdims=True))
    normal = normal / jnp.maximum(length, 1e-12)
    towards = jnp.maximum(jnp.sum(normal * light.direction, axis=-1, keepdims=True), 0.0)
    lit = jnp.clip(facets.colour * (_BASE_AMBIENT + light.ambient + light.diffuse * towards), 0.0, 1.0)
    return lit.at[0].set(sky)


def _labels(scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    """Hit.kind and Hit.index of every facet, in the order of `_facets`."""
    walls, patches, boxes = (len(rows.exists) for rows in (scene.walls, scene.patches, scene.boxes))
    kind = [SKY, FLOOR, CEILING] + [WALL] * walls + [PATCH] * patches + [BOX] * (3 * boxes)
    index = [0, 0, 0, *range(walls), *range(patches), *(i // 3 for i in range(3 * boxes))]
    return np.array(kind, np.int32), np.array(index, np.int32)


def _facets(scene: Scene, eye: Float[Array, "3"]) -> _Facets:
    """Everything in the scene, in the order sky (a placeholder), floor, ceiling, walls, patches, boxes."""
    parts = [_planes(scene, eye), _wall_facets(scene.walls), _patch_facets(scene.patches)]
    parts.append(_box_facets(scene.boxes, eye))
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)


def _planes(scene: Scene, eye) -> _Facets:
    """Sky, floor and ceiling: [3, ...]. Floor and ceiling are squares of side 2 FAR around the camera."""
    x, _, z = eye
    zero = jnp.zeros_like(x)
    side = 2.0 * FAR
    texture = jnp.stack([jnp.full_like(scene.floor_texture, -1), scene.floor_texture, scene.ceiling_texture])
    # The ceiling's first edge runs along -x, so that b x a points down; its u falls with s accordingly.
    return _Facets(
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
        exists=texture >= 0,
    )


def _wall_facets(walls: Walls) -> _Facets:
    along = walls.end - walls.start  # [N, 2]
    length = jnp.sqrt(jnp.sum(along**2, axis=-1))
    height = walls.high - walls.low
    zero = jnp.zeros_like(height)
    return _Facets(
        corner=jnp.stack([walls.start[:, 0], walls.low, walls.start[:, 1]], axis=1),
        a=jnp.stack([along[:, 0], zero, along[:, 1]], axis=1),
        b=jnp.stack([zero, height, zero], axis=1),
        uv_zero=jnp.stack([walls.offset, walls.low], axis=1),
        uv_span=jnp.stack([length, height], axis=1),
        stretched=jnp.zeros_like(walls.exists),
        texture=walls.texture,
        colour=jnp.ones((len(height), 3), jnp.float32),
        exists=walls.exists,
    )


def _patch_facets(patches: Patches) -> _Facets:
    # Seen from above the first edge runs along x, seen from below along -x: b x a points up or down.
    turn = jnp.where(patches.faces_up, 1.0, -1.0)
    size = patches.high - patches.low  # [N, 2]
    zero = jnp.zeros_like(patches.height)
    x = jnp.where(patches.faces_up, patches.low[:, 0], patches.high[:, 0])
    z = patches.low[:, 1]
    return _Facets(
        corner=jnp.stack([x, patches.height + turn * _LIFT, z], axis=1),
        a=jnp.stack([turn * size[:, 0], zero, zero], axis=1),
        b=jnp.stack([zero, zero, size[:, 1]], axis=1),
        uv_zero=jnp.stack([x, z], axis=1),
        uv_span=jnp.stack([turn * size[:, 0], size[:, 1]], axis=1),
        stretched=jnp.zeros_like(patches.exists),
        texture=patches.texture,
        colour=jnp.ones((len(zero), 3), jnp.float32),
        exists=patches.exists,
    )


def _box_facets(boxes: Boxes, eye) -> _Facets:
    """The three faces of each box that are turned to the camera: [3 N, ...]."""
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

    return _Facets(
        corner=(middle - a / 2 - b / 2).reshape(-1, 3),
        a=a.reshape(-1, 3),
        b=b.reshape(-1, 3),
        # From outside, a runs from right to left.
        uv_zero=jnp.tile(jnp.array([[1.0, 0.0]], jnp.float32), (3 * count, 1)),
        uv_span=jnp.tile(jnp.array([[-1.0, 1.0]], jnp.float32), (3 * count, 1)),
        stretched=jnp.ones(3 * count, bool),
        texture=spread(boxes.texture),
        colour=spread(boxes.colour),
        exists=spread(boxes.exists),
    )
