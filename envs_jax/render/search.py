"""Which surface is nearest, for every pixel: one integer maximum over all surfaces.

* The nearest surface has the largest w = 1 / depth. Its number replaces the lowest bits of w, so that the search
  is a maximum in one fused pass over the pixels; nothing of size surfaces x pixels is kept.
* A camera that looks level sees upright things upright: whether and how far away an upright facet is met depends
  on the column alone, and in a column it spans an interval of rows. `level_keys` finds the intervals once a
  column (80 columns for 4,800 pixels); a pixel only compares its row with them. So does a lying facet.
* Of many surfaces a column's own are found first, see `columns`: with a level camera one may know which they are.
* Of upright facets of which at most one can be seen in a column, only the nearest is kept: the two sides of a box,
  and walls of one height with the eye between floor and top, of which the nearest hides all others.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from envs_jax.render.columns import search_few
from envs_jax.render.facets import BOX, CEILING, FLOOR, PANEL, PATCH, WALL, labels
from envs_jax.render.rounds import Rounds, meet_ball, meet_cone
from envs_jax.render.scene import Scene

_GROWTH = 2e-5  # facets grow by this share, or rounding would leave cracks along the edges they share
_GROUP = 64  # surfaces searched in one unrolled expression; more are scanned in such groups
_MANY = 12  # surfaces of a kind, of more than which a column's own are found first
_AT_ONCE = {"upright": 6, "lying": 5, "round": 5}  # taken out of a column's set at once; a round costs as one more


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
    tests = _tests(linear)
    upright, lying = _sorted(scene)
    column, _ = pixels(image_size)
    best = jnp.zeros(image_size, jnp.int32)
    if upright:
        parts = [_upright(tests, rows, column[0], mask) for rows in upright]
        tables = jax.lax.optimization_barrier([jnp.concatenate(part) for part in zip(*parts, strict=True)])
        best = _upright_keys(tables, image_size)
    ends = jax.lax.optimization_barrier(_lying(tests[lying], column[0]))
    of = tests[lying, 0, 0], tests[lying, 0, 2], jnp.asarray(lying, jnp.int32)
    return jnp.maximum(best, _lying_keys(ends, of, image_size, mask))


def _upright_keys(tables, image_size) -> Int[Array, "h w"]:
    """Of the key, middle and half of what `_upright` found, three [V, W]."""
    _, row = pixels(image_size)

    def test(key, middle, half):
        return jnp.where(jnp.abs(row - middle) < half, key, 0)

    _, middle, half = tables
    if len(middle) <= _MANY:
        return _search(image_size, test, *tables)
    nearest = jnp.clip(jnp.round(middle), 0.0, image_size[0] - 1.0)  # of all rows, the one closest to the middle
    present = jnp.abs(nearest - middle) < half

    def read(number):
        key, middle, half = (_in_columns(table, number) for table in tables)
        return key, middle, jnp.where(number < 0, 0.0, half)

    return search_few(image_size, present, read, test, _AT_ONCE["upright"])


def _lying_keys(ends, of, image_size, mask: int) -> Int[Array, "h w"]:
    """Of the begin and end that `_lying` found, two [T, W], and constant, slope by row and number, three [T]."""
    _, row = pixels(image_size)

    def test(begin, end, w, by_row, number):
        return _key(w + by_row * row, (begin < row) & (row < end), number, mask)

    begin, end = ends
    if len(begin) <= _MANY:
        return _search(image_size, test, *ends, *of)
    first = jnp.maximum(jnp.floor(begin) + 1.0, 0.0)  # row after the begin
    present = (first < end) & (first <= image_size[0] - 1)

    def read(number):
        place = jnp.maximum(number, 0)
        begin, end = (_in_columns(table, number) for table in ends)
        return jnp.where(number < 0, jnp.inf, begin), end, *(_at(values, place) for values in of)

    return search_few(image_size, present, read, test, _AT_ONCE["lying"])


def round_keys(
    rounds: Rounds,
    functions: tuple[Float[Array, "r 8 3"], Float[Array, " r"]],
    image_size: tuple[int, int],
    mask: int,
    first: int,
    level: bool,
) -> Int[Array, "h w"]:
    """The nearest ball or cone of each pixel; their numbers begin at `first`. `level`: the camera's pitch is 0."""
    column, row = pixels(image_size)
    split, count = rounds.balls, len(rounds.gain)

    def at(function):
        return lambda i: function[i, 0] + function[i, 1] * column + function[i, 2] * row

    def ball(function, inverse_c, number):
        return _key(*meet_ball(at(function), inverse_c), number, mask)

    def cone(function, inverse_c, below, above, number):
        return _key(*meet_cone(at(function), inverse_c, below, above), number, mask)

    function, inverse_c = functions
    numbers = np.arange(first, first + count, dtype=np.int32)
    balls = _search(image_size, ball, function[:split], inverse_c[:split], numbers[:split])
    if level and count - split > _MANY:
        only = jax.tree.map(lambda leaf: leaf[split:], (rounds, functions))
        return jnp.maximum(balls, _cone_keys(*only, image_size, mask, first + split))
    cones = (x[split:] for x in (function, inverse_c, rounds.below, rounds.above, numbers))
    return jnp.maximum(balls, _search(image_size, cone, *cones))


