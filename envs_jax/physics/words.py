"""Colours, shapes and the phrases that are put together of them."""

from __future__ import annotations

import numpy as np

COLOURS = {
    "red": (214, 40, 40),
    "green": (40, 160, 60),
    "blue": (40, 84, 210),
    "yellow": (240, 200, 20),
    "purple": (150, 60, 180),
    "cyan": (40, 190, 205),
}
NAMES = tuple(COLOURS)
RGB = np.array(list(COLOURS.values()), np.float32)
SHAPES = ("square", "disc", "diamond")

# Directions: id, word and unit vector. The eye looks along +y, "forward".
DIRECTIONS = ("left", "right", "forward", "back")
VECTORS = np.array([(-1, 0), (1, 0), (0, 1), (0, -1)], np.int32)

LATTICE = 0.025  # metres, the grid on which the pusher is put down
LONG, SHORT = 4, 1  # cells of it
ACTIONS = tuple(f"move {word}" for word in DIRECTIONS) + tuple(f"nudge {word}" for word in DIRECTIONS)

PHRASES = (
    *NAMES,
    *SHAPES,
    "push",
    "to",
    "reach",
    "sort",
    "and",
    "puck",
    *(f"goal {word}" for word in DIRECTIONS),
    *(f"push {word}" for word in DIRECTIONS),
    *(f"go {word}" for word in DIRECTIONS),
    "far",
    "near",
    "done",
)
ID = {phrase: number for number, phrase in enumerate(PHRASES)}

# All that may stand above a picture.
GOALS = (
    *(f"push {puck} to {pad}" for puck in NAMES for pad in NAMES),
    *(f"sort {one} and {two}" for one in NAMES for two in NAMES if one != two),
    *(f"reach {colour} {shape}" for colour in NAMES for shape in SHAPES),
)
