"""What a frame shows, from plane geometry: which things are seen well, and which may be seen at all.

Computed on the host in float64, not read off the pictures, so that the same questions are asked on every device
whatever its rounding. The tests hold both against the renderer's surfaces: what is `clear` covers its share of the
picture, of what is not `maybe` no pixel is seen.
"""

from __future__ import annotations

import math

import numpy as np

from vldac.evaluate.spatial.geometry import DRAWN, ROUND, crosses, reach

EYE = 1.5  # metres
FIELD_OF_VIEW = math.radians(70.0)  # vertical
CLEAR_SHARE = 0.004  # of the picture that a thing in full view covers at least to be seen well
MARKED = ("med_kit",)  # known by what is on one side
_CLEAR_POINTS = 7  # of the nine asked for
_PIXELS = 3.0  # by which a picture is thought larger before nothing of a thing is in it


def focal(image_shape: tuple[int, int]) -> float:
    """Pixels that something one metre high takes at a depth of one metre."""
    return image_shape[0] / 2 / math.tan(FIELD_OF_VIEW / 2)


def seen(
    walls: np.ndarray,
    kind: tuple[str, ...],
    position: np.ndarray,
    yaw: np.ndarray,
    height: np.ndarray,
    path: np.ndarray,
    image_shape: tuple[int, int],
) -> tuple[np.ndarray, np.ndarray]:
    """(clear, maybe), bool[frames, N] each.

    A thing is `clear` in a frame if at least 7 of 9 points of it, all but its rim, are in the picture with nothing
    before them, other things being taken for full cylinders, and if it is large enough; a first aid kit only from
    the side of its cross, and twice as large, or it could be a red box. It is `maybe` seen if a
    cylinder around it is partly in the picture and no wall hides all of that.

    Args:
      walls: float64[W, 2, 2], from floor to ceiling.
      kind, position, yaw, height: of N things, see `scenes.Scene`.
      path: float64[frames, 3].
      image_shape: (height, width).
    """
    low, high = (np.array([DRAWN[k][side] for k in kind]) for side in (0, 1))
    half_x = (high - low)[:, 0] / 2 * height
    half_z = (high - low)[:, 2] / 2 * height
    round_, marked = (np.array([k in some for k in kind]) for some in (ROUND, MARKED))
    radius = np.array([reach(k) for k in kind]) * height
    eye, facing = path[:, :2], path[:, 2]
    ahead = np.stack([np.cos(facing), -np.sin(facing)], axis=1)  # [F, 2]
    right = np.stack([np.sin(facing), np.cos(facing)], axis=1)
    gap = position[None] - eye[:, None]  # [F, N, 2]
    away = np.hypot(gap[..., 0], gap[..., 1])
    across = np.stack([-gap[..., 1], gap[..., 0]], axis=-1) / away[..., None]  # unit vectors to the right
    # Half of what is seen of its width: by the angle between the line of sight and its own axes.
    turn = np.arctan2(-gap[..., 1], gap[..., 0]) - yaw
    width = np.where(round_, half_x, half_x * np.abs(np.sin(turn)) + half_z * np.abs(np.cos(turn)))  # [F, N]

    def projected(places, heights):
        """Depths, columns and rows of places [F, N, P, 2], heights broadcast to [F, N, P]."""
        away_ = places - eye[:, None, None]
        depth = np.einsum("fnpi,fi->fnp", away_, ahead)
        safe = np.maximum(depth, 0.05)
        column = image_shape[1] / 2 + focal(image_shape) * np.einsum("fnpi,fi->fnp", away_, right) / safe
        row = image_shape[0] / 2 - focal(image_shape) * (heights - EYE) / safe
        return depth, column, row

    def walled(places):
        """Whether a wall stands before places [F, N, P, 2]."""
        start, end = walls[:, 0], walls[:, 1]
        from_ = np.broadcast_to(eye[:, None, None, None], (*places.shape[:3], 1, 2))
        return crosses(from_, places[..., None, :], start, end).any(axis=-1)

    aside, up = (grid.ravel() for grid in np.meshgrid([-0.7, 0.0, 0.7], [0.15, 0.5, 0.85]))
    places = position[None, :, None] + (aside * width[..., None])[..., None] * across[:, :, None]  # [F, N, 9, 2]
    heights = np.broadcast_to(up * height[:, None], places.shape[:3])
    depth, column, row = projected(places, heights)
    inside = (depth > 0.3) & (column > 1) & (column < image_shape[1] - 1) & (row > 1) & (row < image_shape[0] - 1)
    free = inside & ~walled(places) & ~_hidden(eye, places, heights, position, radius, height)
    size = 2 * width * height * (focal(image_shape) / away) ** 2
    least = np.where(marked, 2, 1) * CLEAR_SHARE * image_shape[0] * image_shape[1]
    front = np.stack([np.sin(yaw), np.cos(yaw)], axis=1)  # the way its z axis points
    faces = np.einsum("fni,ni->fn", -gap, front) >= 0.5 * away
    clear = (free.sum(axis=2) >= _CLEAR_POINTS) & (size >= least) & (faces | ~marked)

    aside = np.linspace(-1.02, 1.02, 9)
    places = position[None, :, None] + (aside * radius[:, None])[..., None] * across[:, :, None]
    depth, column, top = projected(places, height[:, None])
    behind = depth <= 0.05
    column = np.where(behind, np.sign(column - image_shape[1] / 2) * 1e9, column)
    # Pieces between neighbouring points: partly in the picture, and not both ends behind a wall.
    left, right_ = np.minimum(column[..., :-1], column[..., 1:]), np.maximum(column[..., :-1], column[..., 1:])
    in_view = (left < image_shape[1] + _PIXELS) & (right_ > -_PIXELS) & ~(behind[..., :-1] & behind[..., 1:])
    # What is nearer than the middle is seen lower down, never higher than the top of the far side.
    far = np.maximum(depth + radius[:, None], 0.05)
    highest = image_shape[0] / 2 - focal(image_shape) * (height[:, None] - EYE) / far
    highest = np.minimum(highest, top)
    in_view &= np.minimum(highest[..., :-1], highest[..., 1:]) < image_shape[0] + _PIXELS
    unwalled = ~walled(places)
    maybe = (in_view & (unwalled[..., :-1] | unwalled[..., 1:])).any(axis=2)
    return clear, maybe | clear


