"""How to make a hand come to its target: every formula without needless brackets, found on the host, as tables.

The values of a hand, 1 to 10 each, are its instance: their order and suits change nothing about the solution.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cache

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from envs_jax.cards.formula import CLOSE, MINUS, OPEN, OVER, PLUS, TIMES, TOKENS

MOST_PLANS = 64  # kept of one hand, of the shortest those that begin in as many ways as possible
_LONGEST = 11  # tokens: four numbers, three operators, two pairs of brackets
_PRECEDENCE = {PLUS: 1, MINUS: 1, TIMES: 2, OVER: 2}


@dataclass(frozen=True, eq=False)
class Plans:
    """The solutions of all hands of n cards.

    Attributes:
      row: int32[10**n], for a hand's values v as digits v - 1, most significant first, in any order: its row in
        `tokens`, or -1 if it has no solution.
      tokens: int8[hands, plans, 11], indices into `formula.TOKENS`, -1 behind a plan's end and in rows without a
        plan. The first plan of a hand is the simplest one.
    """

    row: np.ndarray
    tokens: np.ndarray

    def of(self, values: Int[Array, " n"]) -> Int[Array, "plans 11"]:
        """The plans of one hand, int32[plans, 11], all -1 without a solution."""
        number = jnp.int32(0)
        for i in range(values.shape[0]):
            number = number * 10 + values[i] - 1
        row = jnp.asarray(self.row)[number]
        plans = jnp.asarray(self.tokens)[jnp.maximum(row, 0)]
        return jnp.where(row >= 0, plans, -1).astype(jnp.int32)


@cache
def plans(cards: int, target: int, operators: tuple[int, ...]) -> Plans:
    """Solves all hands; takes about a second for four cards.

    A solution is right in fractions and in float64: what is only right in one of them (8 / (3 - 8 / 3)) is kept
    only where a hand has no other.

    Args:
      cards: how many, 2 to 4.
      target: what they shall come to.
      operators: tokens of those that may be used.
    """
    hands = np.array(list(itertools.product(range(1, 11), repeat=cards)))
    exact: dict[tuple, set] = {}
    float_true: dict[tuple, set] = {}
    for shape in _shapes(0, cards):
        for signs in itertools.product(operators, repeat=cards - 1):
            tree = _with_signs(shape, iter(signs))
            if not _plain(tree):
                continue
            with np.errstate(all="ignore"):
                over, under = _fraction(tree, hands.T)
                hits = (under != 0) & (over == target * under)
                if not hits.any():
                    continue
                good_floats = _floats(tree, hands.T.astype(np.float64)) == target
            for place in np.flatnonzero(hits):
                key = tuple(sorted(hands[place].tolist()))
                text = tuple(_write(tree, hands[place].tolist()))
                exact.setdefault(key, set()).add(text)
                if good_floats[place]:
                    float_true.setdefault(key, set()).add(text)
    keys = sorted(exact)
    chosen = [_choose(float_true.get(key) or exact[key]) for key in keys]
    tokens = np.full((max(len(keys), 1), max(map(len, chosen), default=1), _LONGEST), -1, np.int8)
    for row, texts in zip(tokens, chosen, strict=False):
        for plan, text in zip(row, texts, strict=False):
            plan[: len(text)] = text
    numbers = {key: i for i, key in enumerate(keys)}
    row = np.array([numbers.get(tuple(sorted(hand)), -1) for hand in hands.tolist()], np.int32)
    return Plans(row, tokens)


def _choose(texts: set[tuple]) -> list[tuple]:
    """At most MOST_PLANS, the simplest first; then in turns of each first two tokens."""

    def effort(text):
        return len(text), text.count(OVER), text.count(MINUS), [-token for token in text]

    ordered = sorted(texts, key=effort)
    turns: dict[tuple, int] = {}
    ranked = []
    for i, text in enumerate(ordered):
        turn = turns[text[:2]] = turns.get(text[:2], -1) + 1
        ranked.append((turn if i else -1, i))
    return [ordered[i] for _, i in sorted(ranked)[:MOST_PLANS]]


def _shapes(first: int, count: int) -> list:
    """All binary trees over the leaves first .. first + count - 1."""
    if count == 1:
        return [first]
    return [
        (left, right)
        for split in range(1, count)
        for left in _shapes(first, split)
        for right in _shapes(first + split, count - split)
    ]


def _with_signs(shape, signs):
    """(sign, left, right) at every node."""
    if isinstance(shape, int):
        return shape
    return next(signs), _with_signs(shape[0], signs), _with_signs(shape[1], signs)


def _plain(tree) -> bool:
    """False for a + (b - c) and a * (b / c), which are written without brackets as another tree."""
    if isinstance(tree, int):
        return True
    sign, left, right = tree
    again = not isinstance(right, int) and sign in (PLUS, TIMES) and _PRECEDENCE[right[0]] == _PRECEDENCE[sign]
    return not again and _plain(left) and _plain(right)


def _fraction(tree, columns):
    """Numerators and denominators int64[hands]; a denominator 0 stays 0 all the way up."""
    if isinstance(tree, int):
        return columns[tree], np.ones_like(columns[tree])
    sign, (p, q), (r, s) = tree[0], _fraction(tree[1], columns), _fraction(tree[2], columns)
    if sign == OVER:
        return p * s, q * r * (s != 0)
    over = {PLUS: p * s + r * q, MINUS: p * s - r * q, TIMES: p * r}[sign]
    return over, q * s


def _floats(tree, columns):
    """What Python's floats make of it; its ints are small enough to be the same."""
    if isinstance(tree, int):
        return columns[tree]
    left, right = _floats(tree[1], columns), _floats(tree[2], columns)
    return {PLUS: np.add, MINUS: np.subtract, TIMES: np.multiply, OVER: np.divide}[tree[0]](left, right)


def _write(tree, values) -> list[int]:
    """Tokens with the brackets that it needs."""
    if isinstance(tree, int):
        return [TOKENS.index(str(values[tree]))]
    sign, left, right = tree
    return [*_inside(left, sign, False, values), sign, *_inside(right, sign, True, values)]


def _inside(tree, sign, on_the_right, values) -> list[int]:
    text = _write(tree, values)
    if isinstance(tree, int):
        return text
    rank, outer = _PRECEDENCE[tree[0]], _PRECEDENCE[sign]
    needed = rank < outer or (on_the_right and rank == outer and sign in (MINUS, OVER))
    return [OPEN, *text, CLOSE] if needed else text
