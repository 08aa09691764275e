"""Playing cards: a large rank over a large suit, so that a card of 25 pixels can still be read.

Both stand at the left edge: of a card that lies under another one, that strip is what is seen.
"""

from __future__ import annotations

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, UInt8

from envs_jax.render import glyphs, raster

RANKS = ("A", "2", "3", "4", "5", "6", "7", "8", "9", "10", "J", "Q", "K")
SUITS = ("♥", "♠", "♦", "♣")
BAIZE = (0x35, 0x65, 0x4D)  # the table of RL4VLM's gym-cards
_RED, _BLACK = (200, 20, 30), (10, 10, 10)
_EDGE = (150, 150, 150)  # tells cards apart that lie one upon another
_BACK, _BACK_LINE = (40, 60, 140), (150, 165, 215)


def _rank_ids() -> np.ndarray:
    """Glyph ids int32[13, 2], -1 behind a single letter."""
    table = np.full((13, 2), -1, np.int32)
    for row, rank in zip(table, RANKS, strict=True):
        row[: len(rank)] = glyphs.encode(rank)
    return table


def card(
    height: int, width: int, rank: Int[Array, ""], suit: Int[Array, ""]
) -> UInt8[Array, "{height} {width} 3"]:
    """One card on the table's green.

    Args:
      height, width: pixels, 7 : 5 by custom.
      rank: int32[], index into RANKS.
      suit: int32[], index into SUITS.
    """
    image = raster.canvas(height, width, BAIZE)
    image = raster.rectangle(image, 0.0, 0.0, float(width), float(height), _EDGE, 0.08 * width)
    line = max(1.0, 0.015 * width)
    image = raster.rectangle(image, line, line, width - line, height - line, raster.WHITE, 0.08 * width - line)
    color = jnp.where(suit % 2 == 0, jnp.asarray(_RED), jnp.asarray(_BLACK))
    size = 0.52 * height
    margin = 0.04 * width
    image = raster.text(image, jnp.asarray(_rank_ids())[rank], margin, -0.06 * height, size, color, bold=True)
    suits = jnp.asarray(glyphs.encode("".join(SUITS)))
    return raster.text(image, suits[suit][None], margin, 0.44 * height, size, color)


def back(height: int, width: int) -> UInt8[Array, "{height} {width} 3"]:
    """A card that lies face down."""
    image = raster.canvas(height, width, BAIZE)
    image = raster.rectangle(image, 0.0, 0.0, float(width), float(height), raster.WHITE, 0.08 * width)
    rim = 0.06 * width
    image = raster.rectangle(image, rim, rim, width - rim, height - rim, _BACK, 0.06 * width)
    for i in range(1, 4):
        inner = rim + i * 0.1 * width
        color = _BACK_LINE if i % 2 else _BACK
        image = raster.rectangle(image, inner, inner, width - inner, height - inner, color, 0.04 * width)
    return image


@cache
def deck(height: int, width: int) -> np.ndarray:
    """All cards, uint8[52, height, width, 3], card `suit * 13 + rank`, drawn once a process."""
    with jax.ensure_compile_time_eval():
        numbers = jnp.arange(52, dtype=jnp.int32)
        draw = jax.jit(jax.vmap(lambda number: card(height, width, number % 13, number // 13)))
        return np.asarray(draw(numbers))