def _hidden(
    eye: np.ndarray,
    places: np.ndarray,
    heights: np.ndarray,
    position: np.ndarray,
    radius: np.ndarray,
    height: np.ndarray,
) -> np.ndarray:
    """bool[F, N, P], whether another thing, as a cylinder, stands before a point."""
    line = places - eye[:, None, None]  # [F, N, P, 2]
    length = np.hypot(line[..., 0], line[..., 1])
    to = position[None] - eye[:, None]  # [F, M, 2]
    along = np.einsum("fnpi,fmi->fnpm", line, to) / length[..., None] ** 2  # share of the line next to the axis
    off = np.abs(
        np.einsum("fnp,fm->fnpm", line[..., 0], to[..., 1]) - np.einsum("fnp,fm->fnpm", line[..., 1], to[..., 0])
    )
    off = off / length[..., None]
    half = np.sqrt(np.maximum(radius**2 - off**2, 0)) / length[..., None]
    begin, end = np.clip(along - half, 0, 1), np.clip(along + half, 0, 1)
    rise = heights - EYE
    lowest = EYE + np.minimum(begin * rise[..., None], end * rise[..., None])
    blocks = (off < radius) & (end > begin) & (lowest < height)
    own = np.eye(len(position), dtype=bool)
    return (blocks & ~own[None, :, None]).any(axis=-1)
