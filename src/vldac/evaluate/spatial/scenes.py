"""Rooms with things in them and a walk through them, drawn from a seed.

* A scene is one room or two with a doorway between, six things that have a name of their own ("the red box") and
  2 to 7 of one more kind that can be counted. A camera turns once round at one spot, walks to another, and turns
  once round there, as someone who films a room would.
* Held out by construction: the sides of MiniWorld's rectangular rooms are multiples of 0.25 metres, of these here
  none is; and no world of the registry has eight things or more that are not all of one kind, as every scene has.
  Materials, shapes and light are the worlds' own.
* Everything is drawn on the host with NumPy's PCG64; a scene is drawn again until all of its things are seen well
  in some frame (`sight`), so that whatever is asked about has been shown.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from envs_jax.miniworld.layout import FixedPlan, Opening, Room, rectangle
from vldac.evaluate.spatial import sight
from vldac.evaluate.spatial.geometry import Footprint, footprint, longest, reach

COLOURS = ("blue", "green", "purple", "red", "yellow")  # grey is left out: floors and walls are
SPOKEN = {"med_kit": "first aid kit", "duckie": "rubber duck", "cone": "traffic cone"}
UNIQUE = ("box", "box", "ball", "ball", "key", "key", "med_kit", "duckie", "cone")  # six of these have names
_COLOURED = ("box", "ball", "key")
COUNTED = ("box", "ball", "cone")
LEAST, MOST = 2, 7  # things to be counted
NAMED = 6
# Least and greatest height, metres.
HEIGHTS = {
    "box": (0.3, 1.25),
    "ball": (0.3, 1.15),
    "key": (0.2, 0.55),
    "med_kit": (0.35, 0.9),
    "duckie": (0.4, 1.0),
    "cone": (0.4, 1.4),
}
_COUNTED_HEIGHTS = (0.35, 0.6)
AREA = (20.0, 150.0)  # square metres, of one room
_AREA_OF_TWO = (40.0, 150.0)
WALLS = ("concrete", "brick_wall", "cinder_blocks")
FLOORS = ("floor_tiles_bw", "asphalt", "concrete_tiles")
_ROOMY = 60.0  # square metres, from which on things have these heights
_DRAWS = 64  # places for a thing, of which the first free one is taken
_GAP = 0.3  # metres between things
_TO_WALL = 0.15
_TRIES = 64  # of things in the same rooms
_TO_CAMERA = 0.7  # from a thing's circle to the camera's way


@dataclass(frozen=True, eq=False)
class Scene:
    """A scene and how it is filmed. Lengths are metres, angles radians.

    Attributes:
      number: of the scene; with the seed it decides all the rest.
      plan: one or two rectangular rooms.
      kind: of `geometry.DRAWN`, N things; the first `NAMED` have a name of their own.
      colour: of each; "" where the kind has its own.
      position: float64[N, 2], (x, z) on the floor.
      yaw, height: float64[N].
      path: float64[frames, 3], the camera's x, z and yaw.
      clear, maybe: bool[frames, N], see `sight`.
    """

    number: int
    plan: FixedPlan
    kind: tuple[str, ...]
    colour: tuple[str, ...]
    position: np.ndarray
    yaw: np.ndarray
    height: np.ndarray
    path: np.ndarray
    clear: np.ndarray
    maybe: np.ndarray

    @property
    def names(self) -> tuple[str, ...]:
        """What each thing is called: "red box", "rubber duck"."""
        return tuple(name(*pair) for pair in zip(self.kind, self.colour, strict=True))

    @property
    def count(self) -> int:
        """How many things there are of the last kind."""
        return len(self.kind) - NAMED

    @cached_property
    def footprints(self) -> tuple[Footprint, ...]:
        """Of each thing."""
        rows = zip(self.kind, self.height, self.position, self.yaw, strict=True)
        return tuple(footprint(*row) for row in rows)

    @property
    def radius(self) -> np.ndarray:
        """float64[N], of the circle around each thing's place that holds its footprint."""
        return np.array([reach(kind) for kind in self.kind]) * self.height

    @property
    def longest(self) -> np.ndarray:
        """float64[N], the longest of length, width and height."""
        return np.array([longest(kind) for kind in self.kind]) * self.height

    @property
    def area(self) -> float:
        """Of all rooms, square metres."""
        return float(sum(np.prod(room.bounds[1] - room.bounds[0]) for room in self.plan.rooms))


