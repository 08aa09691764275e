"""Pictures of the table: upright cylinders and boxes on a floor, seen from above at a slant, with soft shadows.

* The camera is orthographic: pixels are linear in the place where their ray meets the floor, and a ray at height z
  stands `SLANT * z` nearer to the viewer (-y) than on the floor. An upright prism is then met where, in its
  column,
  the interval of heights that lies within its outline overlaps its own: no square root depends on the row.
* Of all that a ray meets, the highest is seen. Sides are lit by one light, tops are plain. Four rays a pixel.
* A prism's shadow is its outline swept along the light: the distance to a segment, which also gives the soft edge.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float, Int

_ELEVATION = math.radians(58)  # of the camera over the floor
SLANT = 1 / math.tan(_ELEVATION)
_LIGHT = np.array([-0.55, 0.35])  # metres aside of the light's ray at a height of one metre: from the left, behind
_SHADE, _SOFT = 0.42, 0.02  # of the shadow; metres
_FLOOR, _RIM, _BORDER, _OUTSIDE = (234, 230, 222), (212, 206, 196), (120, 112, 104), (176, 170, 162)
_SUPER = 2  # rays a pixel, along each side
_MARGIN = 0.035  # metres, around the table


@struct.dataclass
class Prisms:
    """Upright prisms; leaves [n, ...].

    Attributes:
      centre: (x, y), metres.
      half: half extents along x and y; of a cylinder both are its radius.
      low, high: heights where it begins and ends, metres.
      colour: red, green, blue, 0..255.
      round: 1.0 a cylinder, 0.0 a box along the axes.
    """

    centre: Float[Array, "n 2"]
    half: Float[Array, "n 2"]
    low: Float[Array, " n"]
    high: Float[Array, " n"]
    colour: Float[Array, "n 3"]
    round: Float[Array, " n"]


def prisms(centre, half, low, high, colour, round) -> Prisms:
    """Prisms of which all but `centre` [n, 2] may be given once for all."""
    n = len(centre)
    return Prisms(
        centre=jnp.asarray(centre, jnp.float32).reshape(n, 2),
        half=jnp.broadcast_to(jnp.asarray(half, jnp.float32), (n, 2)),
        low=jnp.full(n, low, jnp.float32),
        high=jnp.full(n, high, jnp.float32),
        colour=jnp.broadcast_to(jnp.asarray(colour, jnp.float32), (n, 3)),
        round=jnp.full(n, float(round), jnp.float32),
    )


def join(*groups: Prisms) -> Prisms:
    """All of them."""
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *groups)


@struct.dataclass
class Pads:
    """Flat marks on the floor: a coloured edge around a tint of the same colour; leaves [n, ...].

    Attributes:
      centre: metres.
      size: metres from the middle to the edge.
      colour: 0..255.
      shape: 0 a square, 1 a disc, 2 a diamond.
    """

    centre: Float[Array, "n 2"]
    size: Float[Array, " n"]
    colour: Float[Array, "n 3"]
    shape: Int[Array, " n"]


def draw(pads: Pads, things: Prisms, half: float, field: float, height: int, width: int) -> Float[Array, "h w 3"]:
    """A picture of the table, 0..255.

    Args:
      pads: on the floor.
      things: on the table.
      half: metres from the table's middle to its borders.
      field: metres from there to the rim of the lighter field within.
      height, width: pixels.
    """
    u, v, pixel = _floor_points(half, height, width, _SUPER)  # [W'], [H'], metres
    floor = _floor(pads, half, field, u, v, pixel)
    shadow = _shadow(things, *_floor_points(half, height, width, 1)[:2])
    shadow = jnp.repeat(jnp.repeat(shadow, _SUPER, axis=0), _SUPER, axis=1)
    colour = floor * (1 - _SHADE * shadow)[..., None]

    # Heights at which the ray of (row, column) is within the outline: (ahead - w, ahead + w) / SLANT.
    aside = u[None] - things.centre[:, :1]  # [n, W']
    inside = jnp.abs(aside) <= things.half[:, :1]
    chord = jnp.sqrt(jnp.maximum(things.half[:, :1] ** 2 - aside**2, 0.0))
    w = jnp.where(things.round[:, None] > 0, chord, things.half[:, 1:])  # [n, W'], half the depth in this column
    ahead = v[None, :, None] - things.centre[:, 1, None, None]  # [n, H', 1]
    enter = (ahead + w[:, None]) / SLANT
    leave = (ahead - w[:, None]) / SLANT
    low, high = things.low[:, None, None], things.high[:, None, None]
    hit = inside[:, None] & (enter >= low) & (leave <= high)
    at = jnp.where(hit, jnp.minimum(enter, high), -1.0)  # [n, H', W'], where the ray comes in
    nearest = jnp.argmax(at, axis=0)
    seen = jnp.max(at, axis=0) >= 0
    # Sides: a cylinder turns from the light on the left to the right; a box shows its front.
    turned = jnp.where(things.round[:, None] > 0, -aside / things.half[:, :1], 0.0)
    side = 0.66 + 0.16 * turned  # [n, W']
    columns = jnp.arange(len(u))
    bright = jnp.where(
        jnp.take_along_axis(at, nearest[None], 0)[0] >= things.high[nearest] - 1e-6, 1.0, side[nearest, columns]
    )
    colour = jnp.where(seen[..., None], things.colour[nearest] * bright[..., None], colour)
    return colour.reshape(height, _SUPER, width, _SUPER, 3).mean(axis=(1, 3))


def _floor_points(half: float, height: int, width: int, rays: int) -> tuple[np.ndarray, np.ndarray, float]:
    """x of each column and y of each row of rays, metres, and the metres across a pixel."""
    across, down = 2 * (half + _MARGIN), 2 * (half + _MARGIN) * math.sin(_ELEVATION)
    pixel = max(across / width, down / height)
    u = ((np.arange(width * rays) + 0.5) / rays - width / 2) * pixel
    v = -((np.arange(height * rays) + 0.5) / rays - height / 2) * pixel / math.sin(_ELEVATION)
    return u.astype(np.float32), v.astype(np.float32), pixel


def _floor(
    pads: Pads, half: float, field: float, u: np.ndarray, v: np.ndarray, pixel: float
) -> Float[Array, "h w 3"]:
    """The table, its border and the pads."""
    out = np.maximum(np.abs(u)[None], np.abs(v)[:, None])
    base = np.where(out[..., None] <= half, np.array(_FLOOR, np.float32), np.array(_BORDER, np.float32))
    base = np.where(((out > field) & (out <= half))[..., None], np.array(_RIM, np.float32), base)
    floor = jnp.asarray(np.where(out[..., None] <= half + 0.018, base, np.array(_OUTSIDE, np.float32)))
    for i in range(len(pads.size)):
        x, y = jnp.abs(u - pads.centre[i, 0])[None], jnp.abs(v - pads.centre[i, 1])[:, None]
        away = jnp.stack([jnp.maximum(x, y), jnp.sqrt(x**2 + y**2), x + y])[pads.shape[i]]
        reach = pads.size[i] * jnp.array([0.88, 1.0, 1.22], jnp.float32)[pads.shape[i]]  # about the same area
        edge = max(1.6 * pixel, 0.016)
        tint = 0.62 * jnp.array(_FLOOR, jnp.float32) + 0.38 * pads.colour[i]
        floor = jnp.where((away <= reach)[..., None], tint, floor)
        floor = jnp.where(((away <= reach) & (away > reach - edge))[..., None], pads.colour[i], floor)
    return floor


def _shadow(things: Prisms, u: np.ndarray, v: np.ndarray) -> Float[Array, "h w"]:
    """How much of the light is kept from the floor, 0..1."""
    light = jnp.asarray(_LIGHT, jnp.float32)
    shade = jnp.zeros((len(v), len(u)), jnp.float32)
    for i in range(len(things.low)):
        # The point on the sweep that is nearest, as the height z of the prism's slice that shades it most.
        dx, dy = (u - things.centre[i, 0])[None], (v - things.centre[i, 1])[:, None]
        z = -(dx * light[0] + dy * light[1]) / jnp.sum(light**2)
        z = jnp.clip(z, things.low[i], things.high[i])
        x, y = dx + light[0] * z, dy + light[1] * z
        box = jnp.maximum(jnp.abs(x) - things.half[i, 0], jnp.abs(y) - things.half[i, 1])
        away = jnp.where(things.round[i] > 0, jnp.sqrt(x**2 + y**2 + 1e-12) - things.half[i, 0], box)
        shade = jnp.maximum(shade, jnp.clip(0.5 - away / _SOFT, 0.0, 1.0))
    return shade
