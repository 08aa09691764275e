"""The pictures on walls and floors, computed: no file, no network, the same on every machine.

* Built from integer hashes (no random generator whose stream could change) and wrapped at the borders, so that
  every picture tiles seamlessly.
* The project's own work. Tile sizes, mean colours and contrast are near those of MiniWorld's textures, so that
  what is learnt here meets familiar surfaces there; nothing of those files is used.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from envs_jax.render import glyphs


@dataclass(frozen=True)
class Material:
    """One picture.

    Attributes:
      paint: side -> float64[side, side, 3] in 0..255, indexed [v, u], row 0 lowest; any side.
      metres: side of one tile in the world.
    """

    paint: Callable[[int], np.ndarray]
    metres: float


def hashed(x: np.ndarray, y: np.ndarray, seed: int) -> np.ndarray:
    """A number in [0, 1) for every pair of integers, looking random (an xxHash-like integer mix)."""
    mixed = (x.astype(np.uint32) * np.uint32(2654435761)) ^ (y.astype(np.uint32) * np.uint32(2246822519))
    mixed ^= np.uint32(seed * 3266489917 & 0xFFFFFFFF)
    for shift, factor in ((15, 2246822519), (13, 3266489917), (16, 668265263)):
        mixed = (mixed ^ (mixed >> np.uint32(shift))) * np.uint32(factor)
    return (mixed >> np.uint32(8)) / float(1 << 24)


def noise(side: int, rows: int, columns: int, seed: int) -> np.ndarray:
    """Smooth noise in [0, 1) on a wrapped lattice of rows x columns values: [side, side]."""

    def lattice(cells):
        at = (np.arange(side) + 0.5) / side * cells
        first = np.floor(at).astype(np.int64)
        share = at - first
        return first % cells, (first + 1) % cells, share * share * (3 - 2 * share)

    y0, y1, fy = lattice(rows)
    x0, x1, fx = lattice(columns)
    fy = fy[:, None]

    def value(y, x):
        return hashed(x[None, :], y[:, None], seed)

    low = value(y0, x0) * (1 - fx) + value(y0, x1) * fx
    high = value(y1, x0) * (1 - fx) + value(y1, x1) * fx
    return low * (1 - fy) + high * fy


def cloud(side: int, rows: int, columns: int, seed: int, octaves: int = 4) -> np.ndarray:
    """Noise of several scales, mean 0 and standard deviation 1: [side, side]."""
    total = sum(noise(side, rows << k, columns << k, seed + k) / 2**k for k in range(octaves))
    return (total - total.mean()) / total.std()


def _grid(side: int) -> tuple[np.ndarray, np.ndarray]:
    """(u, v) of every texel's middle, in 0..1: [1, side] and [side, 1]."""
    at = (np.arange(side) + 0.5) / side
    return at[None, :], at[:, None]


