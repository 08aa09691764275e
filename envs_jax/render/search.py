"""Which surface is nearest, for every pixel: one integer maximum over all surfaces.

* The nearest surface has the largest w = 1 / depth. Its number replaces the lowest bits of w, so that the search
  is a maximum in one fused pass over the pixels; nothing of size surfaces x pixels is kept.
* A camera that looks level sees upright things upright: whether and how far away an upright facet is met depends
  on the column alone, and in a column it spans an interval of rows. `level_keys` finds the intervals once a
  column (80 columns for 4,800 pixels); a pixel only compares its row with them. So does a lying facet.
* Of upright facets of which at most one can be seen in a column, only the nearest is kept: the two sides of a box,
  and walls of one height with the eye between floor and top, of which the nearest hides all others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from envs_jax.render.facets import BOX, CEILING, FLOOR, PANEL, PATCH, WALL, labels
from envs_jax.render.rounds import Rounds, meet_ball, meet_cone
from envs_jax.render.scene import Scene

_GROWTH = 2e-5  # facets grow by this share, or rounding would leave cracks along the edges they share
_GROUP = 64  # surfaces searched in one unrolled expression; more are scanned in such groups


def low_bits(count: int) -> int:
    """Mask of the bits that hold the number of one of `count` surfaces."""
    return (1 << count.bit_length()) - 1


def pixels(image_size: tuple[int, int]) -> tuple[Float[Array, "1 w"], Float[Array, "h 1"]]:
    """Columns and rows as numbers."""
    height, width = image_size
    return jnp.arange(width, dtype=jnp.float32)[None, :], jnp.arange(height, dtype=jnp.float32)[:, None]


def pixel_keys(linear: Float[Array, "f 3 3"], image_size: tuple[int, int], mask: int) -> Int[Array, "h w"]:
    """The nearest facet of each pixel, any camera.

    Args:
      linear: see `facets.linear_of`.
      image_size: (height, width).
      mask: see `low_bits`.

    Returns:
      w with the facet's number in its lowest bits; 0 = none.
    """
    column, row = pixels(image_size)

    def test(function, number):
        w, s, t = (function[i, 0] + function[i, 1] * column + function[i, 2] * row for i in range(3))
        return _key(w, jnp.maximum(jnp.abs(s), jnp.abs(t)) < w, number, mask)

    tests = _tests(linear)[1:]
    return _search(image_size, test, tests, np.arange(1, 1 + len(tests), dtype=np.int32))


def level_keys(
    linear: Float[Array, "f 3 3"], scene: Scene, image_size: tuple[int, int], mask: int
) -> Int[Array, "h w"]:
    """The same for a camera of pitch 0."""
    tests = _tests(linear).at[0].set(0.0)  # number 0 fills rows that are shorter: it is never met
    upright, lying = _sorted(scene)
    column, row = pixels(image_size)
    best = jnp.zeros(image_size, jnp.int32)
    if len(upright):
        tables = jax.lax.optimization_barrier(_upright(tests, upright, column[0], mask))
        best = jnp.maximum(
            best,
            _search(
                image_size, lambda key, middle, half: jnp.where(jnp.abs(row - middle) < half, key, 0), *tables
            ),
        )
    begin, end = jax.lax.optimization_barrier(_lying(tests[lying], column[0]))

    def test(begin, end, function, number):
        return _key(function[0] + function[2] * row, (begin < row) & (row < end), number, mask)

    return jnp.maximum(best, _search(image_size, test, begin, end, tests[lying, 0], lying.astype(np.int32)))


def round_keys(
    rounds: Rounds,
    functions: tuple[Float[Array, "r 8 3"], Float[Array, " r"]],
    image_size: tuple[int, int],
    mask: int,
    first: int,
) -> Int[Array, "h w"]:
    """The nearest ball or cone of each pixel, any camera; their numbers begin at `first`."""
    column, row = pixels(image_size)
    split = rounds.balls

    def at(function):
        return lambda i: function[i, 0] + function[i, 1] * column + function[i, 2] * row

    def ball(function, inverse_c, number):
        return _key(*meet_ball(at(function), inverse_c), number, mask)

    def cone(function, inverse_c, below, above, number):
        return _key(*meet_cone(at(function), inverse_c, below, above), number, mask)

    function, inverse_c = functions
    numbers = np.arange(first, first + len(rounds.gain), dtype=np.int32)
    balls = _search(image_size, ball, function[:split], inverse_c[:split], numbers[:split])
    cones = (x[split:] for x in (function, inverse_c, rounds.below, rounds.above, numbers))
    return jnp.maximum(balls, _search(image_size, cone, *cones))


def _search(image_size, test: Callable[..., Array], *tables: Array | np.ndarray) -> Int[Array, "h w"]:
    """The largest of `test(*rows)` over the rows of tables [N, ...], 0 if none is positive.

    Tables are filled up with zeros, of which a test must give 0.
    """
    count = len(tables[0])
    best = jnp.zeros(image_size, jnp.int32)
    if count <= _GROUP:
        for k in range(count):
            best = jnp.maximum(best, test(*(table[k] for table in tables)))
        return best
    groups = -(-count // _GROUP)
    spare = groups * _GROUP - count
    parts = [
        jnp.pad(table, ((0, spare), *((0, 0),) * (table.ndim - 1))).reshape(groups, _GROUP, *table.shape[1:])
        for table in tables
    ]

    def scanned(best, group):
        for k in range(_GROUP):
            best = jnp.maximum(best, test(*(table[k] for table in group)))
        return best, None

    return jax.lax.scan(scanned, best, parts)[0]


def _key(w, met, number, mask: int):
    """Positive floats are ordered like their bits read as integers."""
    return jnp.where(met, (jax.lax.bitcast_convert_type(w, jnp.int32) & ~mask) | number, 0)


def _tests(linear: Float[Array, "f 3 3"]) -> Float[Array, "f 3 3"]:
    """w, and s w and t w from the facet's middle and scaled: it is met where |s'|, |t'| < w; zeros are not."""
    scale = 2.0 / (1.0 + 2.0 * _GROWTH)
    w = linear[:, 0]
    return jnp.stack([w, (linear[:, 1] - w / 2) * scale, (linear[:, 2] - w / 2) * scale], axis=1)


