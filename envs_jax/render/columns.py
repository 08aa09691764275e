"""The few of many surfaces that a column of pixels shows, for a camera that looks level.

* Of a room full of things a column shows few: of the 111 sides, tops and panels of eighteen med kits never more
  than 16 in a thousand pictures. Which ones is known before any pixel is asked: what is flat spans an interval of
  a column's rows. A set of bits a column holds them; a pixel tests the members of its column's set, nothing else.
* The members are taken out of the sets a few at a time, until the fullest is empty: as often as the fullest column
  of the batch needs, so that none is ever left out. What is taken out is a table of columns, small beside the
  pixels, and carried into the next turn: a pixel reads it instead of doing a column's work again.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, UInt32

_BITS = 32  # of one word of a set


def search_few(
    image_size: tuple[int, int],
    present: Bool[Array, "v w"],
    read: Callable[[Int[Array, "k w"]], tuple[Array, ...]],
    test: Callable[..., Int[Array, "h w"]],
    at_once: int,
) -> Int[Array, "h w"]:
    """The largest of `test` over the surfaces that a pixel's column may show, 0 if none is positive.

    Args:
      image_size: (height, width).
      present: which surfaces each column may show. Worked example: present[3] = [0, 1, 1, 0] has the surface 3
        tested in the two middle ones of four columns. More than what is seen may be set, never less.
      read: what a test needs of surfaces int32[K, W], one number a column: a tuple of arrays [K, W]. Where the
        number is -1, the column's set was empty, and the test must give 0.
      test: of the rows of these, [W] each, the key of every pixel, int32[H, W].
      at_once: how many members are taken out of each set at once.
    """

    def taken(sets):
        members = []
        for _ in range(at_once):
            member, sets = _take(sets)
            members.append(member)
        return sets, read(jnp.stack(members))

    def more(carry):
        return carry[0] > 0

    def once(carry):
        left, sets, tables, best = carry
        for k in range(at_once):
            best = jnp.maximum(best, test(*(table[k] for table in tables)))
        return left - at_once, *taken(sets), best

    fullest = jnp.max(jnp.sum(present, axis=0, dtype=jnp.int32))
    begin = fullest, *taken(_sets(present)), jnp.zeros(image_size, jnp.int32)
    return jax.lax.while_loop(more, once, begin)[-1]


def _sets(present: Bool[Array, "v w"]) -> UInt32[Array, "n w"]:
    """The set of each column, member v as bit v % 32 of word v // 32.

    Worked example: [[1, 0], [0, 0], [1, 1]] (three surfaces, two columns) is one word a column, 5 and 4.
    """
    count, width = present.shape
    words = -(-count // _BITS)
    padded = jnp.pad(present, ((0, words * _BITS - count), (0, 0))).reshape(words, _BITS, width)
    bits = jnp.uint32(1) << jnp.arange(_BITS, dtype=jnp.uint32)
    return jnp.sum(jnp.where(padded, bits[:, None], 0), axis=1, dtype=jnp.uint32)


def _take(sets: UInt32[Array, "n w"]) -> tuple[Int[Array, " w"], UInt32[Array, "n w"]]:
    """The largest member of each set, -1 of an empty one, and the sets without it."""
    word = jnp.arange(len(sets), dtype=jnp.int32)[:, None]
    highest = _BITS - 1 - jax.lax.clz(sets).astype(jnp.int32)  # -1 of an empty word
    member = jnp.max(jnp.where(sets > 0, _BITS * word + highest, -1), axis=0)
    mine = (member >= 0) & (member // _BITS == word)
    bit = jnp.uint32(1) << (member % _BITS).astype(jnp.uint32)
    return member, jnp.where(mine, sets & ~bit, sets)
