"""Pictures of goods: a flat shape of one colour with a dark edge, drawn once on the host for every size.

A shape is written as the corners of its areas on a square of 24 x 24, y down; an area after "-" is cut out of
those before it. Circles are "o x,y,r".
"""

from __future__ import annotations

from functools import cache

import numpy as np

_SIDE, _EDGE, _SAMPLES = 24.0, 1.1, 4  # units, units, per pixel and axis

_AREAS = {
    "shirt": "8,3 16,3 22,7 19,12 17,11 17,21 7,21 7,11 5,12 2,7 / - o 12,2.5,2.5",
    "dress": "9,2 10,5 14,5 15,2 16,9 20,21 4,21 8,9",
    "pants": "7,2 17,2 19,22 14,22 12,9 10,22 5,22",
    "skirt": "8,5 16,5 21,20 3,20",
    "shorts": "6,5 18,5 20,18 13.5,18 12,11 10.5,18 4,18",
    "shoe": "3,8 8,8 12,12 20,14 22,18 22,19 2,19",
    "boot": "6,2 13,2 13,12 20,15 21,20 6,20",
    "hat": "4,15 5,9 9,6 13,6 17,9 18,13 23,15 22,17 4,17",
    "scarf": "5,3 19,3 19,8 10,8 12,20 7,21 5,9",
    "glove": "7,22 7,14 3,10 5,8 8,10 8,3 10,3 11,8 12,2 14,2 14,8 16,4 18,5 17,22",
    "chair": "6,2 8,2 8,12 18,12 18,22 16,22 16,15 8,15 8,22 6,22",
    "stool": "6,6 18,6 18,9 16,9 18,22 16,22 14.5,9 9.5,9 8,22 6,22 8,9 6,9",
    "table": "2,8 22,8 22,11 20,11 20,20 18,20 18,11 6,11 6,20 4,20 4,11 2,11",
    "shelf": "4,2 20,2 20,22 4,22 / - 6,4 18,4 18,8 6,8 / - 6,10 18,10 18,14 6,14 / - 6,16 18,16 18,20 6,20",
    "towel": "3,6 21,6 21,18 3,18 / - 3,9 21,9 21,10 3,10 / - 3,13 21,13 21,14 3,14",
    "pillow": "3,6 12,8 21,6 20,12 21,18 12,16 3,18 4,12",
    "lamp": "8,3 16,3 20,12 13,12 13,19 17,21 7,21 11,19 11,12 4,12",
    "pendant": "11,1 13,1 13,8 17,10 21,18 3,18 7,10 11,8 / o 12,19.5,2.5",
    "lantern": "9,4 10,2 14,2 15,4 18,8 18,19 20,22 4,22 6,19 6,8 / - 9,9 15,9 15,18 9,18",
    "mug": "4,6 16,6 16,8 20,8 22,10 22,14 20,16 16,16 16,20 4,20 / - 16,10 19,10 19,14 16,14",
    "pan": "o 9,13,7 / 14,9 22,3 24,5 16,12",
    "bottle": "10,1 14,1 14,6 17,9 17,22 7,22 7,9 10,6",
    "bowl": "2,9 22,9 19,17 15,20 9,20 5,17",
    "knife": "2,14 14,4 17,7 7,17 / 15,5 20,0 23,3 18,8",
    "headphone": "o 12,11,10 / - o 12,12,7.5 / - 0,14 24,14 24,24 0,24"
    " / 2,12 7,12 7,21 2,21 / 17,12 22,12 22,21 17,21",
    "speaker": "6,2 18,2 18,22 6,22 / - o 12,15,4 / - o 12,7,2 / o 12,15,1.8",
    "microphone": "o 12,6,4.5 / 7.5,6 16.5,6 15,13 9,13 / 11,13 13,13 13,20 17,22 7,22 11,20",
    "screen": "2,4 22,4 22,17 14,17 15,21 9,21 10,17 2,17 / - 4,6 20,6 20,15 4,15",
    "keyboard": "1,7 23,7 23,18 1,18 / - 3,9 21,9 21,10.5 3,10.5 / - 3,12 21,12"
    " 21,13.5 3,13.5 / - 7,15 17,15 17,16.5 7,16.5",
    "stick": "8,8 16,8 16,22 8,22 / 9.5,2 14.5,2 14.5,7 9.5,7",
    "cable": "o 11,13,9 / - o 11,13,6 / - 11,13 24,13 24,24 11,24"
    " / 15,11 23,11 23,15 15,15 / 9,17 13,17 13,24 9,24",
    "tent": "12,3 23,21 1,21 / - 12,10 16,21 8,21",
    "bag": "6,7 18,7 20,22 4,22 / 8,7 9,2 15,2 16,7 14,7 13.5,4 10.5,4 10,7 / - 7,13 17,13 17,14.5 7,14.5",
    "watch": "9,1 15,1 15,6 9,6 / o 12,12,7 / 9,18 15,18 15,23 9,23 / - o 12,12,4.5"
    " / 11.3,8 12.7,8 12.7,12.7 11.3,12.7",
    "soap": "4,9 7,7 17,7 20,9 20,17 17,19 7,19 4,17 / - 8,12 16,12 16,14 8,14",
    "candle": "7,9 17,9 17,22 7,22 / 12,1 14,5 12,7.5 10,5",
    "brush": "o 12,8,6.5 / 10.5,13 13.5,13 14.5,23 9.5,23 / - o 12,8,3.5",
    "pouch": "6,2 18,2 17,6 20,22 4,22 7,6 / - 8,11 16,11 16,16 8,16",
    "box": "3,5 21,5 21,20 3,20 / - 3,9 21,9 21,10.5 3,10.5",
    "block": "3,9 21,9 21,20 3,20 / 5,5 10,5 10,9 5,9 / 14,5 19,5 19,9 14,9",
    "ball": "o 12,12,10 / - o 12,12,3 / - o 12,4,1.5 / - o 4.5,10,1.5"
    " / - o 19.5,10,1.5 / - o 7,19,1.5 / - o 17,19,1.5",
    "bear": "o 12,15,7 / o 12,8,5.5 / o 7,3.5,2.6 / o 17,3.5,2.6 / o 5,14,2.5 / o 19,14,2.5"
    " / - o 10,7,1 / - o 14,7,1",
}
SHAPES = tuple(_AREAS)


