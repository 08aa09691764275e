"""Plane geometry of what stands on a floor, seen from above: footprints, distances, bearings, ways.

* Host code, float64: truths do not depend on the device that renders the pictures.
* Points are (x, z), metres; a yaw of 0 looks along +x, a quarter turn left along -z (see `envs_jax.render.scene`).
* A footprint is what a thing covers of the floor, seen from above: a rectangle, or a circle of a ball and a cone.
  It is a polygon and a radius by which it grows: a circle is one point that grows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

# Low and high (x, y, z) of what is drawn by `envs_jax.render.shapes`, about its own axes, in heights.
DRAWN = {
    "box": ((-0.5, 0.0, -0.5), (0.5, 1.0, 0.5)),
    "ball": ((-0.5, 0.0, -0.5), (0.5, 1.0, 0.5)),
    "key": ((-0.2, 0.0, -1.209), (0.2, 1.0, 1.209)),
    "med_kit": ((-0.545, 0.0, -0.30), (0.545, 1.0, 0.29)),
    "duckie": ((-0.53, -0.02, -0.36), (0.545, 1.0, 0.36)),
    "cone": ((-0.34, 0.0, -0.34), (0.34, 1.0, 0.34)),
}
ROUND = ("ball", "cone")


@dataclass(frozen=True, eq=False)
class Footprint:
    """What a thing covers of the floor.

    Attributes:
      corners: float64[k, 2], of a convex polygon in order; k = 1 is a point.
      radius: metres by which it grows, 0 of a polygon.
    """

    corners: np.ndarray
    radius: float


def footprint(kind: str, height: float, position: np.ndarray, yaw: float) -> Footprint:
    """Of a thing of `DRAWN`, `height` metres high, at a position float64[2]."""
    low, high = (height * np.array(side) for side in DRAWN[kind])
    if kind in ROUND:
        return Footprint(np.array([position], float), float(high[0]))
    x = np.array([low[0], high[0], high[0], low[0]])
    z = np.array([low[2], low[2], high[2], high[2]])
    cos, sin = math.cos(yaw), math.sin(yaw)
    return Footprint(np.asarray(position) + np.stack([cos * x + sin * z, cos * z - sin * x], axis=1), 0.0)


def reach(kind: str) -> float:
    """Radius of the circle around the origin that holds the footprint of a thing 1 metre high."""
    low, high = (np.array(side) for side in DRAWN[kind])
    if kind in ROUND:
        return float(high[0])
    return float(np.hypot(max(-low[0], high[0]), max(-low[2], high[2])))


def longest(kind: str) -> float:
    """The longest of length, width and height of a thing 1 metre high, above the floor."""
    low, high = (np.array(side) for side in DRAWN[kind])
    return float((high - np.maximum(low, [-np.inf, 0, -np.inf])).max())


def distance(a: Footprint, b: Footprint) -> float:
    """Metres between the closest points of two footprints that do not overlap; less than 0 where circles do."""
    nearest = min(
        _to_segment(point, start, end)
        for one, other in ((a.corners, b.corners), (b.corners, a.corners))
        for point in one
        for start, end in zip(other, np.roll(other, -1, axis=0), strict=True)
    )
    return nearest - a.radius - b.radius


def _to_segment(point: np.ndarray, start: np.ndarray, end: np.ndarray) -> float:
    along = end - start
    length = float(along @ along)
    share = 0.0 if length == 0 else min(1.0, max(0.0, float((point - start) @ along) / length))
    return float(np.hypot(*(point - start - share * along)))


def to_way(point: np.ndarray, start: np.ndarray, end: np.ndarray) -> float:
    """Metres from a point to the straight way from start to end."""
    return _to_segment(np.asarray(point), np.asarray(start), np.asarray(end))


def bearing(at: np.ndarray, facing: np.ndarray, target: np.ndarray) -> float:
    """Degrees in (-180, 180] that one turns to the left, standing at `at` facing `facing`, to face `target`."""
    (x0, z0), (x1, z1) = np.asarray(facing) - at, np.asarray(target) - at
    # x to the right and z down the page: the cross product's sign is turned round.
    return math.degrees(math.atan2(-(x0 * z1 - z0 * x1), x0 * x1 + z0 * z1))


def crosses(a: np.ndarray, b: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Whether the ways a -> b cross the segments start -> end; float64[..., 2] each, broadcast."""

    def side(p, q, r):
        return (q[..., 0] - p[..., 0]) * (r[..., 1] - p[..., 1]) - (q[..., 1] - p[..., 1]) * (
            r[..., 0] - p[..., 0]
        )

    return (side(a, b, start) * side(a, b, end) < 0) & (side(start, end, a) * side(start, end, b) < 0)