def name(kind: str, colour: str) -> str:
    """What a thing is called."""
    return SPOKEN.get(kind) or f"{colour} {kind}"


def draw(seed: int, number: int, frames: int, image_shape: tuple[int, int]) -> Scene:
    """One scene.

    Args:
      seed, number: decide it.
      frames: of the walk; a scene is one whose things are all seen in these.
      image_shape: (height, width) of the frames.
    """
    # Of six scenes that follow one another each has another count.
    order = np.random.default_rng([seed, 1, number // (MOST - LEAST + 1)]).permutation(MOST - LEAST + 1)
    count = LEAST + int(order[number % (MOST - LEAST + 1)])
    rng = np.random.default_rng([seed, 2, number])
    tried = 0
    while True:
        if tried % _TRIES == 0:  # the same rooms for long, or large and small ones would be rare among scenes
            plan = _plan(rng)
        tried += 1
        path, way = _walk(rng, plan, frames)
        area = sum(np.prod(room.bounds[1] - room.bounds[0]) for room in plan.rooms)
        kind, colour, height = _things(rng, count, area)
        placed = _places(rng, plan, way, [reach(k) for k in kind] * height)
        if placed is None:
            continue
        yaw = rng.uniform(-math.pi, math.pi, len(kind))
        # What is known by one side has that towards one of the camera's spots, or it would be in few scenes.
        spot = way[[0, -1][int(rng.integers(2))]] - placed
        to_spot = np.arctan2(spot[:, 0], spot[:, 1]) + rng.uniform(-0.9, 0.9)
        yaw = np.where([one in sight.MARKED for one in kind], to_spot, yaw)
        view = sight.View(walls(plan), kind, placed, yaw, height, path, image_shape)
        # The cheap question first: most draws have something that is large enough nowhere.
        if view.large().any(axis=0).all():
            clear = view.clear()
            if clear.any(axis=0).all():
                maybe = view.maybe() | clear
                return Scene(number, plan, kind, colour, placed, yaw, height, path, clear, maybe)


def walls(plan: FixedPlan) -> np.ndarray:
    """float64[W, 2, 2], the walls' ends as (x, z)."""
    made = plan.walls_array
    return np.stack([made.start, made.end], axis=1).astype(float)


def _side(rng: np.random.Generator, metres: float) -> float:
    """A length near this one, a multiple of 0.1 and not of 0.5 metres, so of no side of MiniWorld's rooms."""
    tenths = round(10 * metres)
    return (tenths + int(rng.choice((-1, 1))) if tenths % 5 == 0 else tenths) / 10


def _plan(rng: np.random.Generator) -> FixedPlan:
    """One room, or in one of three cases two with a doorway between, in x next to each other."""
    one = rng.random() < 2 / 3
    area = float(np.exp(rng.uniform(*np.log(AREA if one else _AREA_OF_TWO))))
    wall, floor = str(rng.choice(WALLS)), str(rng.choice(FLOORS))
    if one:
        shape = rng.uniform(1.0, 1.7)
        sides = math.sqrt(area * shape), math.sqrt(area / shape)
        x, z = (_side(rng, side) for side in rng.permutation(sides))
        return FixedPlan((Room(rectangle((0.0, 0.0), (x, z)), wall, floor),))
    share, ratio = rng.uniform(0.4, 0.6), rng.uniform(0.8, 1.25)
    x0, x1 = (_side(rng, math.sqrt(part * area / ratio)) for part in (share, 1 - share))
    z0, z1 = (_side(rng, part * area / x) for part, x in ((share, x0), (1 - share, x1)))
    common = min(z0, z1)
    width = float(rng.uniform(1.6, 2.4))
    begin = float(rng.uniform(0.4, common - 0.4 - width))
    rooms = (
        Room(rectangle((0.0, 0.0), (x0, z0)), wall, floor),
        Room(rectangle((x0, 0.0), (x0 + x1, z1)), wall, floor),
    )
    return FixedPlan(rooms, (Opening(0, 1, z=(begin, begin + width)),))


def _walk(rng: np.random.Generator, plan: FixedPlan, frames: int) -> tuple[np.ndarray, np.ndarray]:
    """The camera's places and yaws, float64[frames, 3], and the corners of its way, float64[k, 2]."""
    spots = [_spot(rng, plan.rooms[0]), _spot(rng, plan.rooms[-1])]
    if len(plan.rooms) == 1:
        low, high = plan.rooms[0].bounds
        while np.hypot(*(spots[1] - spots[0])) < 0.3 * np.hypot(*(high - low)):
            spots = [_spot(rng, plan.rooms[0]), _spot(rng, plan.rooms[0])]
        way = np.array(spots)
    else:
        door = plan.doorways[0][0].astype(float).mean(axis=0)
        way = np.array([spots[0], door, spots[1]])
    if rng.random() < 0.5:
        way = way[::-1]
    walked = max(1, frames // 8)
    first = (frames - walked) // 2
    last = frames - walked - first
    turned = rng.choice((-1.0, 1.0), 2)
    steps = np.diff(way, axis=0)
    lengths = np.hypot(steps[:, 0], steps[:, 1])
    yaws = np.arctan2(-steps[:, 1], steps[:, 0])
    path = [(*way[0], yaws[0] + turned[0] * 2 * math.pi * (k + 1) / first) for k in range(first)]
    for k in range(walked):
        left, leg = lengths.sum() * (k + 1) / (walked + 1), 0
        while left > lengths[leg]:
            left, leg = left - lengths[leg], leg + 1
        path.append((*(way[leg] + left / lengths[leg] * steps[leg]), yaws[leg]))
    path += [(*way[-1], yaws[-1] + turned[1] * 2 * math.pi * (k + 1) / last) for k in range(last)]
    return np.array(path), way


def _spot(rng: np.random.Generator, room: Room) -> np.ndarray:
    """A place in a room, not near its walls."""
    low, high = room.bounds
    margin = 0.22 * (high - low)
    return rng.uniform(low + margin, high - margin)


def _things(
    rng: np.random.Generator, count: int, area: float
) -> tuple[tuple[str, ...], tuple[str, ...], np.ndarray]:
    """Kinds, colours and heights: `NAMED` of different names, then `count` alike that have none of these names."""
    many = str(rng.choice(COUNTED))
    pool = [kind for kind in UNIQUE if kind != many or kind in _COLOURED]
    kinds = [str(kind) for kind in rng.choice(pool, NAMED, replace=False)]
    colours = {}
    for kind in _COLOURED:  # of each kind at most two that have names, and one colour that is counted
        colours[kind] = [str(colour) for colour in rng.permutation(COLOURS)]
    alike = colours[many].pop() if many in colours else ""
    own = [colours[kind].pop() if kind in colours else "" for kind in kinds]
    heights = [np.exp(rng.uniform(*np.log(HEIGHTS[kind]))) for kind in kinds]
    heights += list(np.exp(rng.uniform(*np.log(_COUNTED_HEIGHTS), count)))
    # In small rooms things are smaller, or there would be no place for them.
    scale = float(np.clip(math.sqrt(area / _ROOMY), 0.6, 1.0))
    return (*kinds, *(many,) * count), (*own, *(alike,) * count), scale * np.array(heights)


def _places(rng: np.random.Generator, plan: FixedPlan, way: np.ndarray, radius: np.ndarray) -> np.ndarray | None:
    """float64[N, 2], apart from each other, from the walls and from the camera's way; None if no room is found."""
    bounds = np.array([room.bounds for room in plan.rooms])  # [rooms, low or high, 2]
    sizes = np.prod(bounds[:, 1] - bounds[:, 0], axis=1)
    places = np.zeros((0, 2))
    for row, r in enumerate(radius):
        rooms = rng.choice(len(bounds), _DRAWS, p=sizes / sizes.sum())
        low, high = bounds[rooms, 0] + r + _TO_WALL, bounds[rooms, 1] - r - _TO_WALL
        drawn = low + rng.uniform(size=(_DRAWS, 2)) * (high - low)
        gap = np.linalg.norm(drawn[:, None] - places, axis=2) - radius[:row]
        free = (gap >= r + _GAP).all(axis=1) & (_to_way(drawn, way) >= r + _TO_CAMERA) & (low < high).all(axis=1)
        if not free.any():
            return None
        places = np.concatenate([places, drawn[free.argmax()][None]])
    return places


def _to_way(places: np.ndarray, way: np.ndarray) -> np.ndarray:
    """Metres from places [K, 2] to a line of straight pieces."""
    start, along = way[:-1], np.diff(way, axis=0)
    share = np.clip(((places[:, None] - start) * along).sum(axis=2) / (along**2).sum(axis=1), 0, 1)
    return np.linalg.norm(places[:, None] - start - share[..., None] * along, axis=2).min(axis=1)
