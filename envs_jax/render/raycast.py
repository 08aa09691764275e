"""A first-person renderer as one pure function: a scene and a camera in, a picture out.

* What a pixel shows is found first, among flat surfaces (`facets`) and curved ones (`rounds`), by `search`; the
  texture is read and the light computed afterwards, once a pixel.
* The linear functions that tell where a facet is met give exact derivatives of its texture coordinates, too, which
  choose the mip level.
* A camera that is known to look level is a faster one, see `search`.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int, UInt8, UInt32

from envs_jax.render.batches import few_at_once
from envs_jax.render.facets import (
    BALL,
    BOX,
    CEILING,
    CONE,
    FAR,
    FLOOR,
    PANEL,
    PATCH,
    SKY,
    WALL,
    Facets,
    facets_of,
    labels,
    linear_of,
    lit,
    rays,
)
from envs_jax.render.level import level_keys
from envs_jax.render.lookup import kept, rows_at
from envs_jax.render.rounds import Rounds, functions_of, rounds_of, seen, shine
from envs_jax.render.scene import Camera, Scene
from envs_jax.render.search import low_bits, pixel_keys, pixels, round_keys
from envs_jax.render.texture import Atlas, fetch

__all__ = [
    "BALL",
    "BOX",
    "CEILING",
    "CONE",
    "FAR",
    "FLOOR",
    "PANEL",
    "PATCH",
    "SKY",
    "WALL",
    "Hit",
    "render",
    "trace",
]


@struct.dataclass
class Hit:
    """What the ray through each pixel's centre meets first.

    Attributes:
      depth: float32[H, W], metres along the camera's axis (as in a z-buffer, not along the ray), infinite
        for the sky.
      kind: int32[H, W], one of SKY, FLOOR, CEILING, WALL, PATCH, BOX, BALL, CONE, PANEL.
      index: int32[H, W], row of that wall, patch, box, ...; 0 for the other kinds.
      uv: float32[H, W, 2], texture coordinates: metres along a wall and up it, (x, z) on floors and ceilings,
        0..1 from left to right and upwards on a box's sides and on panels, 0 on what is curved.
    """

    depth: Float[Array, "h w"]
    kind: Int[Array, "h w"]
    index: Int[Array, "h w"]
    uv: Float[Array, "h w 2"]


@struct.dataclass
class _View:
    """What is known of a picture before textures: the surfaces, and the nearest one of each pixel.

    Attributes:
      facets, linear: see `facets`.
      rounds: see there; their numbers follow the facets'.
      number: int32[H, W], of the surface that each pixel shows, 0 = sky.
    """

    facets: Facets
    linear: Float[Array, "f 3 3"]
    rounds: Rounds
    number: Int[Array, "h w"]

    @property
    def facet(self) -> Int[Array, "h w"]:
        """Its number where that is flat, else 0."""
        flat = len(self.facets.gain)
        return jnp.where(self.number < flat, self.number, 0) if len(self.rounds.gain) else self.number

    @property
    def round(self) -> Int[Array, "h w"]:
        """Its row where that is round, less than 0 elsewhere."""
        return self.number - len(self.facets.gain)


def trace(scene: Scene, camera: Camera, image_size: tuple[int, int], level: bool = False) -> Hit:
    """Which surface each pixel shows, where on it, and how far away.

    Args:
      scene, camera: one view; `jax.vmap` for many.
      image_size: (height, width), static.
      level: static, whether the camera's pitch is known to be 0: the same picture, found faster.
    """
    view = _view(scene, camera, image_size, level)
    facets, facet = view.facets, view.facet
    surface, (kinds, indices) = _surface(
        facet, view.linear, facets.uv_zero, facets.uv_span, image_size, tuple(map(jnp.asarray, labels(scene)))
    )
    depth = jnp.where(view.number == 0, jnp.inf, 1.0 / surface.w)
    if len(view.rounds.gain):
        row, is_round, is_ball = view.round, view.round >= 0, view.round < view.rounds.balls
        depth = jnp.where(is_round, seen(view.rounds, _ray(camera, image_size), jnp.maximum(row, 0))[0], depth)
        kinds = jnp.where(is_round, jnp.where(is_ball, BALL, CONE), kinds)
        indices = jnp.where(is_round, jnp.where(is_ball, row, row - view.rounds.balls), indices)
    return Hit(depth=depth, kind=kinds, index=indices, uv=jnp.stack([surface.u, surface.v], axis=-1))


def render(
    scene: Scene, camera: Camera, atlas: Atlas, image_size: tuple[int, int], level: bool = False
) -> UInt8[Array, "h w 3"]:
    """The picture of one view: `trace`, then texture and light.

    Args:
      scene, camera: one view; `jax.vmap` for many.
      atlas: the textures that the scene's texture ids are rows of; row 0 is plain white.
      image_size: (height, width), static.
      level: static, whether the camera's pitch is known to be 0: the same picture, found faster.
    """
    height, width = image_size

    def picture(scene, camera):
        return _picture(scene, camera, atlas, image_size, level)

    return few_at_once(picture, height * width)(scene, camera)


def _picture(scene: Scene, camera: Camera, atlas: Atlas, image_size, level: bool) -> UInt8[Array, "h w 3"]:
    view = _view(scene, camera, image_size, level)
    facets, facet = view.facets, view.facet
    tile = jnp.where(facets.stretched, 1.0, jnp.asarray(atlas.metres)[facets.texture])[:, None]
    surface, (texture,) = _surface(
        facet, view.linear, facets.uv_zero / tile, facets.uv_span / tile, image_size, (facets.texture,)
    )
    light = rows_at(kept(_ten_bits(lit(facets, scene.light, scene.sky))), facet)
    texel = fetch(atlas, texture, surface.u, surface.v, surface.footprint())
    packed = _packed([value * _of_ten_bits(light, k) for k, value in enumerate(texel)])
    if len(view.rounds.gain):
        shone = shine(view.rounds, scene.light, _ray(camera, image_size), jnp.maximum(view.round, 0))
        # Materialised: else what it is computed from would be, twenty numbers a pixel.
        shone = jax.lax.optimization_barrier(_packed([255.0 * value for value in shone]))
        packed = jnp.where(view.round >= 0, shone, packed)
    # One number a pixel, whose bytes are the colours. Materialised, or each byte would repeat the work of all.
    return _bytes(jax.lax.optimization_barrier(packed))


def _bytes(packed: UInt32[Array, "h w"]) -> UInt8[Array, "h w 3"]:
    """The lower three bytes of every number."""
    if packed.size % 4:
        return _bytes_cut(packed)
    # Words are written twice as fast as bytes. On CPU, where no barrier holds, each byte would make its own word.
    return jax.lax.platform_dependent(packed, cpu=_bytes_cut, default=_bytes_joined)


def _bytes_cut(packed: UInt32[Array, "h w"]) -> UInt8[Array, "h w 3"]:
    return jax.lax.bitcast_convert_type(packed, jnp.uint8)[..., :3]


def _bytes_joined(packed: UInt32[Array, "h w"]) -> UInt8[Array, "h w 3"]:
    """Four pixels are three words, whose parts lie in two pixels each; the fourth byte of a pixel must be 0."""
    four = packed.reshape(-1, 4)
    low = jnp.arange(0, 24, 8, dtype=jnp.uint32)
    words = (four[:, :3] >> low) | (four[:, 1:] << (24 - low))
    return jax.lax.bitcast_convert_type(words, jnp.uint8).reshape(*packed.shape, 3)


def _packed(colour: list[Float[Array, "h w"]]) -> UInt32[Array, "h w"]:
    """Red, green and blue in 0..255, rounded, as one number, red in its lowest byte."""
    packed = jnp.zeros(colour[0].shape, jnp.uint32)
    for channel, value in enumerate(colour):
        packed |= jnp.round(value).astype(jnp.int32).astype(jnp.uint32) << (8 * channel)
    return packed


def _view(scene: Scene, camera: Camera, image_size, level: bool) -> _View:
    facets = facets_of(scene, camera.position)
    linear = linear_of(facets, camera, image_size)
    rounds = rounds_of(scene, camera.position)
    flat, curved = len(facets.gain), len(rounds.gain)
    mask = low_bits(flat + curved)
    functions = functions_of(rounds, rays(camera, image_size))
    if level:
        best = level_keys(scene, linear, rounds, functions, image_size, mask)
    else:
        best = pixel_keys(linear, image_size, mask)
        best = jnp.maximum(best, round_keys(rounds, functions, *pixels(image_size), mask, first=flat))
    return _View(facets=facets, linear=linear, rounds=rounds, number=_once(best & mask))


def _ray(camera: Camera, image_size) -> tuple[Float[Array, "h w"], ...]:
    """x, y and z of every pixel's ray."""
    column, row = pixels(image_size)
    of = rays(camera, image_size)
    return tuple(of[0, k] + of[1, k] * column + of[2, k] * row for k in range(3))


