"""Flat pictures: areas, rounded rectangles and text, each a pure function from image to image.

* x goes right, y goes down, pixel (row, column) covers [column, column + 1) x [row, row + 1). Edges may lie
  between pixels and are antialiased; whatever lies outside the image is clipped.
* Images are uint8 or float32 in 0..255 and keep their type. Colours are three numbers 0..255, possibly traced.
* Text is glyph ids, possibly traced: `glyphs.encode` makes them of fixed text, `decimal` of a number in a State.
  Length, place and size are static, so that only the text's own window of pixels is computed.
* Text is fitted to the pixel grid (cells, baseline, height of capitals), because at 7 pixels a blurred digit is
  not a digit. A glyph therefore looks the same wherever it stands.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8

from envs_jax.render import glyphs

Image = UInt8[Array, "h w 3"] | Float[Array, "h w 3"]
Scalar = float | int | Float[Array, ""] | Int[Array, ""]
Color = Sequence[Scalar] | np.ndarray | Array

BLACK, WHITE = (0, 0, 0), (255, 255, 255)
_PEN, _BOLD_PEN = 0.85, 1.4  # units, the width of a stroke


def canvas(height: int, width: int, color: Color = WHITE) -> UInt8[Array, "{height} {width} 3"]:
    """An image of one colour."""
    return jnp.broadcast_to(jnp.asarray(color, jnp.uint8), (height, width, 3))


def blend(image: Image, coverage: Float[Array, "h w"], color: Color) -> Image:
    """Lays a colour over an image, 0 (not at all) to 1 (entirely), pixel by pixel."""
    old = image.astype(jnp.float32)
    new = old + coverage[:, :, None] * (jnp.asarray(color, jnp.float32) - old)
    return jnp.round(new).astype(jnp.uint8) if image.dtype == jnp.uint8 else new.astype(image.dtype)


def rectangle(
    image: Image, left: Scalar, top: Scalar, right: Scalar, bottom: Scalar, color: Color, radius: Scalar = 0.0
) -> Image:
    """Fills a rectangle.

    Args:
      image: see the module.
      left, top, right, bottom: pixels, may be traced; nothing is drawn where right <= left or bottom <= top.
      color: see the module.
      radius: pixels, of the corners; at most half the shorter side is used.
    """
    height, width, _ = image.shape
    y, x = jnp.arange(height) + 0.5, jnp.arange(width) + 0.5
    across = jnp.clip(jnp.minimum(right, x + 0.5) - jnp.maximum(left, x - 0.5), 0, 1)
    down = jnp.clip(jnp.minimum(bottom, y + 0.5) - jnp.maximum(top, y - 0.5), 0, 1)
    half_x, half_y = (right - left) / 2, (bottom - top) / 2
    radius = jnp.minimum(radius, jnp.minimum(half_x, half_y))
    # How far a pixel lies beyond the centre of the nearest corner's circle; a corner is where both are positive.
    out_x = jnp.abs(x - (left + right) / 2) - (half_x - radius)
    out_y = jnp.abs(y - (top + bottom) / 2) - (half_y - radius)
    corner = (out_x > 0) & (out_y[:, None] > 0)
    edge = jnp.clip(0.5 + radius - jnp.hypot(out_x, out_y[:, None]), 0, 1)
    square = across * down[:, None]
    return blend(image, jnp.where(corner & (radius > 0), jnp.minimum(edge, square), square), color)


def decimal(number: Int[Array, ""], length: int) -> Int[Array, " {length}"]:
    """Glyph ids of a number 0 <= number < 10**length without leading zeros, -1 after its end.

    Worked example, length 3: 42 -> ids of "4", "2" and -1.

    Raises:
      ValueError: the length is not within 1..9, what an int32 can hold.
    """
    if not 1 <= length <= 9:
        raise ValueError(f"length is {length}; accepted: 1 to 9 digits")
    digits = [number // 10**place % 10 for place in reversed(range(length))]
    used = [number >= 10**place for place in reversed(range(1, length))] + [jnp.bool_(True)]
    blank = length - sum(jnp.int32(flag) for flag in used)  # leading zeros
    at = blank + jnp.arange(length)
    ids = jnp.stack(digits)[jnp.minimum(at, length - 1)] + glyphs.CHARACTERS.index("0")
    return jnp.where(at < length, ids, -1).astype(jnp.int32)


def text_advances(size: float | int) -> Int[np.ndarray, " c"]:
    """Whole pixels that each of `glyphs.CHARACTERS` takes in a line of `text` of this font size."""
    unit_x = max(1, round(4 * size / glyphs.UNITS)) / 4
    return np.floor(glyphs.atlas().advance * unit_x + 0.5).astype(np.int32)


def text(
    image: Image,
    ids: Int[Array, " n"] | Int[np.ndarray, " n"],
    left: float | int,
    top: float | int,
    size: float | int,
    color: Color = BLACK,
    bold: bool = False,
) -> Image:
    """Writes one line of text.

    Args:
      image: see the module.
      ids: int, glyph ids; an id outside `range(len(glyphs.CHARACTERS))` takes no room, -1 by convention.
      left, top: pixels, of the line's upper left corner; the baseline is 0.93 * size below it.
      size: pixels, the font size; capitals are about 0.7 of it.
      color: see the module.
      bold: with a wider pen.

    Raises:
      ValueError: the size is not positive.
    """
    if not size > 0:
        raise ValueError(f"size is {size!r}; accepted: a positive number of pixels")
    atlas, length = glyphs.atlas(), len(ids)
    height, width, _ = image.shape
    unit = size / glyphs.UNITS
    pen = (_BOLD_PEN if bold else _PEN) * unit
    # Whole pixels between the stems of a digit (4 units apart) and between the bars of a capital (6 units).
    unit_x, unit_y = max(1, round(4 * unit)) / 4, max(1, round(6 * unit)) / 6

    advances = text_advances(size)
    begin = round(left)
    first_column, last_column = _clip(begin, begin + length * int(advances.max()), width)
    baseline = round(top + glyphs.RISE * size)
    first_row, last_row = _clip(baseline - glyphs.TOP * unit_y, baseline - glyphs.BOTTOM * unit_y, height)
    if not length or first_column >= last_column or first_row >= last_row:
        return image

    # Columns: which glyph each belongs to, and the distances along its texel column.
    known = (ids >= 0) & (ids < len(glyphs.CHARACTERS))
    ends = begin + jnp.cumsum(jnp.where(known, jnp.asarray(advances)[ids], 0))  # [n], where the next cell begins
    column = jnp.arange(first_column, last_column)
    nth = jnp.sum(column[:, None] >= ends, axis=1)  # [columns], n beyond the end
    character = jnp.where(nth < length, jnp.asarray(ids)[jnp.minimum(nth, length - 1)], glyphs.SPACE)
    cell = jnp.concatenate([jnp.full(1, begin), ends])[nth]
    # The left edge of a stem at x = 0 falls between two pixels.
    bearing = round(glyphs.BEARING * unit_x - pen / 2) + pen / 2
    x = (column + 0.5 - cell - bearing) / unit_x
    u0, u1, share = _texels(jnp, x + glyphs.BEARING, atlas.distance.shape[1])
    table = jnp.asarray(atlas.distance)
    along = table[character, u0] * (1 - share[:, None]) + table[character, u1] * share[:, None]  # [columns, V]

    # Rows: all static. The lower edge of a bar at y = 0 lies on the baseline.
    y = baseline - (np.arange(first_row, last_row) + 0.5) - pen / 2
    v0, v1, share = _texels(np, y / unit_y - glyphs.BOTTOM, atlas.distance.shape[2])
    share = share.astype(np.float32)
    distance = (along[:, v0] * (1 - share) + along[:, v1] * share).T * (unit / 100)  # [rows, columns], pixels

    # The part of a pixel, seen along the distance, that the pen covers: [d - 1/2, d + 1/2] within [-pen/2, pen/2].
    ink = jnp.clip(jnp.minimum(pen / 2, distance + 0.5) - jnp.maximum(-pen / 2, distance - 0.5), 0, 1)
    window = slice(first_row, last_row), slice(first_column, last_column)
    return image.at[window].set(blend(image[window], ink, color))


def _clip(low: float | int, high: float | int, end: int) -> tuple[int, int]:
    """Whole pixels that cover [low, high], as far as they lie within 0..end."""
    return max(0, math.floor(low)), min(end, math.ceil(high))


def _texels(xp, at, count: int):
    """The two texels around positions in units from the first texel's border, and the share of the second."""
    place = xp.clip(at * glyphs.TEXELS - 0.5, 0, count - 1)
    first = xp.minimum(xp.floor(place), count - 2).astype(xp.int32)
    return first, first + 1, place - first