def _sorted(scene: Scene) -> tuple[Int[np.ndarray, "v k"], Int[np.ndarray, " t"]]:
    """Numbers of the upright facets, in rows of which one is seen in a column (0 fills), and of the lying ones."""
    kind, _ = labels(scene)
    rows: list[Sequence[int]] = []
    walls = np.flatnonzero(kind == WALL)
    groups = np.array(scene.walls.alike or [-1] * len(walls), np.int64)
    if len(groups) != len(walls):
        raise ValueError(f"alike has {len(groups)} numbers for {len(walls)} walls; accepted: one a wall, or ()")
    rows += [walls[groups == group] for group in np.unique(groups[groups >= 0])]
    rows += [[wall] for wall in walls[groups < 0]]
    rows += [[panel] for panel in np.flatnonzero(kind == PANEL)]
    faces = np.flatnonzero(kind == BOX).reshape(-1, 3)  # across x, y, z; the second lies
    rows += list(faces[:, [0, 2]])
    upright = np.zeros((len(rows), max(map(len, rows), default=1)), np.int64)
    for row, numbers in zip(upright, rows, strict=True):
        row[: len(numbers)] = numbers
    lying = np.flatnonzero(np.isin(kind, (FLOOR, CEILING, PATCH)))
    return upright, np.concatenate([lying, faces[:, 1]])


def _upright(tests, numbers: Int[np.ndarray, "v k"], column: Float[Array, " w"], mask: int):
    """Key, middle and half of the interval of rows that each row of facets spans: three [V, W]."""

    def nearest(numbers):  # [K] -> key [W]
        w, s = (tests[numbers, i, 0, None] + tests[numbers, i, 1, None] * column for i in range(2))
        return jnp.max(_key(w, jnp.abs(s) < w, numbers[:, None], mask), axis=0)

    # Rows of a kind together: one long group of walls does not make all others as long.
    length = np.sum(numbers > 0, axis=1)
    key = [None] * len(numbers)
    for count in np.unique(length):
        alike = np.flatnonzero(length == count)
        some = jax.vmap(nearest)(jnp.asarray(numbers[alike, :count], jnp.int32))
        for place, row in enumerate(alike):
            key[row] = some[place]
    key = jnp.stack(key)
    number = key & mask
    w = tests[number, 0, 0] + tests[number, 0, 1] * column
    t = tests[number, 2, 0] + tests[number, 2, 1] * column
    by_row = tests[number, 2, 2]
    by_row = jnp.where(key > 0, by_row, 1.0)
    return key, -t / by_row, jnp.where(key > 0, w / jnp.abs(by_row), 0.0)


def _lying(tests: Float[Array, "t 3 3"], column: Float[Array, " w"]):
    """Between which rows each lying facet is met: two [T, W]."""
    w, s, t = (tests[:, i, 0, None] + tests[:, i, 1, None] * column for i in range(3))
    w_row, s_row, t_row = (tests[:, i, 2, None] for i in range(3))
    begin, end = jnp.full_like(w, -jnp.inf), jnp.full_like(w, jnp.inf)
    # Four conditions value + row slope > 0.
    for value, slope in (
        (w - s, w_row - s_row),
        (w + s, w_row + s_row),
        (w - t, w_row - t_row),
        (w + t, w_row + t_row),
    ):
        at = -value / jnp.where(slope == 0, 1.0, slope)
        begin = jnp.where(slope > 0, jnp.maximum(begin, at), begin)
        end = jnp.where(slope < 0, jnp.minimum(end, at), end)
        end = jnp.where((slope == 0) & (value <= 0), -jnp.inf, end)
    return begin, end
