"""The tasks `push`, `sort` and `reach`: each draws an episode and makes the world; `world` has what is common."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

from envs_jax.heldout import Split
from envs_jax.physics.spots import corners, others, spots
from envs_jax.physics.table import HALF, WALL_LENGTH, WALL_RADIUS
from envs_jax.physics.words import ID, NAMES, SHAPES
from envs_jax.physics.world import Episode, TableTop, Task, codes, pick

IMAGE_SHAPE = (112, 112, 3)
_COLOURS = len(NAMES)
_PAIRS = tuple((a, b) for a in range(_COLOURS) for b in range(a + 1, _COLOURS))
# Metres: of the walls from the middle; half a gap; how far its middle may be aside.
WALL_PLACE, GAP, GAP_PLACE = 0.16, 0.1, 0.27


def push_is_test(instance: int) -> bool:
    """Of `push`: puck colour * 6 + pad colour; 8 of 36, every colour among them on both sides."""
    puck, pad = divmod(instance, _COLOURS)
    return (puck + 2 * pad) % 5 == 0


def sort_is_test(instance: int) -> bool:
    """Of `sort`: the number of a pair of colours; red and green, blue and yellow, purple and cyan, 3 of 15."""
    first, second = _PAIRS[instance]
    return first % 2 == 0 and second == first + 1


def reach_is_test(instance: int) -> bool:
    """Of `reach`: colour * 3 + shape; 4 of 18: red and cyan square, yellow disc, green diamond."""
    colour, shape = divmod(instance, len(SHAPES))
    return (colour + 2 * shape) % 5 == 0


def draw_push(key: PRNGKeyArray, split: str) -> Episode:
    """Three pucks and three pads, each three of different colours; the first of each belong together."""
    goal_key, puck_key, pad_key, place_key = jax.random.split(key, 4)
    puck, pad = jnp.divmod(pick(goal_key, codes(_COLOURS**2, push_is_test, split)), _COLOURS)
    places = spots(place_key, 7)
    return Episode(
        pucks=places[:3],
        puck_colours=jnp.concatenate([puck[None], others(puck_key, puck, 2)]),
        pads=places[3:6],
        pad_colours=jnp.concatenate([pad[None], others(pad_key, pad, 2)]),
        pad_shapes=jnp.zeros(3, jnp.int32),
        walls=jnp.zeros((0, 2), jnp.float32),
        pusher=places[6],
        told=jnp.stack([jnp.int32(ID["push"]), puck, jnp.int32(ID["to"]), pad]),
    )


def draw_sort(key: PRNGKeyArray, split: str) -> Episode:
    """Two pucks, and the two pads of their colours in two corners."""
    goal_key, order_key, place_key = jax.random.split(key, 3)
    pair = jnp.asarray(_PAIRS, jnp.int32)[pick(goal_key, codes(len(_PAIRS), sort_is_test, split))]
    colours = jax.random.permutation(order_key, pair)
    pads, places = corners(place_key, 3)
    return Episode(
        pucks=places[:2],
        puck_colours=colours,
        pads=pads,
        pad_colours=colours,
        pad_shapes=jnp.zeros(2, jnp.int32),
        walls=jnp.zeros((0, 2), jnp.float32),
        pusher=places[2],
        told=jnp.stack([jnp.int32(ID["sort"]), colours[0], jnp.int32(ID["and"]), colours[1]]),
    )


def draw_reach(key: PRNGKeyArray, split: str) -> Episode:
    """Two walls, each with a gap, and three pads: the goal, one of its shape only, one of its colour only."""
    goal_key, colour_key, shape_key, place_key, jitter_key, gap_key = jax.random.split(key, 6)
    colour, shape = jnp.divmod(pick(goal_key, codes(_COLOURS * len(SHAPES), reach_is_test, split)), len(SHAPES))
    different = (shape + jax.random.randint(shape_key, (), 1, len(SHAPES))) % len(SHAPES)
    x, y = jnp.meshgrid(jnp.array([-0.28, 0.0, 0.28]), jnp.array([-0.32, 0.0, 0.32]))
    grid = jnp.stack([x.reshape(-1), y.reshape(-1)], axis=1)
    places = jax.random.permutation(place_key, grid)[:4]
    places += jax.random.uniform(jitter_key, (4, 2), jnp.float32, -0.02, 0.02)
    gaps = jax.random.uniform(gap_key, (2,), jnp.float32, -GAP_PLACE, GAP_PLACE)
    reach = GAP + WALL_RADIUS + WALL_LENGTH / 2  # from the middle of a gap to the middle of a wall beside it
    ys = jnp.array([-WALL_PLACE, WALL_PLACE], jnp.float32)
    walls = jnp.concatenate([jnp.stack([gaps + side * reach, ys], axis=1) for side in (-1, 1)])
    return Episode(
        pucks=jnp.zeros((0, 2), jnp.float32),
        puck_colours=jnp.zeros(0, jnp.int32),
        pads=places[:3],
        pad_colours=jnp.stack([colour, others(colour_key, colour, 1)[0], colour]),
        pad_shapes=jnp.stack([shape, shape, different]),
        walls=walls,
        pusher=places[3],
        told=jnp.stack([jnp.int32(ID["reach"]), colour, ID[SHAPES[0]] + shape, jnp.int32(-1)]),
    )


# A wall beside a gap that is as far aside as it may be still ends beyond the border.
assert GAP_PLACE - GAP - WALL_RADIUS - WALL_LENGTH < -HALF

PUSH = Task(
    instruction="Push the puck of the first colour onto the square of the second colour. The pusher has four "
    "fingers and pushes what is in front of it: get behind the puck first.",
    pucks=3,
    walls=0,
    counts=1,
    draw=draw_push,
    max_steps=60,
)
SORT = Task(
    instruction="Push each puck onto the square of its own colour. The pusher has four fingers and pushes what "
    "is in front of it: get behind a puck first.",
    pucks=2,
    walls=0,
    counts=2,
    draw=draw_sort,
    max_steps=100,
)
REACH = Task(
    instruction="Bring the pusher with its four fingers onto the mark of the colour and shape that is named. "
    "Walls stop it: go through their gaps.",
    pucks=0,
    walls=4,
    counts=0,
    draw=draw_reach,
    max_steps=40,
)


def push(
    name: str = "physics/push",
    image_shape: tuple[int, int, int] = IMAGE_SHAPE,
    max_steps: int = PUSH.max_steps,
    progress: float = 0.0,
    split: Split = "all",
) -> TableTop:
    """`physics/push`: the named puck of three onto the named square of three.

    An instance is the pair of puck colour and square colour (36); see `push_is_test`.
    """
    return TableTop(name, PUSH, image_shape, max_steps, progress, split)


def sort(
    name: str = "physics/sort",
    image_shape: tuple[int, int, int] = IMAGE_SHAPE,
    max_steps: int = SORT.max_steps,
    progress: float = 0.0,
    split: Split = "all",
) -> TableTop:
    """`physics/sort`: two pucks, each onto the square of its colour.

    An instance is the pair of colours (15); see `sort_is_test`.
    """
    return TableTop(name, SORT, image_shape, max_steps, progress, split)


def reach(
    name: str = "physics/reach",
    image_shape: tuple[int, int, int] = IMAGE_SHAPE,
    max_steps: int = REACH.max_steps,
    progress: float = 0.0,
    split: Split = "all",
) -> TableTop:
    """`physics/reach`: through the gaps of two walls to the mark of the named colour and shape.

    One other mark has the colour only, one the shape only. An instance is colour and shape (18); see
    `reach_is_test`.
    """
    return TableTop(name, REACH, image_shape, max_steps, progress, split)
