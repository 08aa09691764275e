"""Rooms with openings between them, worked out once into walls, doorways and regions: plain data in, arrays out.

* A room is the outline of its floor, convex; its walls are seen from within. One array of walls is both what is
  drawn and what is run into. Walls with low = 0 collide; a lintel (low > 0) does not, as in MiniWorld.
* An opening joins two rooms. Where they do not touch, a *passage* fills the gap: a room of its own, appended to
  the list, as low as the opening. Things can start in passages, too, as upstream (miniworld.py, connect_rooms).
* Everything here is NumPy on the host: a layout is a constant of the jitted program.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import jax
import numpy as np

from envs_jax.render.scene import Walls

WALL_HEIGHT = 2.74  # metres

Outline = tuple[tuple[float, float], ...]  # corners (x, z), the inside to the left of each edge seen from above
Range = tuple[float, float]
_TOUCHING = 1e-3  # metres between two openings that need no passage


def rectangle(low: tuple[float, float], high: tuple[float, float]) -> Outline:
    """The room low <= (x, z) <= high, its walls in MiniWorld's order: east, north, west, south."""
    return ((high[0], high[1]), (high[0], low[1]), (low[0], low[1]), (low[0], high[1]))


@dataclass(frozen=True)
class Room:
    """A convex room.

    Attributes:
      outline: of its floor.
      wall, floor, ceiling: materials; ceiling None is the open sky.
      height: of its walls, metres.
    """

    outline: Outline
    wall: str = "concrete"
    floor: str = "floor_tiles_bw"
    ceiling: str | None = "concrete_tiles"
    height: float = WALL_HEIGHT

    @property
    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Lowest and highest (x, z)."""
        corners = np.array(self.outline)
        return corners.min(axis=0), corners.max(axis=0)

    @property
    def rectangular(self) -> bool:
        """Whether every corner is a corner of the bounds."""
        corners = np.array(self.outline)
        return bool(np.all((corners == self.bounds[0]) | (corners == self.bounds[1])))


@dataclass(frozen=True)
class Opening:
    """A doorway from room `a` to room `b`, between two values of x or of z, up to `top` (None: no lintel)."""

    a: int
    b: int
    x: Range | None = None
    z: Range | None = None
    top: float | None = None


@dataclass(frozen=True)
class Regions:
    """Where something may be drawn from: M rectangles, one a room.

    Attributes:
      low, high: float64[M, 2], corners (x, z); nothing beyond them could be accepted.
      weight: float64[M], chance of drawing a place from each, up to a common factor.
      outline: float64[M, E, 2], corners of the rooms, or None if the rectangles are inside throughout.
      group: int[M], number of the alternative that each belongs to; see `placement.Where`.
    """

    low: np.ndarray
    high: np.ndarray
    weight: np.ndarray
    outline: np.ndarray | None
    group: np.ndarray


@dataclass(frozen=True)
class FixedPlan:
    """Rooms and openings that are the same in every episode. Hashable, equal by value."""

    rooms: tuple[Room, ...]
    openings: tuple[Opening, ...] = ()

    @cached_property
    def all_rooms(self) -> tuple[Room, ...]:
        """The rooms, then the passages."""
        return self._built[0]

    @cached_property
    def materials(self) -> tuple[str, ...]:
        """`plain`, then what floors, walls and ceilings are made of; a texture id is the place in this list."""
        names = ["plain"]
        for room in self.rooms:
            names += [name for name in (room.floor, room.wall, room.ceiling) if name]
        return tuple(dict.fromkeys(names))

    @cached_property
    def walls_array(self) -> Walls:
        """All walls and lintels, leaves NumPy, in MiniWorld's order: room by room, edge by edge."""
        parts = [
            room_walls(room, portals, self.materials.index(room.wall))
            for room, portals in zip(self.all_rooms, self._built[1], strict=True)
        ]
        return _concatenated(parts)

    @cached_property
    def wall_rooms(self) -> np.ndarray:
        """int32[N], for each row of `walls_array` the number of its room in `all_rooms`."""
        counts = [
            len(room_walls(room, portals, 0).exists)
            for room, portals in zip(self.all_rooms, self._built[1], strict=True)
        ]
        return np.repeat(np.arange(len(counts), dtype=np.int32), counts)

    @cached_property
    def doorways(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Lines to cross: ends float32[D, 2, 2] as (x, z), and the rooms on both sides int[D], int[D]."""
        lines, sides = self._built[2], np.array(self._built[3], np.int32).reshape(-1, 2)
        return np.array(lines, np.float32).reshape(-1, 2, 2), sides[:, 0], sides[:, 1]

    def areas(self) -> np.ndarray:
        """float64[rooms], of each room's bounds: MiniWorld draws a room with chances like these."""
        return np.array([np.prod(room.bounds[1] - room.bounds[0]) for room in self.all_rooms])

    def closed_sides(self, room: int) -> tuple[np.ndarray, np.ndarray]:
        """Which sides (x, z) of a rectangular room are one whole wall, at its low and at its high ends."""
        open_edges = [bool(portals) for portals in self._built[1][room]]
        east, north, west, south = open_edges
        return ~np.array([west, north]), ~np.array([east, south])

    @cached_property
    def _built(self) -> tuple:
        """(rooms and passages, portals of each edge of each, doorway lines, rooms on both sides of each)."""
        rooms = list(self.rooms)
        portals = [[[] for _ in room.outline] for room in rooms]
        lines, sides = [], []
        for opening in self.openings:
            a, b = opening.a, opening.b
            edge_a, edge_b = _facing_edges(rooms[a].outline, rooms[b].outline)
            ends = []
            for index, edge in ((a, edge_a), (b, edge_b)):
                room = rooms[index]
                start, end = _span(room.outline, edge, opening)
                portals[index][edge].append((start, end, room.height if opening.top is None else opening.top))
                first, along, _ = _edge(room.outline, edge)
                ends += [first + start * along, first + end * along]
            if np.linalg.norm(ends[0] - ends[3]) < _TOUCHING:
                lines.append(ends[:2])
                sides.append((a, b))
                continue
            outline = tuple((float(x), float(z)) for x, z in (ends[2], ends[1], ends[0], ends[3]))
            height = rooms[a].height if opening.top is None else opening.top
            rooms.append(replace(rooms[a], outline=outline, height=height))
            whole = [np.linalg.norm(ends[1] - ends[0]), np.linalg.norm(ends[3] - ends[2])]
            portals.append([[], [(0.0, whole[0], height)], [], [(0.0, whole[1], height)]])
            lines += [ends[:2], ends[2:]]
            sides += [(a, len(rooms) - 1), (len(rooms) - 1, b)]
        for edges in portals:
            for edge in edges:
                edge.sort()
        return tuple(rooms), portals, lines, sides


def room_walls(room: Room, portals: list[list[tuple[float, float, float]]], texture: int) -> Walls:
    """The walls of one room, leaves NumPy.

    Args:
      room: the room.
      portals: for each edge, the (start, end, top) of its openings in metres along the edge, in order.
      texture: of all its walls. It runs along each edge from its start, through openings.
    """
    pieces = []  # (edge, start, end, low, high)
    for edge in range(len(room.outline)):
        at, length = 0.0, _edge(room.outline, edge)[2]
        for start, end, top in portals[edge]:
            pieces.append((edge, at, start, 0.0, room.height))
            pieces.append((edge, start, end, top, room.height))
            at = end
        pieces.append((edge, at, length, 0.0, room.height))
    pieces = [piece for piece in pieces if piece[1] != piece[2] and piece[3] != piece[4]]
    starts, ends = [], []
    for edge, start, end, _, _ in pieces:
        first, along, _ = _edge(room.outline, edge)
        starts.append(first + start * along)
        ends.append(first + end * along)
    return Walls(
        start=np.array(starts, np.float32).reshape(-1, 2),
        end=np.array(ends, np.float32).reshape(-1, 2),
        low=np.array([piece[3] for piece in pieces], np.float32),
        high=np.array([piece[4] for piece in pieces], np.float32),
        offset=np.array([piece[1] for piece in pieces], np.float32),
        texture=np.full(len(pieces), texture, np.int32),
        exists=np.ones(len(pieces), bool),
    )


def _concatenated(parts: list[Walls]) -> Walls:
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)


