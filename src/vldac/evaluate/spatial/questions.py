"""VSI-Bench's ten kinds of questions on a scene, worded as there, answered from its plan.

Rules of the answers, after the paper (Yang et al., arXiv 2412.14171, appendix B) and its templates:

* counting: things of one kind and colour, two or more. Sizes: the longest of length, width and height, whole
  centimetres. Rooms: square metres of all that is shown.
* distances: between the closest points, here of the footprints. The nearest one is nearer than the next by
  `NEARER` metres and by a fifth.
* directions: standing at one thing, facing a second, where is the third; at least `SURE_TURN` degrees from where
  the answer changes (of three answers "left" and "right" begin at twice that), and the same answer wherever one
  stands around the first.
* routes: straight ways from thing to thing with nothing in the way, turns near 90 and 180 degrees.
* order: a thing is not to be seen at all, however small, before the one that comes earlier is seen well.

A kind's question is asked of a scene only if the scene has one with the answer that is wanted, so that answers are
balanced; None says that it has none. Where options are drawn beside the right one they are drawn as it is, so
that nothing tells it but the scene.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise, permutations

import numpy as np

from vldac.evaluate.spatial.geometry import bearing, crosses, distance, to_way
from vldac.evaluate.spatial.scenes import NAMED, Scene, walls

NEARER = 0.4  # metres
SURE_TURN = 15.0  # degrees
_BESIDE = 0.4  # metres from a thing to who stands by it
_CLEARANCE = 0.25  # metres beside a route
TURNS = ("Turn Left", "Turn Right", "Turn Back")
SIDES = ("left", "right")
SECTORS = ("left", "right", "back")
QUADRANTS = ("front-left", "front-right", "back-left", "back-right")
_SIZES = (18, 140)  # centimetres that are asked for, where there are such
_DISTANCES = (0.5, 10.0)  # metres


@dataclass(frozen=True)
class Asked:
    """A question without its prompt.

    Attributes:
      text: in words.
      truth: a letter, or a number in words.
      options: "A. ..." each, () where a number is asked for.
      about: rows of the things that it names.
    """

    text: str
    truth: str
    options: tuple[str, ...]
    about: tuple[int, ...]


@dataclass(frozen=True)
class Wanted:
    """What the next question of a kind is to be answered.

    Attributes:
      answer: place in the kind's answers: a direction, a pair of turns; 0 where there is no such list.
      letter: place of the right option.
    """

    answer: int
    letter: int


Kind = Callable[[Scene, Wanted, np.random.Generator], Asked | None]


def object_counting(scene: Scene, wanted: Wanted, rng: np.random.Generator) -> Asked | None:
    """2 to 7, equally often."""
    rows = tuple(range(NAMED, len(scene.kind)))
    return Asked(f"How many {scene.names[-1]}(s) are in this room?", str(scene.count), (), rows)


def object_abs_distance(scene: Scene, wanted: Wanted, rng: np.random.Generator) -> Asked | None:
    """The pair of named things whose distance is nearest to one drawn with equal chances per factor."""
    aim = math.exp(rng.uniform(*np.log(_DISTANCES)))
    pairs = {pair: distance(*(scene.footprints[row] for row in pair)) for pair in permutations(range(NAMED), 2)}
    far = {pair: metres for pair, metres in pairs.items() if metres >= _DISTANCES[0] and pair[0] < pair[1]}
    if not far:
        return None
    a, b = min(far, key=lambda pair: abs(math.log(far[pair] / aim)))
    text = (
        "Measuring from the closest point of each object, what is the distance between the "
        f"{scene.names[a]} and the {scene.names[b]} (in meters)?"
    )
    return Asked(text, f"{far[a, b]:.2f}", (), (a, b))


def object_size_estimation(scene: Scene, wanted: Wanted, rng: np.random.Generator) -> Asked | None:
    """The named thing whose longest side is nearest to one drawn with equal chances per factor."""
    aim = math.exp(rng.uniform(*np.log(_SIZES)))
    centimetres = 100 * scene.longest[:NAMED]
    row = int(np.abs(np.log(centimetres / aim)).argmin())
    text = (
        "What is the length of the longest dimension (length, width, or height) of the "
        f"{scene.names[row]}, measured in centimeters?"
    )
    return Asked(text, str(round(centimetres[row])), (), (row,))


def room_size_estimation(scene: Scene, wanted: Wanted, rng: np.random.Generator) -> Asked | None:
    """Of all rooms together."""
    text = (
        "What is the size of this room (in square meters)? "
        "If multiple rooms are shown, estimate the size of the combined space."
    )
    return Asked(text, f"{scene.area:.1f}", (), ())


def object_rel_distance(scene: Scene, wanted: Wanted, rng: np.random.Generator) -> Asked | None:
    """Which of four is the closest to a fifth."""
    for row in rng.permutation(NAMED).tolist():
        others = [other for other in range(NAMED) if other != row]
        metres = {other: distance(scene.footprints[row], scene.footprints[other]) for other in others}
        for left_out in rng.permutation(others).tolist():
            four = [other for other in rng.permutation(others).tolist() if other != left_out]
            first, second = sorted(four, key=metres.get)[:2]
            if metres[second] < max(metres[first] + NEARER, 1.2 * metres[first]):
                continue
            four.remove(first)
            four.insert(wanted.letter, first)
            names = [scene.names[other] for other in four]
            text = (
                "Measuring from the closest point of each object, which of these objects "
                f"({', '.join(names)}) is the closest to the {scene.names[row]}?"
            )
            return Asked(text, _letter(wanted.letter), _lettered(names), (row, *four))
    return None


def object_rel_direction_easy(scene: Scene, wanted: Wanted, rng: np.random.Generator) -> Asked | None:
    """Left or right."""
    tail = "is the {2} to the left or the right of the {1}?"
    return _direction(scene, wanted, rng, tail, SIDES, side)


def object_rel_direction_medium(scene: Scene, wanted: Wanted, rng: np.random.Generator) -> Asked | None:
    """Left, right or back."""
    tail = (
        "is the {2} to my left, right, or back? An object is to my back if I would have to turn at least 135 "
        "degrees in order to face it."
    )
    return _direction(scene, wanted, rng, tail, SECTORS, sector)


def object_rel_direction_hard(scene: Scene, wanted: Wanted, rng: np.random.Generator) -> Asked | None:
    """One of four quadrants."""
    tail = (
        "is the {2} to my front-left, front-right, back-left, or back-right? The directions refer to the "
        "quadrants of a Cartesian plane (if I am standing at the origin and facing along the positive y-axis)."
    )
    return _direction(scene, wanted, rng, tail, QUADRANTS, quadrant)


def route_planning(scene: Scene, wanted: Wanted, rng: np.random.Generator) -> Asked | None:
    """Two turns to be filled in on a way past four things; beside the right pair three others."""
    pairs = [(a, b) for a in TURNS for b in TURNS]
    right = pairs[wanted.answer]
    barred = walls(scene.plan)
    # Two forms, as in VSI-Bench: a turn at once, or straight on first.
    turns_at_once = bool(rng.random() < 0.5)
    for a, b, c, d in _shuffled(permutations(range(NAMED), 4), rng):
        place = scene.position
        if turns_at_once:  # at a facing b; to c; to d
            ways = ((a, c), (c, d))
            angles = bearing(place[a], place[b], place[c]), bearing(place[c], 2 * place[c] - place[a], place[d])
        else:  # at a facing b; to b; to c; to d
            ways = ((a, b), (b, c), (c, d))
            angles = (
                bearing(place[b], 2 * place[b] - place[a], place[c]),
                bearing(place[c], 2 * place[c] - place[b], place[d]),
            )
        if tuple(map(turn, angles)) != right or not all(_open(scene, barred, *way) for way in ways):
            continue
        names = [scene.names[row] for row in (a, b, c, d)]
        blank, on = "[please fill in]", "Go forward until the {}"
        steps = [blank, on.format(names[2]), blank, on.format(names[3])]
        if not turns_at_once:
            steps.insert(0, on.format(names[1]))
        actions = " ".join(f"{number}. {step}" for number, step in enumerate(steps, start=1))
        text = (
            f"You are a robot beginning at the {names[0]} facing the {names[1]}. You want to navigate to the "
            f"{names[3]}. You will perform the following actions (Note: for each [please fill in], choose either "
            f"'turn back,' 'turn left,' or 'turn right.'): {actions}. You have reached the final destination."
        )
        others = [pair for pair in pairs if pair != right]
        chosen = [others[i] for i in rng.choice(len(others), 3, replace=False)]
        chosen.insert(wanted.letter, right)
        return Asked(text, _letter(wanted.letter), _lettered(map(", ".join, chosen)), (a, b, c, d))
    return None


def obj_appearance_order(scene: Scene, wanted: Wanted, rng: np.random.Generator) -> Asked | None:
    """The order in which four things are seen first; beside it three other orders."""
    clear, maybe = (table.argmax(axis=0) for table in (scene.clear, scene.maybe))
    for four in _shuffled(permutations(range(NAMED), 4), rng):
        if any(clear[one] >= maybe[next_] for one, next_ in pairwise(four)):
            continue
        orders = [order for order in permutations(four) if order != four]
        chosen = [orders[i] for i in rng.choice(len(orders), 3, replace=False)]
        chosen.insert(wanted.letter, four)
        options = [", ".join(scene.names[row] for row in order) for order in chosen]
        asked = ", ".join(scene.names[row] for row in rng.permutation(four))
        text = f"What will be the first-time appearance order of the following categories in the video: {asked}?"
        return Asked(text, _letter(wanted.letter), _lettered(options), four)
    return None


# In VSI-Bench's order; how many answers are to be had equally often, how many options there are.
KINDS: dict[str, tuple[Kind, int, int]] = {
    "object_counting": (object_counting, 1, 1),
    "object_abs_distance": (object_abs_distance, 1, 1),
    "object_size_estimation": (object_size_estimation, 1, 1),
    "room_size_estimation": (room_size_estimation, 1, 1),
    "object_rel_distance": (object_rel_distance, 1, 4),
    "object_rel_direction_easy": (object_rel_direction_easy, len(SIDES), len(SIDES)),
    "object_rel_direction_medium": (object_rel_direction_medium, len(SECTORS), len(SECTORS)),
    "object_rel_direction_hard": (object_rel_direction_hard, len(QUADRANTS), len(QUADRANTS)),
    "route_planning": (route_planning, len(TURNS) ** 2, 4),
    "obj_appearance_order": (obj_appearance_order, 1, 4),
}


def side(degrees: float, sure: float = SURE_TURN) -> str | None:
    """Where something at a bearing (`geometry.bearing`) is; None within `sure` degrees of where that changes."""
    return SIDES[degrees < 0] if sure <= abs(degrees) <= 150 - sure else None


def sector(degrees: float, sure: float = SURE_TURN) -> str | None:
    """As `side`, of three sectors. "Back" begins at 135 degrees; straight on is left or right of no one."""
    if abs(degrees) >= 135 + sure:
        return "back"
    return SECTORS[degrees < 0] if 2 * sure <= abs(degrees) <= 135 - sure else None


def quadrant(degrees: float, sure: float = SURE_TURN) -> str | None:
    """As `side`, of four quadrants."""
    aside = abs(degrees) % 90
    return QUADRANTS[2 * (abs(degrees) > 90) + (degrees < 0)] if sure <= aside <= 90 - sure else None


def turn(degrees: float) -> str | None:
    """The turn of a route that a bearing is, None if it is between two."""
    if abs(degrees) >= 155:
        return "Turn Back"
    return TURNS[degrees < 0] if 55 <= abs(degrees) <= 125 else None


def _direction(
    scene: Scene,
    wanted: Wanted,
    rng: np.random.Generator,
    tail: str,
    answers: tuple[str, ...],
    where: Callable[..., str | None],
) -> Asked | None:
    """A question on three things of which the first is stood at, the second faced, the third asked for."""
    right = answers[wanted.answer]
    for a, b, c in _shuffled(permutations(range(NAMED), 3), rng):
        place = scene.position
        if where(bearing(place[a], place[b], place[c])) != right:
            continue
        ring = scene.radius[a] + _BESIDE
        around = [place[a] + ring * np.array([math.cos(t), math.sin(t)]) for t in np.arange(8) * math.pi / 4]
        if any(where(bearing(spot, place[b], place[c]), 0.0) != right for spot in around):
            continue
        if min(np.hypot(*(place[a] - place[row])) - scene.radius[row] for row in (b, c)) < 1.5 * ring:
            continue
        names = [scene.names[row] for row in (a, b, c)]
        text = f"If I am standing by the {names[0]} and facing the {names[1]}, " + tail.format(*names)
        options = [answer for answer in rng.permutation(answers).tolist() if answer != right]
        options.insert(wanted.letter, right)
        return Asked(text, _letter(wanted.letter), _lettered(options), (a, b, c))
    return None


def _open(scene: Scene, barred: np.ndarray, a: int, b: int) -> bool:
    """Whether one can walk straight from a to b."""
    start, end = scene.position[a], scene.position[b]
    if crosses(start[None], end[None], barred[:, 0], barred[:, 1]).any():
        return False
    return all(
        to_way(scene.position[row], start, end) >= scene.radius[row] + _CLEARANCE
        for row in range(len(scene.kind))
        if row not in (a, b)
    )


def _shuffled(rows: Iterable[tuple[int, ...]], rng: np.random.Generator) -> list[tuple[int, ...]]:
    rows = list(rows)
    return [rows[i] for i in rng.permutation(len(rows))]


def _letter(place: int) -> str:
    return "ABCD"[place]


def _lettered(options: Iterable[str]) -> tuple[str, ...]:
    return tuple(f"{_letter(place)}. {option}" for place, option in enumerate(options))