@cache
def atlas(side: int) -> np.ndarray:
    """uint8[len(SHAPES), side, side, 2]: how far a shape covers each pixel, and how far its edge does, 0..255."""
    samples = side * _SAMPLES
    at = (np.arange(samples) + 0.5) * (_SIDE / samples)
    x, y = np.meshgrid(at, at)
    pictures = []
    for areas in _AREAS.values():
        inside = np.zeros((samples, samples), bool)
        for area in areas.split("/"):
            cut, area = area.strip().startswith("-"), area.strip().removeprefix("-").strip()
            inside = inside & ~_inside(area, x, y) if cut else inside | _inside(area, x, y)
        # The edge: what of the shape has the outside within reach.
        reach = max(1, round(_EDGE * samples / _SIDE))
        core = inside.copy()
        for axis in (0, 1):
            for sign in (1, -1):
                for by in (reach, reach // 2):
                    core &= _moved(inside, by * sign, axis)
        cover = np.stack([inside, inside & ~core], -1).reshape(side, _SAMPLES, side, _SAMPLES, 2)
        pictures.append(np.round(255 * cover.mean((1, 3))))
    return np.stack(pictures).astype(np.uint8)


def _moved(mask: np.ndarray, by: int, axis: int) -> np.ndarray:
    """The mask moved by some samples, with nothing coming in at the border."""
    moved = np.roll(mask, by, axis)
    gone = slice(None, by) if by > 0 else slice(by, None)
    moved[(gone, slice(None)) if axis == 0 else (slice(None), gone)] = False
    return moved


def _inside(area: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Which points lie in a circle or a polygon (even-odd)."""
    if area.startswith("o"):
        cx, cy, radius = map(float, area[1:].split(","))
        return (x - cx) ** 2 + (y - cy) ** 2 <= radius**2
    corners = [tuple(map(float, corner.split(","))) for corner in area.split()]
    inside = np.zeros(x.shape, bool)
    for (x0, y0), (x1, y1) in zip(corners, corners[1:] + corners[:1], strict=True):
        if y0 != y1:
            inside ^= ((y0 <= y) != (y1 <= y)) & (x < (x1 - x0) * (y - y0) / (y1 - y0) + x0)
    return inside