def _edge(outline: Outline, edge: int) -> tuple[np.ndarray, np.ndarray, float]:
    """An edge's first corner, the unit vector along it, and its length."""
    first, second = np.array(outline[edge]), np.array(outline[(edge + 1) % len(outline)])
    length = float(np.linalg.norm(second - first))
    return first, (second - first) / length, length


def inward(along: np.ndarray) -> np.ndarray:
    """The normal of an edge into its room, from the unit vector along it."""
    return np.stack([along[..., 1], -along[..., 0]], axis=-1)


def _facing_edges(a: Outline, b: Outline) -> tuple[int, int]:
    """The first pair of edges whose normals are opposed and of which b's lies at or beyond a's."""
    for edge_a in range(len(a)):
        first_a, along_a, _ = _edge(a, edge_a)
        for edge_b in range(len(b)):
            first_b, along_b, _ = _edge(b, edge_b)
            opposed = inward(along_a) @ inward(along_b) <= -0.9
            if opposed and inward(along_a) @ (first_b - first_a) <= 0.05:
                return edge_a, edge_b
    raise ValueError(f"rooms {a} and {b} have no edges that face each other")


def _span(outline: Outline, edge: int, opening: Opening) -> tuple[float, float]:
    """Metres along an edge at which an opening starts and ends."""
    first, along, length = _edge(outline, edge)
    axis, (low, high) = (0, opening.x) if opening.x is not None else (1, opening.z)
    start, end = sorted(((low - first[axis]) / along[axis], (high - first[axis]) / along[axis]))
    if not (-1e-9 <= start < end <= length + 1e-9):
        raise ValueError(f"{opening} lies outside of the wall from {first}, {length} metres along {along}")
    return max(start, 0.0), end