def _once(number: Int[Array, "h w"]) -> Int[Array, "h w"]:
    """The same numbers, 0 to 4095, such that XLA keeps them instead of searching again for each of their uses.

    On CPU it drops barriers before it fuses, and would search anew, not vectorised, within every read from a
    table. What it never repeats is a square root, or a division. On GPU it would turn all that is made of numbers
    found column by column; in one line they have but one order.
    """
    number = (jnp.sqrt((number * number).astype(jnp.float32)) + 0.5).astype(jnp.int32)
    return jax.lax.optimization_barrier(number.reshape(-1)).reshape(number.shape)


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

    def footprint(self) -> Float[Array, "h w"]:
        """Squared length in texture coordinates of the longer of a pixel's two sides, as in OpenGL."""
        return jnp.maximum(self.u_column**2 + self.v_column**2, self.u_row**2 + self.v_row**2)


def _surface(
    facet: Int[Array, "h w"],
    linear: Float[Array, "f 3 3"],
    uv_zero: Float[Array, "f 2"],
    uv_span: Float[Array, "f 2"],
    image_size: tuple[int, int],
    more: tuple[Int[Array, " f"], ...],
) -> tuple[_Surface, list[Int[Array, "h w"]]]:
    """The surface behind each pixel and, as int32, what else is asked of its facet.

    All that is known of a facet is one row of a table, so that a pixel reads it with one gather. `facet` needs one
    more use elsewhere: of a single one, XLA on CPU would search anew for every number of the row.
    """
    w_of, s_of, t_of = linear[:, 0], linear[:, 1], linear[:, 2]  # [F, 3] each
    u_of = uv_zero[:, :1] * w_of + uv_span[:, :1] * s_of  # u w, linear in the pixel too
    v_of = uv_zero[:, 1:] * w_of + uv_span[:, 1:] * t_of
    bits = jax.lax.bitcast_convert_type(jnp.concatenate([w_of, u_of, v_of], axis=1), jnp.int32)
    table = jnp.concatenate([bits, *(numbers[:, None] for numbers in more)], axis=1)
    read = rows_at(kept(table), facet)  # [H, W, 9 + more]
    column, row = pixels(image_size)

    def at_pixel(first):
        zero, by_column, by_row = (
            jax.lax.bitcast_convert_type(read[..., first + k], jnp.float32) for k in range(3)
        )
        return zero + by_column * column + by_row * row, by_column, by_row

    w, w_column, w_row = at_pixel(0)
    u_w, uw_column, uw_row = at_pixel(3)
    v_w, vw_column, vw_row = at_pixel(6)
    depth = 1.0 / w
    # Divisions, which XLA does not repeat for each of a texture's reads as it would products.
    u, v = u_w / w, v_w / w
    surface = _Surface(
        w=w,
        u=u,
        v=v,
        u_column=(uw_column - u * w_column) * depth,
        u_row=(uw_row - u * w_row) * depth,
        v_column=(vw_column - v * w_column) * depth,
        v_row=(vw_row - v * w_row) * depth,
    )
    return surface, [read[..., 9 + k] for k in range(len(more))]


def _ten_bits(colour: Float[Array, "f 3"]) -> Int[Array, " f"]:
    """Three numbers in 0..1 as one. Signed: of an unsigned number the way back would be slow on CPU."""
    level = jnp.round(colour * 1023.0).astype(jnp.int32)
    return level[:, 0] | level[:, 1] << 10 | level[:, 2] << 20


def _of_ten_bits(packed: Int[Array, "h w"], channel: int) -> Float[Array, "h w"]:
    return ((packed >> (10 * channel)) & 1023).astype(jnp.float32) * (1.0 / 1023.0)
