"""Draws a page from its elements.

* Where elements lie is fixed for each page, so a program holds for every pixel the number of the element whose
  ground is there and of the one whose text is (`layout.tables`); drawing is a few gathers per pixel, however many
  elements there are.
* Letters are `raster.text`'s, drawn once on the host into a table; a pixel of a line of text is found by the word
  that its column falls in, then by the column within the word. They look as `raster.text` would write them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, UInt8

from envs_jax.render import glyphs, raster
from envs_jax.shop import icons, layout
from envs_jax.shop.catalogue import Catalogue
from envs_jax.shop.page import Elements

_PAGE = (250, 250, 248)
# Kind: ground, border, ink.
_COLORS = {
    layout.TEXT: (_PAGE, _PAGE, (25, 25, 30)),
    layout.LINK: (_PAGE, _PAGE, (20, 80, 190)),
    layout.BUTTON: ((52, 110, 190), (35, 80, 150), (255, 255, 255)),
    layout.BUY: ((235, 130, 20), (185, 95, 5), (255, 255, 255)),
    layout.RADIO: ((228, 230, 234), (165, 168, 175), (25, 25, 30)),
    layout.INPUT: ((255, 255, 255), (110, 115, 125), (120, 120, 125)),
    layout.IMAGE: ((255, 255, 255), (205, 205, 205), (0, 0, 0)),
    layout.CARD: ((255, 255, 255), (200, 203, 210), (0, 0, 0)),
    layout.BAR: ((30, 45, 75), (30, 45, 75), (255, 255, 255)),
    layout.PANEL: ((255, 246, 205), (220, 200, 130), (0, 0, 0)),
}
_CHOSEN = ((30, 130, 70), (15, 85, 45), (255, 255, 255))  # an option that is chosen
_EDGE = (45, 45, 50)  # of a picture's shape
_PLAIN_TINT = (150, 120, 90)  # goods that come in no colour: cardboard


@dataclass(frozen=True, eq=False)
class Letters:
    """Phrases as columns of ink.

    Attributes:
      ink: uint8[fonts, rows, columns], every glyph's cell beside the other, 0..255.
      column: int16[fonts, phrases, W], for each pixel column of a phrase one of `ink`, -1 after its end.
      width: int16[fonts, phrases], pixels.
      space: int32[fonts], pixels of a space.
    """

    ink: np.ndarray
    column: np.ndarray
    width: np.ndarray
    space: np.ndarray

    @classmethod
    def build(cls, phrases: tuple[str, ...], scale: int) -> Letters:
        """The table of all phrases in all fonts."""
        rows = max(round(1.3 * size * scale) for size, _ in layout.FONTS) + scale
        sheets, starts, advances = [], [], []
        for size, bold in layout.FONTS:
            cells = advance(size * scale)
            sheets.append(_sheet(size * scale, bold, rows, int(cells.sum())))
            starts.append(np.cumsum(cells) - cells)
            advances.append(cells)
        encoded = [np.asarray(glyphs.encode(phrase), np.int32) for phrase in phrases]
        width = np.array([[cells[ids].sum() for ids in encoded] for cells in advances], np.int16)
        column = np.full((*width.shape, width.max()), -1, np.int16)
        for font, (first, cells) in enumerate(zip(starts, advances, strict=True)):
            for phrase, ids in enumerate(encoded):
                columns = [first[glyph] + np.arange(cells[glyph]) for glyph in ids]
                column[font, phrase, : width[font, phrase]] = np.concatenate(columns)
        ink = np.zeros((len(sheets), rows, max(sheet.shape[1] for sheet in sheets)), np.uint8)
        for page, sheet in zip(ink, sheets, strict=True):
            page[:, : sheet.shape[1]] = sheet
        space = np.array([cells[glyphs.SPACE] for cells in advances], np.int32)
        return cls(ink, column, width, space)


def advance(size: int) -> np.ndarray:
    """int32[glyphs], pixels from one glyph to the next as `raster.text` sets them."""
    unit = max(1, round(4 * size / glyphs.UNITS)) / 4
    return np.floor(glyphs.atlas().advance * unit + 0.5).astype(np.int32)


def _sheet(size: int, bold: bool, rows: int, width: int) -> np.ndarray:
    """uint8[rows, width], every glyph in a row, black = 255."""
    with jax.ensure_compile_time_eval():  # a table of the host, even where a caller is being traced
        ids = np.arange(len(glyphs.CHARACTERS), dtype=np.int32)
        write = jax.jit(lambda paper, ids: raster.text(paper, ids, 0, 0, size, bold=bold))
        paper = np.full((rows, width, 3), 255, np.uint8)
        return 255 - np.asarray(write(paper, ids))[:, :, 0]


@cache
def letters(phrases: tuple[str, ...], scale: int) -> Letters:
    """`Letters.build`, once."""
    return Letters.build(phrases, scale)


@cache
def _pictures(scale: int) -> tuple[np.ndarray, np.ndarray]:
    """uint8[2, icons, side, side, 2], small and large, and int32[2], their sides."""
    sides = np.array([layout.SMALL_IMAGE, layout.LARGE_IMAGE], np.int32) * scale
    table = np.zeros((2, len(icons.SHAPES), sides[1], sides[1], 2), np.uint8)
    for rows, side in zip(table, sides, strict=True):
        rows[:, :side, :side] = icons.atlas(int(side))
    return table, sides


def draw(
    goods: Catalogue, phrases: tuple[str, ...], page: Int[Array, ""], found: Elements, scale: int
) -> UInt8[Array, "h w 3"]:
    """The picture of a page.

    Args:
      goods: for colours and shapes of products.
      phrases: what the elements' texts are of.
      page: which, of `layout.PAGES`.
      found: its elements.
      scale: pixels per pixel of the layout.
    """
    tables = layout.tables(scale)
    side = layout.SIDE * scale
    at = jnp.arange(side)
    scheme = np.stack([np.array(_COLORS[kind]) for kind in range(len(layout.KINDS))])  # [kinds, 3, rgb]
    colors = jnp.asarray(scheme)[jnp.maximum(found.kind, 0)]  # [E, 3, rgb]
    colors = jnp.where(found.chosen[:, None, None], jnp.asarray(_CHOSEN), colors)

    # Grounds and borders. One row more for pixels of no element.
    number = jnp.asarray(tables.ground)[page].astype(jnp.int32)  # [H, W], -1 = the last row
    number = jnp.where(jnp.append(found.shown, False)[number], number, -1)
    box = jnp.concatenate([found.box, jnp.full((1, 4), -(4 * side))])[number]  # [H, W, 4]
    x, y = at[None, :], at[:, None]
    near_x = jnp.minimum(x - box[..., 0], box[..., 2] - 1 - x)
    near_y = jnp.minimum(y - box[..., 1], box[..., 3] - 1 - y)
    edge = (jnp.minimum(near_x, near_y) < scale) & (number >= 0)
    corner = (jnp.maximum(near_x, near_y) < scale) & (number >= 0)  # left out: round corners
    plain = jnp.full((1, 3), jnp.asarray(_PAGE))
    ground = jnp.concatenate([colors[:, 0], plain])[number]
    border = jnp.concatenate([colors[:, 1], plain])[number]
    image = jnp.where(edge[..., None], border, ground)
    image = jnp.where(corner[..., None], jnp.asarray(_PAGE), image).astype(jnp.float32)

    # Pictures of goods.
    table, sides = _pictures(scale)
    pictured = jnp.append((found.kind == layout.IMAGE) & found.shown, False)
    wide = jnp.append(found.box[:, 2] - found.box[:, 0] > sides[0], False).astype(jnp.int32)
    shape = jnp.append(jnp.asarray(goods.icon)[jnp.maximum(found.product, 0)].astype(jnp.int32), 0)
    tint = jnp.where(
        (found.tint >= 0)[:, None], jnp.asarray(goods.rgb)[jnp.maximum(found.tint, 0)], jnp.asarray(_PLAIN_TINT)
    )
    tint = jnp.concatenate([tint, jnp.zeros((1, 3))])[number]
    inside = jnp.clip(jnp.stack([y - box[..., 1], x - box[..., 0]], -1), 0, sides[1] - 1)
    cover = jnp.asarray(table)[wide[number], shape[number], inside[..., 0], inside[..., 1]] / 255.0
    cover = jnp.where(pictured[number][..., None], cover, 0.0)
    image += cover[..., :1] * (tint - image)
    image += cover[..., 1:] * (jnp.asarray(_EDGE) - image)

    # Text: columns of every element, then of every pixel.
    font = jnp.asarray(tables.font)[page]
    columns = jax.vmap(lambda ids, font: _columns(letters(phrases, scale), ids, font, side))(found.text, font)
    line = jnp.asarray(tables.line)[page].astype(jnp.int32)
    start = jnp.asarray(tables.text)[page][line]  # [H, W, 2]; where line is -1 the ink is left out below
    column = columns[line, jnp.clip(x - start[..., 0], 0, side - 1)]
    sheet = jnp.asarray(letters(phrases, scale).ink)
    ink = sheet[font[line], jnp.clip(y - start[..., 1], 0, sheet.shape[1] - 1), jnp.maximum(column, 0)]
    ink = jnp.where((line >= 0) & (column >= 0), ink, 0).astype(jnp.float32) / 255
    image += ink[..., None] * (colors[:, 2][line] - image)
    return jnp.round(image).astype(jnp.uint8)


def _columns(table: Letters, ids: Int[Array, " t"], font: Int[Array, ""], width: int) -> Int[Array, " {width}"]:
    """For each pixel column of a line of text one of `Letters.ink`, -1 = none.

    Worked example, phrases of 20 and 30 pixels, a space of 3: columns 0..19 are the first's, 20..22 none, 23..52
    the second's.
    """
    known = ids >= 0
    row = jnp.maximum(ids, 0)
    cell = jnp.where(
        known, jnp.asarray(table.width)[font, row].astype(jnp.int32) + jnp.asarray(table.space)[font], 0
    )
    ends = jnp.cumsum(cell)
    at = jnp.arange(width)
    word = jnp.minimum((at[:, None] >= ends).sum(axis=1), len(ids) - 1)
    local = at - (ends - cell)[word]
    longest = table.column.shape[2]
    column = jnp.asarray(table.column)[font, row[word], jnp.minimum(local, longest - 1)].astype(jnp.int32)
    return jnp.where((at < ends[-1]) & (local < longest), column, -1)