def _tint(brightness: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """brightness [side, side], 1 = the colour itself -> [side, side, 3]."""
    return np.clip(brightness[..., None] * np.array(colour), 0, 255)


def _seam(position: np.ndarray, width: float) -> np.ndarray:
    """1 on the whole numbers, 0 further than `width` from them; linear between."""
    return np.clip(1 - np.abs(position - np.round(position)) / width, 0, 1)


def _plain(side: int) -> np.ndarray:
    return np.full((side, side, 3), 255.0)


def _floor_tiles_bw(side: int) -> np.ndarray:
    """Black and white marble, 4 x 4 squares, with veins of the other colour and thin joints."""
    u, v = _grid(side)
    white = (np.floor(4 * u) + np.floor(4 * v) + 1) % 2
    veins = np.exp(-6 * np.abs(cloud(side, 5, 5, 11))) * (cloud(side, 3, 3, 23, 2) > 0)
    light = _tint(0.985 - 0.10 * veins + 0.012 * cloud(side, 8, 8, 31), (229, 227, 221))
    dark = _tint(1.0 + 0.35 * veins + 0.03 * cloud(side, 8, 8, 37), (44, 43, 41))
    tiles = np.where(white[..., None] > 0, light, dark)
    joint = np.maximum(_seam(4 * u, 0.03), _seam(4 * v, 0.03))[..., None]
    return tiles * (1 - joint) + 70.0 * joint


def _concrete(side: int) -> np.ndarray:
    """Grey, with flat streaks as left by a trowel."""
    texture = 0.028 * cloud(side, 20, 4, 41) + 0.024 * cloud(side, 12, 8, 53)
    return _tint(1 + texture, (153, 152, 148))


def _concrete_tiles(side: int) -> np.ndarray:
    """Slabs, 3 x 3, each of its own shade, with dark joints, stains and a few blowholes."""
    u, v = _grid(side)
    column, row = np.floor(3 * u).astype(np.int64), np.floor(3 * v).astype(np.int64)
    slab = hashed(column, row, 61) - 0.5
    stain = np.clip(cloud(side, 6, 3, 67) - 0.6, 0, None)
    shade = 1.01 + 0.03 * slab + 0.02 * cloud(side, 10, 10, 71) - 0.05 * stain
    holes = cloud(side, 24, 24, 73, 2) > 3.0
    joint = np.maximum(_seam(3 * u, 0.015), _seam(3 * v, 0.015))
    return _tint(shade * np.where(holes, 0.8, 1.0) * (1 - 0.28 * joint), (161, 161, 162))


def _courses(side: int, columns: int, rows: int, joint: float, seed: int):
    """Bricks laid in half-brick courses: (a number in [0, 1) of each brick, 1 in the mortar), [side, side].

    `joint` is half the mortar's width as a share of a course's height. `rows` is even, so that it tiles.
    """
    u, v = _grid(side)
    row = np.floor(rows * v).astype(np.int64)
    along = columns * u + 0.5 * (row % 2)
    brick = hashed(np.floor(along).astype(np.int64) % columns, row, seed)
    aspect = rows / columns  # a brick's width in courses
    edge = np.maximum(_seam(rows * v, joint), _seam(along, joint / aspect))
    return brick, np.clip(2.5 * edge, 0, 1)


def _brick_wall(side: int) -> np.ndarray:
    brick, mortar = _courses(side, 10, 24, 0.12, 79)
    shade = 0.86 + 0.19 * brick + 0.04 * cloud(side, 32, 32, 83)
    hue = np.stack([np.full_like(brick, 129.0), 80 + 18 * brick, 64 + 22 * brick], axis=-1)
    bricks = np.clip(hue * shade[..., None], 0, 255)
    mortared = _tint(1 + 0.06 * cloud(side, 32, 32, 89), (146, 134, 120))
    return bricks * (1 - mortar[..., None]) + mortared * mortar[..., None]


def _asphalt(side: int) -> np.ndarray:
    texel = np.arange(side)
    grain = hashed(texel[None, :], texel[:, None], 97) - 0.5
    return _tint(1 + 0.26 * grain + 0.04 * cloud(side, 32, 32, 101, 2), (109, 110, 112))


def _cinder_blocks(side: int) -> np.ndarray:
    """Large even blocks, a little bluer or browner each; what tells them apart from afar is their joints."""
    block, mortar = _courses(side, 4, 8, 0.055, 103)
    shade = 1.03 + 0.07 * (block - 0.5) + 0.025 * cloud(side, 24, 24, 107)
    hue = np.stack([119 - 6 * block, 114 + 4 * block, 104 + 9 * block], axis=-1)
    return np.clip(hue * shade[..., None] * (1 - 0.38 * mortar[..., None]), 0, 255)


def _slime(side: int) -> np.ndarray:
    """Green, with round craters of several sizes."""
    u, v = _grid(side)
    crater, rim = np.zeros((side, side)), np.zeros((side, side))
    for row in range(4):
        for column in range(4):
            x, y, size = (hashed(np.array([column]), np.array([row]), 109 + k) for k in range(3))
            dx = (u - (column + 0.2 + 0.6 * x) / 4 + 0.5) % 1 - 0.5  # the short way, over the border
            dy = (v - (row + 0.2 + 0.6 * y) / 4 + 0.5) % 1 - 0.5
            away = np.hypot(dx, dy) / (0.035 + 0.065 * size)
            crater = np.maximum(crater, np.clip(6 * (1 - away), 0, 1))
            rim = np.maximum(rim, np.exp(-(((away - 1.15) / 0.15) ** 2)))
    shade = 1.04 - 0.24 * crater + 0.05 * rim * (1 - crater) + 0.03 * cloud(side, 6, 6, 113)
    return _tint(shade, (127, 173, 11))


def _blocks_of_flats(side: int) -> np.ndarray:
    """Light grey concrete in narrow courses, for what is large and far away."""
    u, v = _grid(side)
    shade = 1.0 + 0.03 * cloud(side, 12, 4, 127) - 0.10 * _seam(16 * v, 0.08) - 0.04 * _seam(8 * u, 0.06)
    return _tint(shade, (178, 176, 172))


def _windows(side: int) -> np.ndarray:
    """The front of a house to be stretched over it: rows of dark windows in concrete."""
    u, v = _grid(side)
    row, column = 10 * v, 8 * u
    glass = (np.abs(row - np.floor(row) - 0.5) < 0.27) & (np.abs(u - 0.5) < 0.47)
    frame = np.maximum(_seam(column, 0.06), 0 * row)
    lit = hashed(np.floor(column).astype(np.int64), np.floor(row).astype(np.int64), 131)
    panes = _tint((0.8 + 0.6 * lit) * (1 - 0.35 * frame), (44, 47, 62))
    return np.where(glass[..., None], panes, _blocks_of_flats(side))


def _picture(side: int) -> np.ndarray:
    """Something to hang on a wall: hills under a low sun."""
    u, v = _grid(side)
    sky = np.stack([235 - 40 * v + 0 * u, 200 - 20 * v + 0 * u, 160 + 70 * v + 0 * u], axis=-1)
    sun = (np.hypot(u - 0.68, (v - 0.56) / 1.6) < 0.09)[..., None]
    picture = np.where(sun, np.array([250.0, 236.0, 190.0]), sky)
    for base, rise, waves, phase, colour in (
        (0.46, 0.08, 2, 0.3, (150, 140, 176)),
        (0.34, 0.07, 3, 1.9, (92, 108, 138)),
        (0.2, 0.05, 2, 4.2, (48, 74, 84)),
    ):
        ridge = base + rise * np.sin(2 * np.pi * waves * u + phase) + 0.3 * rise * np.cos(14 * np.pi * u)
        picture = np.where((v < ridge)[..., None], np.array(colour, np.float64), picture)
    margin = np.maximum(np.abs(u - 0.5), np.abs(v - 0.5) + 0 * u) > 0.46
    return np.where(margin[..., None], 246.0, picture)


def _glyph(character: str) -> Callable[[int], np.ndarray]:
    """Black on white, in the middle of a square, as tall and as thin as MiniWorld's letters are."""

    def paint(side: int) -> np.ndarray:
        u, v = _grid(side)
        x = (u - 0.5) * _GLYPH_UNITS + glyphs.glyph(character).width / 2
        y = (v - 0.5) * _GLYPH_UNITS + 3.0  # capitals are 6 units high
        x, y = np.broadcast_arrays(x, y)
        edge = _GLYPH_UNITS / side  # one texel, over which the ink fades
        ink = np.clip(0.5 + (_GLYPH_PEN / 2 - glyphs.distance(character, x, y)) / edge, 0, 1)
        return _tint(1 - ink, (255, 255, 255))

    return paint


_GLYPH_UNITS = 15.0  # of a glyph's path across the square
_GLYPH_PEN = 0.75  # units
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"  # of which there is a material each, "glyph_A" and so on

MATERIALS: dict[str, Material] = {
    "plain": Material(_plain, 1.0),  # white: what is only coloured
    "floor_tiles_bw": Material(_floor_tiles_bw, 1.0),
    "concrete": Material(_concrete, 1.0),
    "concrete_tiles": Material(_concrete_tiles, 1.5),
    "brick_wall": Material(_brick_wall, 2.0),
    "asphalt": Material(_asphalt, 1.0),
    "cinder_blocks": Material(_cinder_blocks, 2.0),
    "slime": Material(_slime, 1.0),
    "blocks_of_flats": Material(_blocks_of_flats, 4.0),
    "windows": Material(_windows, 1.0),
    "picture": Material(_picture, 1.0),
    **{f"glyph_{letter}": Material(_glyph(letter), 1.0) for letter in LETTERS},
}
