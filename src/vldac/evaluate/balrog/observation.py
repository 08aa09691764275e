"""What a game shows: text, in the two parts that the history treats apart, and a picture."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Observation:
    """Attributes:
    long_term: the text that stays in the history.
    short_term: the text that is only told of the present, such as an inventory; "" where there is none.
    image: uint8[H, W, 3], or None.
    """

    long_term: str
    short_term: str = ""
    image: np.ndarray | None = None
