"""Points24: four cards that make 24, by the four operations and brackets (`points.py` has the rules)."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cache
from typing import ClassVar

import numpy as np

from envs_jax import heldout, options
from envs_jax.cards.formula import MINUS, OVER, PLUS, TIMES
from envs_jax.cards.plans import Plans, plans
from envs_jax.cards.points import Points, values_of


@dataclass(frozen=True)
class Points24(Points):
    """The world `cards/points24`, after gym_cards/envs/points.py.

    Four cards, each uniform on A to K. A formula of more than 20 tokens truncates.

    Args:
      name: registered name.
      image_shape: (height, width, 3), at least 96 x 96; the layout is scaled to it.
      target: what the cards shall come to, 2 to 99.
      solvable: only hands that have a solution by the four operations are dealt, with upstream's chances among
        them; False deals all hands, as upstream does.
      split: of hands. An instance is the four values, in any order; about one in five is "test", by a fixed hash.
      faithful: formulas are read as Python's `eval` reads them, see `formula.py`.

    Raises:
      ValueError: an option is out of range, or the split has no hand with a solution.
    """

    name: str = "cards/points24"
    target: int = 24
    solvable: bool = True

    cards: ClassVar[int] = 4
    limit: ClassVar[int] = 20
    actions: ClassVar[tuple[str, ...]] = (*map(str, range(1, 11)), "+", "-", "*", "/", "(", ")", "=")
    font_size: ClassVar[int] = 16
    lines: ClassVar[tuple[tuple[str, int, int, int], ...]] = (
        ("Formula:", 210, 0, 0),
        ("", 240, 0, 11),
        ("", 269, 11, 21),
    )

    def __post_init__(self):
        super().__post_init__()
        if type(self.target) is not int or not 2 <= self.target <= 99:
            raise ValueError(f"target is {self.target!r}; accepted: an int from 2 to 99")
        options.check_bool("solvable", self.solvable)
        if not len(self._hands()):
            raise ValueError(f"target is {self.target}; accepted: one that a hand of split {self.split!r} has")

    @property
    def instruction(self) -> str:
        """The task in words."""
        return (
            f"Write a formula that equals {self.target} with all four cards, one number or sign at a time, then "
            "say =. J, Q and K count as 10."
        )

    @property
    def _target(self) -> int:
        return self.target

    def _plans(self) -> Plans:
        return plans(self.cards, self.target, (PLUS, MINUS, TIMES, OVER))

    def _hands(self) -> np.ndarray:
        return _deals(self.target, self.solvable, self.split)


@cache
def _deals(target: int, solvable: bool, split: heldout.Split) -> np.ndarray:
    """Equally likely ranks int8[hands, 4]."""
    table = np.array(list(itertools.product(range(13), repeat=4)), np.int8)
    digits = np.sort(values_of(table.astype(np.int64)) - 1, axis=1)
    number = digits @ 10 ** np.arange(4)[::-1]
    wanted = heldout.part(heldout.numbers_are_test(number), split)
    if solvable:
        wanted &= plans(4, target, (PLUS, MINUS, TIMES, OVER)).row[number] >= 0
    return table[wanted]
