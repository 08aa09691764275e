"""EZPoints: two cards that make 12, by "+" or by "*" (`points.py` has the rules)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import ClassVar

import numpy as np

from envs_jax import heldout
from envs_jax.cards.formula import PLUS, TIMES
from envs_jax.cards.plans import Plans, plans
from envs_jax.cards.points import Points, values_of

_TARGET = 12
# One sum and one product of the seven pairs, 21 in 100 of the hands of upstream's distribution.
_TEST = ((2, 6), (4, 8))


@dataclass(frozen=True)
class EZPoints(Points):
    """The world `cards/ez_points`, after gym_cards/envs/ezpoints.py.

    The first card is uniform on 2 to K; if it divides 12, the other one is, with equal chance, what it takes by
    "*" or by "+", otherwise what it takes by "+"; then the two change places with equal chance. A formula of more
    than five tokens truncates.

    Args:
      name: registered name.
      image_shape: (height, width, 3), at least 96 x 96; the layout is scaled to it.
      split: of hands. An instance is the pair of values, in any order; 2 with 6 and 4 with 8 are "test".
      faithful: formulas are read as Python's `eval` reads them, see `formula.py`.

    Raises:
      ValueError: an option is out of range.
    """

    name: str = "cards/ez_points"

    cards: ClassVar[int] = 2
    limit: ClassVar[int] = 5
    actions: ClassVar[tuple[str, ...]] = (*map(str, range(1, 11)), "+", "*", "=")
    instruction: ClassVar[str] = (
        "Write a formula that equals 12 with both cards, one number or sign at a time, then say =. "
        "J, Q and K count as 10."
    )
    font_size: ClassVar[int] = 20
    lines: ClassVar[tuple[tuple[str, int, int, int], ...]] = (("Formula: ", 258, 0, 6),)

    @property
    def _target(self) -> int:
        return _TARGET

    def _plans(self) -> Plans:
        return plans(self.cards, _TARGET, (PLUS, TIMES))

    def _hands(self) -> np.ndarray:
        return _deals(self.split)


@cache
def _deals(split: heldout.Split) -> np.ndarray:
    """Upstream's 12 first cards, each with two flips of a coin: equally likely ranks int8[hands, 2]."""
    deals = []
    for first in range(1, 13):
        value = int(values_of(np.int64(first)))
        for multiply in (False, True):
            second = _TARGET // value if multiply and _TARGET % value == 0 else _TARGET - value
            deals += [(first, second - 1), (second - 1, first)]
    table = np.array(deals, np.int8)
    test = np.array([tuple(sorted(values)) in _TEST for values in values_of(table.astype(int)).tolist()])
    return table[heldout.part(test, split)]
