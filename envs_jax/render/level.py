"""The search for a camera that looks level, which sees upright things upright.

* Whether and how far away an upright facet is met depends on the column alone, and in a column it spans an
  interval of rows: found once a column (80 columns for 4,800 pixels), so that a pixel only compares its row with
  it. So does a lying facet.
* Of upright facets of which at most one can be seen in a column, only the nearest is kept: the two sides of a box,
  and walls of one height with the eye between floor and top, of which the nearest hides all others.
* Of many surfaces a column's own are found first, see `columns`.
* Where there are many tests, the pixels of a column lie next to each other, [W, H]. What is read of a column then
  serves several: on GPU a thread has four neighbours, for each of which it else reads the same tables.
* It finds what `search` finds, but for ties.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from envs_jax.render.columns import Many, search_few
from envs_jax.render.facets import BOX, CEILING, FLOOR, PANEL, PATCH, WALL, labels
from envs_jax.render.lookup import rows_at
from envs_jax.render.rounds import Rounds, meet_cone
from envs_jax.render.scene import Scene
from envs_jax.render.search import key_of, pixels, round_keys, search_all, tests_of

# Of so many surfaces of a kind each pixel asks about all; of more, a column's own are found first. Balls are not
# among them: a test of one has more to read of a column than to compute, and beside those of the other kinds
# five balls made a picture take four times as long.
MOST = {"upright": 12, "lying": 12, "cones": 12}
# How many are then taken out of a column's set in one turn: few columns show more than twice as many.
AT_ONCE = {"upright": 6, "lying": 5, "cones": 4}
# From so many surfaces on, pixels lie column by column while they are searched. To turn the picture afterwards
# takes as long as some tests; of all tasks none has more than 5 and less than 14.
DOWN = 10


def level_keys(
    scene: Scene,
    linear: Float[Array, "f 3 3"],
    rounds: Rounds,
    functions: tuple[Float[Array, "r 8 3"], Float[Array, " r"]],
    image_size: tuple[int, int],
    mask: int,
) -> Int[Array, "h w"]:
    """The nearest surface of each pixel.

    Args:
      scene: what there is of each kind is static.
      linear: see `facets.linear_of`.
      rounds, functions: see `rounds.functions_of`.
      image_size: (height, width).
      mask: see `search.low_bits`.

    Returns:
      w with the surface's number in its lowest bits, facets first; 0 = none.
    """
    flat = _flat(scene, linear, image_size, mask)
    split = rounds.balls
    balls, cones = (
        jax.tree.map(lambda leaf, rows=rows: leaf[rows], (rounds, functions))
        for rows in (slice(0, split), slice(split, None))
    )
    cones = cones[0].replace(balls=0), cones[1]
    counts = {kind: len(tables[0]) for kind, tables in flat.items()} | {"cones": len(cones[0].gain)}
    down = sum(counts.values()) + split >= DOWN
    column, row = (of.T if down else of for of in pixels(image_size))
    best, many = jnp.zeros((column + row).shape, jnp.int32), []
    for kind, tables in flat.items():
        test, present, read = _TESTS[kind](tables, row, image_size, mask)
        test = _down(test) if down else test
        if counts[kind] <= MOST[kind]:
            best = jnp.maximum(best, search_all(best.shape, test, *tables))
        else:
            many.append(Many(present(), read, test, AT_ONCE[kind]))
    best = jnp.maximum(best, round_keys(*balls, column, row, mask, first=len(linear)))
    if counts["cones"] <= MOST["cones"]:
        best = jnp.maximum(best, round_keys(*cones, column, row, mask, first=len(linear) + split))
    else:
        test, present, read = _cone_test(*cones, row, image_size, mask, first=len(linear) + split)
        many.append(Many(present(), read, _down(test) if down else test, AT_ONCE["cones"]))
    if many:
        best = search_few(best, many)
    # Searched before it is turned, or a thread would have the neighbours in the row again.
    return jax.lax.optimization_barrier(best).T if down else best


def _down(test: Callable[..., Array]) -> Callable[..., Array]:
    """The test of pixels [W, H] instead of [H, W], of the same numbers: one a column, [W], or one for all."""
    return lambda *values: test(*(value[..., None] for value in values))


def _flat(scene: Scene, linear, image_size, mask: int) -> dict[str, list[Array]]:
    """What a test needs of every upright and every lying facet: tables [V, W], or [V] if alike in all columns."""
    tests, (upright, lying) = tests_of(linear), _sorted(scene)
    column, _ = pixels(image_size)
    tables = {}
    if upright:
        parts = [_upright(tests, rows, column[0], mask) for rows in upright]
        tables["upright"] = jax.lax.optimization_barrier(
            [jnp.concatenate(part) for part in zip(*parts, strict=True)]
        )
    ends = jax.lax.optimization_barrier(_lying(tests[lying], column[0]))
    tables["lying"] = [*ends, tests[lying, 0, 0], tests[lying, 0, 2], jnp.asarray(lying, jnp.int32)]
    return tables


def _upright_test(tables, row, image_size, mask: int):
    """Of upright facets the test, which each column shows, and what `columns.Many.read` does."""

    def test(key, middle, half):
        return jnp.where(jnp.abs(row - middle) < half, key, 0)

    def present():
        _, middle, half = tables
        nearest = jnp.clip(jnp.round(middle), 0.0, image_size[0] - 1.0)  # of all rows, the one next to the middle
        return jnp.abs(nearest - middle) < half

    def read(number):
        key, middle, half = (_in_columns(table, number) for table in tables)
        return key, middle, jnp.where(number < 0, 0.0, half)

    return test, present, read


def _lying_test(tables, row, image_size, mask: int):
    """The same of lying facets."""
    begin, end, *same = tables

    def test(begin, end, w, by_row, number):
        return key_of(w + by_row * row, (begin < row) & (row < end), number, mask)

    def present():
        first = jnp.maximum(jnp.floor(begin) + 1.0, 0.0)  # the row after the begin
        return (first < end) & (first <= image_size[0] - 1)

    def read(number):
        place = jnp.maximum(number, 0)
        here = jnp.where(number < 0, jnp.inf, _in_columns(begin, number))
        return here, _in_columns(end, number), *(rows_at(values, place) for values in same)

    return test, present, read


_TESTS = {"upright": _upright_test, "lying": _lying_test}


def _cone_test(cones: Rounds, functions, row, image_size, mask: int, first: int):
    """The same of cones, whose numbers begin at `first`."""
    column, _ = pixels(image_size)
    function, inverse_c = functions
    of_pixel, by_row = (3, 4, 5, 6), (3, 5, 6)  # which functions `meet_cone` needs, and which change with the row

    def test(number, inverse_c, below, above, *values):
        own = dict(zip(of_pixel, values[: len(of_pixel)], strict=True))
        slopes = dict(zip(by_row, values[len(of_pixel) :], strict=True))

        def at(i):
            if i == 7:  # the ray's height, the same for all
                return function[0, 7, 0] + function[0, 7, 2] * row
            return own[i] + slopes[i] * row if i in by_row else own[i]

        return key_of(*meet_cone(at, inverse_c, below, above), number, mask)

    def present():
        return _may_show(cones, functions, column)

    def read(number):
        place = jnp.maximum(number, 0)
        inverse, below, above = (rows_at(values, place) for values in (inverse_c, cones.below, cones.above))
        own = (rows_at(function[:, i, 0], place) + rows_at(function[:, i, 1], place) * column for i in of_pixel)
        slopes = (rows_at(function[:, i, 2], place) for i in by_row)
        return first + place, jnp.where(number < 0, 0.0, inverse), below, above, *own, *slopes

    return test, present, read


def _may_show(cones: Rounds, functions, column: Float[Array, "1 w"]) -> Bool[Array, "r w"]:
    """Whether the upright plane through the eye and a column comes within reach of each cone's axis, ahead.

    The plane's direction is d = (x, z), the eye's place from the axis o: the plane is |o x d| / |d| away from it.
    """
    function, inverse_c = functions
    x, z, away = (function[:, i, 0, None] + function[:, i, 1, None] * column for i in (0, 2, 4))
    along = cones.eye[:, 0, None] * x + cones.eye[:, 2, None] * z  # less than 0: the axis is ahead
    reach = (1.001 * cones.reach[:, None] + 1e-4) * jnp.sqrt(x**2 + z**2)  # rather too much than too little
    return (inverse_c[:, None] != 0) & (jnp.abs(away) < reach) & (along < reach)


def _in_columns(table: Float[Array, "v w"] | Int[Array, "v w"], number: Int[Array, "k w"]) -> Array:
    """Of each column of the table what stands at its numbers; anything for -1."""
    width = table.shape[1]
    return rows_at(table.reshape(-1), jnp.maximum(number, 0) * width + jnp.arange(width, dtype=jnp.int32))


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
    key = jnp.max(key_of(w, jnp.abs(s) < w, numbers[..., None].astype(np.int32), mask), axis=1)
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
