"""What is drawn on a screenshot: a red rectangle, or rectangles with letters A to H."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, UInt8

from envs_jax.render import glyphs, raster
from envs_jax.shop import picture
from vldac.evaluate.pages.visits import SCALE, Box

LETTERS = "ABCDEFGH"
RED = (222, 20, 30)
_LINE = SCALE  # pixels
_FONT = 7 * SCALE
TAG = (8 * SCALE, 10 * SCALE)  # width and height of a letter's ground, pixels

Image = UInt8[np.ndarray, "h w 3"]


def around(box: Box) -> Box:
    """The rectangle that is drawn around a box, two lines away."""
    left, top, right, bottom = box
    return left - 2 * _LINE, top - _LINE, right + 2 * _LINE, bottom + _LINE


def outlined(image: Image, box: Box) -> Image:
    """A copy with a red rectangle, its lines inside of the box."""
    left, top, right, bottom = box
    marked = image.copy()
    for rows, columns in (
        (slice(top, top + _LINE), slice(left, right)),
        (slice(bottom - _LINE, bottom), slice(left, right)),
        (slice(top, bottom), slice(left, left + _LINE)),
        (slice(top, bottom), slice(right - _LINE, right)),
    ):
        marked[max(rows.start, 0) : rows.stop, max(columns.start, 0) : columns.stop] = RED
    return marked


def labelled(image: Image, boxes: Sequence[Box], tags: Sequence[Box]) -> Image:
    """A copy with rectangles around the boxes and the letters A, B, ... at the tags."""
    marked = image
    for box in boxes:
        marked = outlined(marked, box)
    for letter, (left, top, right, bottom) in zip(_letters(), tags, strict=False):
        marked[top:bottom, left:right] = letter
    return marked


def place_tags(boxes: Sequence[Box], free_of: Sequence[Box], side: int) -> list[Box] | None:
    """Where the letters of boxes stand, beside or within them; None if they would cover something.

    Args:
      boxes: as they are drawn.
      free_of: what must not be covered: all texts and pictures of the page.
      side: of the page, pixels.
    """
    tags: list[Box] = []
    for left, top, right, bottom in boxes:
        wide, high = TAG
        middle = (top + bottom - high) // 2
        spots = (
            (right - wide - _LINE, middle),
            (right, middle),
            (left - wide, middle),
            (right - wide, top - high),
            (right - wide, bottom),
        )
        taken = [*free_of, *tags]
        for x, y in spots:
            tag = (x, y, x + wide, y + high)
            inside = x >= 0 and y >= 0 and tag[2] <= side and tag[3] <= side
            if inside and not any(overlap(tag, other) for other in taken):
                tags.append(tag)
                break
        else:
            return None
    return tags


def overlap(a: Box, b: Box) -> bool:
    """Whether two boxes have a pixel in common."""
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


@cache
def _letters() -> tuple[np.ndarray, ...]:
    """uint8[high, wide, 3] each, white on red."""
    wide, high = TAG
    top = (high - _FONT) // 2 - 1

    @jax.jit
    def written(ids: Array) -> Array:
        paper = jnp.full((high, 2 * wide, 3), jnp.array(RED, jnp.uint8))
        return raster.text(paper, ids, wide, top, _FONT, (255, 255, 255), bold=True)

    ids = np.array([glyphs.encode(letter) for letter in LETTERS], np.int32)
    lefts = (wide - picture.advance(_FONT)[ids[:, 0]]) // 2  # in its own ground, so that it stands in the middle
    return tuple(
        np.asarray(written(one))[:, wide - left : 2 * wide - left] for one, left in zip(ids, lefts, strict=True)
    )