def _cone_keys(cones: Rounds, functions, image_size, mask: int, first: int) -> Int[Array, "h w"]:
    """`round_keys` of many cones and a level camera."""
    column, row = pixels(image_size)
    function, inverse_c = functions
    of_column, of_row = (3, 4, 5, 6), (3, 5, 6)  # which functions `meet_cone` needs, and which change with the row

    def test(inverse_c, below, above, number, *values):
        own = dict(zip(of_column, values[: len(of_column)], strict=True))
        slopes = dict(zip(of_row, values[len(of_column) :], strict=True))

        def at(i):
            if i == 7:  # the ray's height, the same for all
                return function[0, 7, 0] + function[0, 7, 2] * row
            return own[i] + slopes[i] * row if i in of_row else own[i]

        return _key(*meet_cone(at, inverse_c, below, above), number, mask)

    def read(number):
        place = jnp.maximum(number, 0)
        inverse, below, above = (_at(values, place) for values in (inverse_c, cones.below, cones.above))
        own = (_at(function[:, i, 0], place) + _at(function[:, i, 1], place) * column for i in of_column)
        slopes = (_at(function[:, i, 2], place) for i in of_row)
        return jnp.where(number < 0, 0.0, inverse), below, above, place + first, *own, *slopes

    return search_few(image_size, _may_show(cones, functions, column), read, test, _AT_ONCE["round"])


def _may_show(rounds: Rounds, functions, column: Float[Array, "1 w"]) -> Bool[Array, "r w"]:
    """Whether the upright plane through the eye and a column comes within reach of each round's axis, ahead.

    All in a round's own coordinates. The plane's direction is (x, z), the eye's place o: it is |o x (x, z)| away.
    """
    function, inverse_c = functions
    x, z, away = (function[:, i, 0, None] + function[:, i, 1, None] * column for i in (0, 2, 4))
    along = rounds.eye[:, 0, None] * x + rounds.eye[:, 2, None] * z  # less than 0: the axis is ahead
    reach = (1.001 * rounds.reach[:, None] + 1e-4) * jnp.sqrt(x**2 + z**2)
    return (inverse_c[:, None] != 0) & (jnp.abs(away) < reach) & (along < reach)


def _at(values: Array, place: Int[Array, "k w"]) -> Array:
    """values [V] at the places."""
    return values.at[place].get(mode="promise_in_bounds", wrap_negative_indices=False)


def _in_columns(table: Float[Array, "v w"] | Int[Array, "v w"], number: Int[Array, "k w"]) -> Array:
    """Of each column of the table what stands at its numbers; anything for -1."""
    return jnp.take_along_axis(table, jnp.maximum(number, 0), axis=0, mode="promise_in_bounds")


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
    size = -(-count // groups)  # 150 surfaces are three groups of 50
    spare = groups * size - count
    parts = [
        jnp.pad(table, ((0, spare), *((0, 0),) * (table.ndim - 1))).reshape(groups, size, *table.shape[1:])
        for table in tables
    ]

    def scanned(best, group):
        for k in range(size):
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


def _sorted(scene: Scene) -> tuple[list[Int[np.ndarray, "v k"]], Int[np.ndarray, " t"]]:
    """Numbers of the upright facets, in rows of which one is seen in a column, and of the lying ones.

    Worked example, two walls alike (facets 3, 4) and a box (5 to 7): upright [[3, 4]] and [[5, 7]], lying 1, 2, 6.
    """
    kind, _ = labels(scene)
    walls, panels = np.flatnonzero(kind == WALL), np.flatnonzero(kind == PANEL)
    groups = np.array(scene.walls.alike or [-1] * len(walls), np.int64)
    if len(groups) != len(walls):
        raise ValueError(f"alike has {len(groups)} numbers for {len(walls)} walls; accepted: one a wall, or ()")
    faces = np.flatnonzero(kind == BOX).reshape(-1, 3)  # across x, y, z; the second lies
    upright = [walls[groups == group][None] for group in np.unique(groups[groups >= 0])]
    upright += [np.concatenate([walls[groups < 0], panels])[:, None], faces[:, [0, 2]]]
    lying = np.flatnonzero(np.isin(kind, (FLOOR, CEILING, PATCH)))
    return [rows for rows in upright if len(rows)], np.concatenate([lying, faces[:, 1]])


def _upright(tests, numbers: Int[np.ndarray, "v k"], column: Float[Array, " w"], mask: int):
    """Key, middle and half of the interval of rows that each row of facets spans: three [V, W]."""
    w, s = (tests[numbers, i, 0, None] + tests[numbers, i, 1, None] * column for i in range(2))  # [V, K, W]
    key = jnp.max(_key(w, jnp.abs(s) < w, numbers[..., None].astype(np.int32), mask), axis=1)
    number = key & mask
    w = tests[number, 0, 0] + tests[number, 0, 1] * column
    t = tests[number, 2, 0] + tests[number, 2, 1] * column
    by_row = jnp.where(key > 0, tests[number, 2, 2], 1.0)
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
