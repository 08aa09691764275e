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
    brick, mortar = _courses(side, 8, 24, 0.12, 79)
    shade = 0.79 + 0.32 * brick + 0.05 * cloud(side, 32, 32, 83)
    hue = np.stack([np.full_like(brick, 129.0), 86 + 18 * brick, 70 + 24 * brick], axis=-1)
    bricks = np.clip(hue * shade[..., None], 0, 255)
    mortared = _tint(1 + 0.06 * cloud(side, 32, 32, 89), (152, 142, 128))
    return bricks * (1 - mortar[..., None]) + mortared * mortar[..., None]


def _asphalt(side: int) -> np.ndarray:
    texel = np.arange(side)
    grain = hashed(texel[None, :], texel[:, None], 97) - 0.5
    return _tint(1 + 0.55 * grain + 0.12 * cloud(side, 32, 32, 101, 2), (109, 110, 112))


def _cinder_blocks(side: int) -> np.ndarray:
    block, mortar = _courses(side, 4, 8, 0.035, 103)
    shade = 1.01 + 0.12 * (block - 0.5) + 0.05 * cloud(side, 24, 24, 107)
    hue = np.stack([117 + 0 * block, 116 - 2 * block, 112 - 8 * block], axis=-1)
    return np.clip(hue * shade[..., None] * (1 - 0.45 * mortar[..., None]), 0, 255)


def _slime(side: int) -> np.ndarray:
    """Green, with round pools."""
    bumps = cloud(side, 4, 4, 109, 2)
    pool = np.clip((bumps - 0.9) * 5, 0, 1)
    rim = np.exp(-(((bumps - 0.9) / 0.15) ** 2))
    shade = 1.04 - 0.26 * pool + 0.06 * rim + 0.03 * cloud(side, 6, 6, 113)
    return _tint(shade, (127, 173, 11))


MATERIALS: dict[str, Material] = {
    "plain": Material(_plain, 1.0),  # white: what is only coloured
    "floor_tiles_bw": Material(_floor_tiles_bw, 1.0),
    "concrete": Material(_concrete, 1.0),
    "concrete_tiles": Material(_concrete_tiles, 1.5),
    "brick_wall": Material(_brick_wall, 2.0),
    "asphalt": Material(_asphalt, 1.0),
    "cinder_blocks": Material(_cinder_blocks, 2.0),
    "slime": Material(_slime, 1.0),
}
