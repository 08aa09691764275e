"""The few of many surfaces that a column of pixels shows, for a camera that looks level.

* Of a room full of things a column shows few: of the 111 sides, tops and panels of eighteen med kits never more
  than 16 in a thousand pictures. Which ones is known before any pixel is asked: what is flat spans an interval of
  a column's rows. A set of bits a column holds them; a pixel tests the members of its column's set, nothing else.
* The members are taken out of the sets a few at a time, until the fullest is empty: as often as the fullest column
  of the batch needs, so that none is ever left out. What is taken out is a table of columns, small beside the
  pixels, and carried into the next turn: a pixel reads it instead of doing a column's work again.
* Before each turn but the first the host asks whether there is one: surfaces of all kinds share the turns.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, UInt32

_BITS = 32  # of one word of a set


@dataclass(frozen=True)
class Many:
    """Many surfaces of one kind, V of them.

    Attributes:
      present: bool[V, W], which of them each column may show. Worked example: present[3] = [0, 1, 1, 0] has the
        surface 3 tested in the two middle ones of four columns. More than what is seen may be set, never less.
      read: what a test needs of surfaces int32[K, W], one number a column: a tuple of arrays [K, W]. Where the
        number is -1, the column's set was empty, and the test must give 0.
      test: of the rows of these, [W] each, the key of every pixel, int32[H, W].
      at_once: how many members are taken out of each set in one turn.
    """

    present: Bool[Array, "v w"]
    read: Callable[[Int[Array, "k w"]], tuple[Array, ...]]
    test: Callable[..., Int[Array, "h w"]]
    at_once: int


def search_few(best: Int[Array, "h w"], kinds: Sequence[Many]) -> Int[Array, "h w"]:
    """The largest of `best` and of all tests of the surfaces that a pixel's column may show."""
    sets = [_sets(kind.present) for kind in kinds]
    turns = [-(-_fullest(those) // kind.at_once) for kind, those in zip(kinds, sets, strict=True)]

    def taken(sets):
        pairs = [_taken(those, kind) for kind, those in zip(kinds, sets, strict=True)]
        return [those for those, _ in pairs], [tables for _, tables in pairs]

    def turn(carry):
        left, sets, tables, best = carry
        for kind, those in zip(kinds, tables, strict=True):
            for k in range(kind.at_once):
                best = jnp.maximum(best, kind.test(*(table[k] for table in those)))
        return left - 1, *taken(sets), best

    begin = functools.reduce(jnp.maximum, turns), *taken(sets), best
    return jax.lax.while_loop(lambda carry: carry[0] > 0, turn, turn(begin))[-1]


def _taken(sets: UInt32[Array, "n w"], kind: Many) -> tuple[UInt32[Array, "n w"], tuple[Array, ...]]:
    """The sets without the members of one turn, and what their tests need."""
    members = []
    for _ in range(kind.at_once):
        member, sets = _take(sets)
        members.append(member)
    return sets, kind.read(jnp.stack(members))


def _sets(present: Bool[Array, "v w"]) -> UInt32[Array, "n w"]:
    """The set of each column, member v as bit v % 32 of word v // 32.

    Worked example: [[1, 0], [0, 0], [1, 1]] (three surfaces, two columns) is one word a column, 5 and 4.
    """
    # One expression: a sum over an axis of bits took three times as long on GPU.
    bits = [jnp.where(row, jnp.uint32(1 << v % _BITS), jnp.uint32(0)) for v, row in enumerate(present)]
    words = [bits[first : first + _BITS] for first in range(0, len(bits), _BITS)]
    return jnp.stack([functools.reduce(jnp.bitwise_or, word) for word in words])


def _fullest(sets: UInt32[Array, "n w"]) -> Int[Array, ""]:
    """How many members the fullest set has."""
    return jnp.max(jnp.sum(jax.lax.population_count(sets), axis=0, dtype=jnp.uint32)).astype(jnp.int32)


def _take(sets: UInt32[Array, "n w"]) -> tuple[Int[Array, " w"], UInt32[Array, "n w"]]:
    """The largest member of each set, -1 of an empty one, and the sets without it."""
    word = jnp.arange(len(sets), dtype=jnp.int32)[:, None]
    highest = _BITS - 1 - jax.lax.clz(sets).astype(jnp.int32)  # -1 of an empty word
    member = jnp.max(jnp.where(sets > 0, _BITS * word + highest, -1), axis=0)
    mine = (member >= 0) & (member // _BITS == word)
    bit = jnp.uint32(1) << (member % _BITS).astype(jnp.uint32)
    return member, jnp.where(mine, sets & ~bit, sets)
