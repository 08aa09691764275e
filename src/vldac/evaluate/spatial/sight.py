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


class View:
    """A scene before a camera that walks.

    Args:
      walls: float64[W, 2, 2], from floor to ceiling.
      kind, position, yaw, height: of N things, see `scenes.Scene`.
      path: float64[frames, 3].
      image_shape: (height, width).
    """

    def __init__(
        self,
        walls: np.ndarray,
        kind: tuple[str, ...],
        position: np.ndarray,
        yaw: np.ndarray,
        height: np.ndarray,
        path: np.ndarray,
        image_shape: tuple[int, int],
    ):
        self._walls, self._position, self._height, self._image = walls, position, height, image_shape
        self._focal = image_shape[0] / 2 / math.tan(FIELD_OF_VIEW / 2)  # pixels of 1 metre, 1 metre away
        self._eye, facing = path[:, :2], path[:, 2]
        self._ahead = np.stack([np.cos(facing), -np.sin(facing)], axis=1)  # [F, 2]
        self._right = np.stack([np.sin(facing), np.cos(facing)], axis=1)
        self._radius = np.array([reach(k) for k in kind]) * height
        round_, marked = (np.array([k in some for k in kind]) for some in (ROUND, MARKED))
        gap = position[None] - self._eye[:, None]  # [F, N, 2]
        self._away = np.hypot(gap[..., 0], gap[..., 1])
        # Unit vectors across the lines of sight, to the right.
        self._across = np.stack([-gap[..., 1], gap[..., 0]], axis=-1) / self._away[..., None]
        # Half of what is seen of a width: by the angle between the line of sight and the thing's own axes.
        half = np.array([(np.array(DRAWN[k][1]) - DRAWN[k][0])[[0, 2]] / 2 for k in kind]) * height[:, None]
        turn = np.arctan2(-gap[..., 1], gap[..., 0]) - yaw
        flat = half[:, 0] * np.abs(np.sin(turn)) + half[:, 1] * np.abs(np.cos(turn))
        self._width = np.where(round_, half[:, 0], flat)  # [F, N]
        front = np.stack([np.sin(yaw), np.cos(yaw)], axis=1)  # the way the z axis points
        self._faces = (np.einsum("fni,ni->fn", -gap, front) >= 0.5 * self._away) | ~marked
        self._least = np.where(marked, 2, 1) * CLEAR_SHARE * image_shape[0] * image_shape[1]

    def large(self) -> np.ndarray:
        """bool[frames, N], whether a thing whose middle is in the picture would be large enough to be `clear`, and
        shows the side that it is known by."""
        _, column, _ = self._projected(self._position[None, :, None], self._height[:, None] / 2)
        size = 2 * self._width * self._height * (self._focal / self._away) ** 2
        inside = (column[..., 0] > 0) & (column[..., 0] < self._image[1])
        return (size >= self._least) & self._faces & inside

    def clear(self) -> np.ndarray:
        """bool[frames, N], whether a thing is seen well.

        At least 7 of 9 points of it, all but its rim, are in the picture with nothing before them, other things
        being taken for full cylinders, and it is large enough; a first aid kit only from the side of its cross and
        twice as large, or it could be a red box.
        """
        aside, up = (grid.ravel() for grid in np.meshgrid([-0.7, 0.0, 0.7], [0.15, 0.5, 0.85]))
        offset = (aside * self._width[..., None])[..., None] * self._across[:, :, None]
        places = self._position[None, :, None] + offset  # [F, N, 9, 2]
        heights = np.broadcast_to(up * self._height[:, None], places.shape[:3])
        depth, column, row = self._projected(places, heights)
        high, wide = self._image
        inside = (depth > 0.3) & (column > 1) & (column < wide - 1) & (row > 1) & (row < high - 1)
        hidden = _hidden(self._eye, places, heights, self._position, self._radius, self._height)
        free = inside & ~self._walled(places) & ~hidden
        return self.large() & (free.sum(axis=2) >= _CLEAR_POINTS)

    def maybe(self) -> np.ndarray:
        """bool[frames, N], whether a cylinder around a thing is partly in the picture and not all behind walls."""
        aside = np.linspace(-1.02, 1.02, 9)
        offset = (aside * self._radius[:, None])[..., None] * self._across[:, :, None]
        places = self._position[None, :, None] + offset
        depth, column, top = self._projected(places, self._height[:, None])
        high, wide = self._image
        behind = depth <= 0.05
        column = np.where(behind, np.sign(column - wide / 2) * 1e9, column)
        # Pieces between neighbouring points: partly in the picture, and not both ends behind a wall.
        left, right = np.minimum(column[..., :-1], column[..., 1:]), np.maximum(column[..., :-1], column[..., 1:])
        in_view = (left < wide + _PIXELS) & (right > -_PIXELS) & ~(behind[..., :-1] & behind[..., 1:])
        # The top of the far side is the highest in the picture of what is lower than the eye.
        far = np.maximum(depth + self._radius[:, None], 0.05)
        highest = np.minimum(high / 2 - self._focal * (self._height[:, None] - EYE) / far, top)
        in_view &= np.minimum(highest[..., :-1], highest[..., 1:]) < high + _PIXELS
        unwalled = ~self._walled(places)
        return (in_view & (unwalled[..., :-1] | unwalled[..., 1:])).any(axis=2)

    def _projected(self, places: np.ndarray, heights: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Depths, columns and rows of places [F, N, P, 2] at heights [F, N, P], broadcast."""
        away = places - self._eye[:, None, None]
        depth = np.einsum("fnpi,fi->fnp", away, self._ahead)
        safe = np.maximum(depth, 0.05)
        column = self._image[1] / 2 + self._focal * np.einsum("fnpi,fi->fnp", away, self._right) / safe
        return depth, column, self._image[0] / 2 - self._focal * (heights - EYE) / safe

    def _walled(self, places: np.ndarray) -> np.ndarray:
        """bool[F, N, P], whether a wall stands before places."""
        start, end = self._walls[:, 0], self._walls[:, 1]
        return crosses(self._eye[:, None, None, None], places[..., None, :], start, end).any(axis=-1)


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
