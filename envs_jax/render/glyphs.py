"""Letters, digits and card suits, drawn by the project itself, as one atlas of distances.

* A glyph is a few pen strokes, written below as corners; corners may be rounded. No font file is read.
* The atlas holds each texel's distance to the pen's path, not a picture: one small atlas gives sharp text of any
  size and weight, because the weight is only the distance at which the ink ends (`raster.text`).
* One unit is a tenth of the font size. Capitals are 6 units high from path to path, small letters 4; with the
  pen's width that is the proportion of a common bold sans serif (cap height 0.73 of the size).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

UNITS = 10  # of one font size (em)
BEARING = 1.0  # units from the border of a glyph's cell to x = 0, on both sides
RISE = 0.93  # of the font size: the baseline below the top of the line
BOTTOM, TOP = -4.5, 8.5  # units, the cell's vertical range; y = 0 is the path of a letter that stands
TEXELS = 4  # of one unit
FURTHEST = 2.55  # units; greater distances are stored as this
_CURVE = 8  # straight pieces of one rounded corner
_DOT = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * 0.15  # units

# Character: width in units, then strokes apart by "/". A stroke is its corners "x,y"; "~" rounds a corner as far
# as the middle of the edge to a rounded neighbour, or all the way to a sharp one. A stroke that ends in "z" is
# closed, one that ends in "f" is closed and filled. A single point is a dot, a little wider than the pen.
_STROKES = {
    " ": "2",
    "!": "0.6 0.3,6.4 0.3,2.2 / 0.3,0",
    '"': "2.2 0.2,6.4 0.2,4.6 / 2,6.4 2,4.6",
    "#": "4.8 1.8,6.2 0.9,-0.2 / 3.9,6.2 3,-0.2 / 0.3,4.1 4.7,4.1 / 0.1,1.9 4.5,1.9",
    "$": "3.9 3.7,4.6 3.7,5.6~ 0.1,5.6~ 0.1,3.2~ 3.9,2.8~ 3.9,0.2~ 0,0.2~ 0,1.3 / 1.9,7 1.9,-1.2",
    "%": "6 0,6.2~ 2.2,6.2~ 2.2,3.2~ 0,3.2~ z / 3.8,2.8~ 6,2.8~ 6,-0.2~ 3.8,-0.2~ z / 4.9,6.2 1.1,-0.2",
    "&": "4.6 4.6,0 0.9,4~ 0.9,6~ 3.3,6~ 3.3,3.9~ 0,3~ 0,0~ 3.9,0~ 4.3,2.8",
    "'": "0.4 0.2,6.4 0.2,4.6",
    "(": "1.6 1.5,7 0.1,5.2~ 0.1,0.6~ 1.5,-1.2",
    ")": "1.6 0.1,7 1.5,5.2~ 1.5,0.6~ 0.1,-1.2",
    "*": "3.4 1.7,6.4 1.7,2.8 / 0.2,5.5 3.2,3.7 / 0.2,3.7 3.2,5.5",
    "+": "4 2,4.8 2,0.4 / -0.2,2.6 4.2,2.6",
    ",": "0.8 0.5,0.1 0.1,-1.5",
    "-": "2.6 0.1,2.4 2.5,2.4",
    ".": "0.6 0.3,0",
    "/": "3 0,-0.9 3,6.6",
    "0": "4 0.1,6~ 3.9,6~ 3.9,0~ 0.1,0~ z",
    "1": "4 0.4,5 2.2,6 2.2,0 / 0.5,0 3.9,0",
    "2": "4 0.1,4.9 0.2,6~ 3.8,6~ 3.8,3.4~ 2.4,2 0,0 4,0",
    "3": "4 0,5.6 1,6~ 3.7,6~ 3.7,3.2~ 1.4,3.2 / 1.4,3.2 4,3.2~ 4,0~ 1,0~ -0.1,0.4",
    "4": "4 3.1,0 3.1,6 0,1.8 4.3,1.8",
    "5": "4 3.8,6 0.3,6 0.2,3.3 1.3,3.7~ 4,3.8~ 4,0~ 1.2,0~ -0.1,0.3",
    "6": "4 3.5,5.8 0,6.4~ 0,2 / 0,3.8~ 4,3.8~ 4,0~ 0,0~ z",
    "7": "4 0,6 4,6 1.5,0",
    "8": "4 0.3,6~ 3.7,6~ 3.7,3.2~ 0.3,3.2~ z / 0,3.2~ 4,3.2~ 4,0~ 0,0~ z",
    "9": "4 0.5,0.2 4,-0.4~ 4,4 / 4,2.2~ 0,2.2~ 0,6~ 4,6~ z",
    ":": "0.6 0.3,3.8 / 0.3,0",
    ";": "0.8 0.5,3.8 / 0.5,0.1 0.1,-1.5",
    "<": "4 4,5 0,2.6 4,0.2",
    "=": "4 0,3.7 4,3.7 / 0,1.4 4,1.4",
    ">": "4 0,5 4,2.6 0,0.2",
    "?": "3.4 0,5.2 0.1,6.2~ 3.4,6.2~ 3.4,3.9~ 1.6,3.2 1.6,1.9 / 1.6,0",
    "@": "6.4 4.4,3.9~ 2,3.9~ 2,0.8~ 4.4,0.8~ z"
    " / 4.4,3.9 4.4,1.2 4.8,0.6~ 6.4,0.8~ 6.4,6.4~ 0,6.4~ 0,-1.6~ 5.2,-1.4",
    "A": "4.8 0,0 2.4,6 4.8,0 / 0.9,1.8 3.9,1.8",
    "B": "4.2 0,0 0,6 1.9,6 3.9,6~ 3.9,3.2~ 1.9,3.2 0,3.2 / 1.9,3.2 4.2,3.2~ 4.2,0~ 1.9,0 0,0",
    "C": "4.3 4.2,5 4,6~ 0,6~ 0,0~ 4,0~ 4.2,1",
    "D": "4.6 0,0 0,6 1.6,6 4.6,6~ 4.6,0~ 1.6,0 0,0",
    "E": "3.7 3.7,6 0,6 0,0 3.7,0 / 0,3.1 3.2,3.1",
    "F": "3.6 3.6,6 0,6 0,0 / 0,3 3.1,3",
    "G": "4.5 4.3,5 4,6~ 0,6~ 0,0~ 4.4,0~ 4.4,2.7 2.6,2.7",
    "H": "4.4 0,0 0,6 / 4.4,0 4.4,6 / 0,3.1 4.4,3.1",
    "I": "2.4 0,6 2.4,6 / 0,0 2.4,0 / 1.2,0 1.2,6",
    "J": "3 0.8,6 3,6 3,2 3,0~ 0.2,0~ 0,0.8",
    "K": "4.4 0,0 0,6 / 4.2,6 0.1,2.3 / 1.5,3.6 4.4,0",
    "L": "3.5 0,6 0,0 3.5,0",
    "M": "5.4 0,0 0,6 2.7,1.8 5.4,6 5.4,0",
    "N": "4.4 0,0 0,6 4.4,0 4.4,6",
    "O": "5 0,6~ 5,6~ 5,0~ 0,0~ z",
    "P": "4 0,0 0,6 2,6 4.1,6~ 4.1,2.7~ 2,2.7 0,2.7",
    "Q": "5 0,6~ 5,6~ 5,0~ 0,0~ z / 3,1.7 5,-0.9",
    "R": "4.4 0,0 0,6 2,6 4.1,6~ 4.1,2.8~ 2,2.8 0,2.8 / 2.2,2.8 4.4,0",
    "S": "4 3.8,5.2 3.7,6~ 0.1,6~ 0.1,3.3~ 4,2.9~ 4,0~ 0.1,0~ 0,0.9",
    "T": "4.6 0,6 4.6,6 / 2.3,6 2.3,0",
    "U": "4.4 0,6 0,2 0,0~ 4.4,0~ 4.4,2 4.4,6",
    "V": "4.8 0,6 2.4,0 4.8,6",
    "W": "6.6 0,6 1.6,0 3.3,5.2 5,0 6.6,6",
    "X": "4.6 0,6 4.6,0 / 0,0 4.6,6",
    "Y": "4.6 0,6 2.3,2.8 4.6,6 / 2.3,2.8 2.3,0",
    "Z": "4.4 0,6 4.4,6 0,0 4.4,0",
    "[": "1.4 1.4,7 0,7 0,-1.2 1.4,-1.2",
    "\\": "3 0,6.6 3,-0.9",
    "]": "1.4 0,7 1.4,7 1.4,-1.2 0,-1.2",
    "^": "3.8 0,3.6 1.9,6.2 3.8,3.6",
    "_": "4 -0.6,-1.6 4.6,-1.6",
    "`": "1.4 0,6.6 1.4,5.2",
    "a": "3.5 0.3,3.5 0.5,4~ 3.5,4.1~ 3.5,2.4 3.5,0 / 3.5,2.3 1.8,2.3 0,2.3~ 0,0~ 3.5,0~ 3.5,1.6",
    "b": "3.8 0,6.6 0,0 / 0,4~ 3.8,4~ 3.8,0~ 0,0~ z",
    "c": "3.2 3.2,3.5 3,4~ 0,4~ 0,0~ 3,0~ 3.2,0.5",
    "d": "3.8 3.8,6.6 3.8,0 / 0,4~ 3.8,4~ 3.8,0~ 0,0~ z",
    "e": "3.7 0.2,1.9 3.7,1.9 3.7,4~ 0,4~ 0,0~ 3.2,0~ 3.5,0.5",
    "f": "2.4 2.6,6.6 1,6.7~ 1,4.9 1,0 / 0,4 2.4,4",
    "g": "3.8 0,4~ 3.8,4~ 3.8,0~ 0,0~ z / 3.8,4 3.8,-0.6 3.8,-2.1~ 0.6,-2.1~ 0.3,-1.7",
    "h": "3.6 0,6.6 0,0 / 0,2.2 0,4~ 3.6,4~ 3.6,2.2 3.6,0",
    "i": "0.4 0.2,4 0.2,0 / 0.2,6.3",
    "j": "1.2 1,4 1,-0.7 1,-2.1~ -0.3,-2.1 / 1,6.3",
    "k": "3.6 0,6.6 0,0 / 3.4,4 0.2,1.6 / 1.2,2.4 3.6,0",
    "l": "1.2 0,6.6 0,1.2 0,0~ 1.2,0",
    "m": "6 0,4 0,0 / 0,2.2 0,4~ 3,4~ 3,2.2 3,0 / 3,2.2 3,4~ 6,4~ 6,2.2 6,0",
    "n": "3.6 0,4 0,0 / 0,2.2 0,4~ 3.6,4~ 3.6,2.2 3.6,0",
    "o": "3.9 0,4~ 3.9,4~ 3.9,0~ 0,0~ z",
    "p": "3.8 0,4 0,-2.2 / 0,4~ 3.8,4~ 3.8,0~ 0,0~ z",
    "q": "3.8 3.8,4 3.8,-2.2 / 0,4~ 3.8,4~ 3.8,0~ 0,0~ z",
    "r": "2.2 0,4 0,0 / 0,2 0,4~ 2.4,3.9",
    "s": "3.2 3,3.6 2.9,4~ 0.1,4~ 0.1,2.2~ 3.2,1.8~ 3.2,0~ 0.1,0~ 0,0.4",
    "t": "2.4 0.8,5.6 0.8,1.6 0.8,0~ 2.4,0 / 0,4 2.4,4",
    "u": "3.6 0,4 0,1.8 0,0~ 3.6,0~ 3.6,1.8 / 3.6,4 3.6,0",
    "v": "3.8 0,4 1.9,0 3.8,4",
    "w": "5.6 0,4 1.4,0 2.8,3.6 4.2,0 5.6,4",
    "x": "3.7 0,4 3.7,0 / 0,0 3.7,4",
    "y": "3.8 0,4 1.9,0 / 3.8,4 1.9,0 1.2,-2~ 0.2,-2.1",
    "z": "3.3 0,4 3.3,4 0,0 3.3,0",
    "{": "2.2 2.2,7 0.9,7~ 0.9,4.6 0.9,2.9~ 0,2.9 / 0,2.9 0.9,2.9~ 0.9,1.2 0.9,-1.2~ 2.2,-1.2",
    "|": "0.4 0.2,7 0.2,-1.8",
    "}": "2.2 0,7 1.3,7~ 1.3,4.6 1.3,2.9~ 2.2,2.9 / 2.2,2.9 1.3,2.9~ 1.3,1.2 1.3,-1.2~ 0,-1.2",
    "~": "4 0,2.1 0.4,3.2~ 1.6,3.2~ 2.4,2~ 3.6,2~ 4,3.1",
    "♠": "5 2.5,6.4 5.2,3.2~ 5.2,0.9~ 2.9,1 3.4,-0.3 1.6,-0.3 2.1,1 -0.2,0.9~ -0.2,3.2~ f",
    "♥": "5 2.5,-0.2 5.2,3~ 5.2,6~ 2.8,6~ 2.5,4.8 2.2,6~ -0.2,6~ -0.2,3~ f",
    "♦": "4.4 2.2,6.6 4.4,3.1 2.2,-0.4 0,3.1 f",
    "♣": "5 1.3,6.2~ 3.7,6.2~ 3.7,3.6~ 1.3,3.6~ f / 0,3.6~ 2.2,3.6~ 2.2,1.1~ 0,1.1~ f"
    " / 2.8,3.6~ 5,3.6~ 5,1.1~ 2.8,1.1~ f / 2.5,3.4 2.5,2.4 3.4,-0.3 1.6,-0.3 2.5,2.4 f",
}
CHARACTERS = "".join(_STROKES)  # a glyph id is the index
SPACE = CHARACTERS.index(" ")


@dataclass(frozen=True, eq=False)
class Glyph:
    """One character's path.

    Attributes:
      width: units, the extent in x without the bearings.
      segments: float64[s, 2, 2], both ends (x, y) of straight pieces, units.
      areas: polygons float64[c, 2] whose inside is ink.
    """

    width: float
    segments: np.ndarray
    areas: tuple[np.ndarray, ...]


@dataclass(frozen=True, eq=False)
class Atlas:
    """All glyphs at once.

    Attributes:
      distance: uint8[glyphs, U, V], distance to the path in hundredths of a unit, at the centres of texels. Texel
        (0, 0) begins at x = -BEARING, y = BOTTOM; texels are 1 / TEXELS units wide.
      advance: float32[glyphs], units from one glyph's cell to the next one's.
    """

    distance: np.ndarray
    advance: np.ndarray


def encode(text: str) -> np.ndarray:
    """Glyph ids of a text, int32[len(text)].

    Raises:
      ValueError: a character has no glyph.
    """
    for character in text:
        if character not in _STROKES:
            raise ValueError(f"no glyph for {character!r} in {text!r}; accepted: {CHARACTERS}")
    return np.array([CHARACTERS.index(character) for character in text], np.int32)


@cache
def glyph(character: str) -> Glyph:
    """The path of one of CHARACTERS."""
    width, _, rest = _STROKES[character].partition(" ")
    lines = [_polyline(stroke.split()) for stroke in rest.split("/") if stroke.strip()]
    pieces = [np.stack([line[:-1], line[1:]], axis=1) for line, _ in lines]
    segments = np.concatenate(pieces) if pieces else np.zeros((0, 2, 2))
    return Glyph(float(width), segments, tuple(line for line, filled in lines if filled))


def _polyline(corners: list[str]) -> tuple[np.ndarray, bool]:
    """The points [n, 2] of one stroke, rounded corners as parabolas, and whether its inside is ink."""
    mark = corners[-1] if corners[-1] in ("z", "f") else ""
    corners = corners[: len(corners) - len(mark)]
    points = np.array([[float(number) for number in corner.rstrip("~").split(",")] for corner in corners])
    if len(points) == 1:
        return np.concatenate([points + _DOT, points + _DOT[:1]]), True
    rounded = [corner.endswith("~") for corner in corners]
    path = []
    for i, (point, curved) in enumerate(zip(points, rounded, strict=True)):
        if not curved:
            path.append(point[None])
            continue
        after = (i + 1) % len(points)
        begin, end = ((points[j] + point) / 2 if rounded[j] else points[j] for j in (i - 1, after))
        t = np.linspace(0, 1, _CURVE + 1)[:, None]
        path.append((1 - t) ** 2 * begin + 2 * t * (1 - t) * point + t**2 * end)
    line = np.concatenate(path)
    return np.concatenate([line, line[: len(mark)]]), mark == "f"


def distance(character: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Distance in units of points to a glyph's path, 0 inside a filled area, infinite for a blank.

    Args:
      character: one of CHARACTERS.
      x, y: units, of one shape.
    """
    shape = glyph(character)
    nearest = np.full(np.shape(x), np.inf)
    for (ax, ay), (bx, by) in shape.segments:
        dx, dy = bx - ax, by - ay
        length = dx * dx + dy * dy + 1e-12
        along = np.clip(((x - ax) * dx + (y - ay) * dy) / length, 0, 1)
        nearest = np.minimum(nearest, np.hypot(x - ax - along * dx, y - ay - along * dy))
    for area in shape.areas:
        nearest = np.where(_inside(area, x, y), 0.0, nearest)
    return nearest


def _inside(area: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Whether a ray to the right crosses the polygon's border an odd number of times."""
    odd = np.zeros(np.shape(x), bool)
    for (ax, ay), (bx, by) in zip(area, np.roll(area, -1, axis=0), strict=True):
        if ay != by:
            odd ^= ((ay > y) != (by > y)) & (x < ax + (y - ay) * (bx - ax) / (by - ay))
    return odd


@cache
def atlas() -> Atlas:
    """Distances to all glyphs, computed once a process."""
    widths = np.array([glyph(character).width for character in CHARACTERS])
    columns = int(np.ceil((widths.max() + 2 * BEARING) * TEXELS))
    rows = round((TOP - BOTTOM) * TEXELS)
    x, y = np.meshgrid(
        (np.arange(columns) + 0.5) / TEXELS - BEARING, (np.arange(rows) + 0.5) / TEXELS + BOTTOM, indexing="ij"
    )
    far = [np.minimum(distance(character, x, y), FURTHEST) for character in CHARACTERS]
    return Atlas(np.rint(np.stack(far) * 100).astype(np.uint8), (widths + 2 * BEARING).astype(np.float32))
