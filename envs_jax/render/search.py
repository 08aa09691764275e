"""Which surface is nearest, for every pixel: one integer maximum over all surfaces.

* The nearest surface has the largest w = 1 / depth. Its number replaces the lowest bits of w, so that the search
  is a maximum in one fused pass over the pixels; nothing of size surfaces x pixels is kept.
* Here for a camera that may look anywhere; for one that looks level see `level`.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from envs_jax.render.rounds import Rounds, meet_ball, meet_cone

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
        return key_of(w, jnp.maximum(jnp.abs(s), jnp.abs(t)) < w, number, mask)

    tests = tests_of(linear)[1:]
    return search_all(image_size, test, tests, np.arange(1, 1 + len(tests), dtype=np.int32))


def round_keys(
    rounds: Rounds,
    functions: tuple[Float[Array, "r 8 3"], Float[Array, " r"]],
    column: Float[Array, "..."],
    row: Float[Array, "..."],
    mask: int,
    first: int,
) -> Int[Array, "..."]:
    """The nearest ball or cone of the pixels of columns and rows, any camera; their numbers begin at `first`."""
    shape = jnp.broadcast_shapes(column.shape, row.shape)
    split = rounds.balls

    def at(function):
        return lambda i: function[i, 0] + function[i, 1] * column + function[i, 2] * row

    def ball(function, inverse_c, number):
        return key_of(*meet_ball(at(function), inverse_c), number, mask)

    def cone(function, inverse_c, below, above, number):
        return key_of(*meet_cone(at(function), inverse_c, below, above), number, mask)

    function, inverse_c = functions
    numbers = np.arange(first, first + len(rounds.gain), dtype=np.int32)
    balls = search_all(shape, ball, function[:split], inverse_c[:split], numbers[:split])
    cones = (x[split:] for x in (function, inverse_c, rounds.below, rounds.above, numbers))
    return jnp.maximum(balls, search_all(shape, cone, *cones))


def search_all(
    shape: tuple[int, ...], test: Callable[..., Array], *tables: Array | np.ndarray
) -> Int[Array, "..."]:
    """The largest of `test(*rows)`, of a shape, over the rows of tables [N, ...], 0 if none is positive.

    Tables are filled up with zeros, of which a test must give 0.
    """
    count = len(tables[0])
    best = jnp.zeros(shape, jnp.int32)
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


def key_of(w, met, number, mask: int):
    """Positive floats are ordered like their bits read as integers."""
    return jnp.where(met, (jax.lax.bitcast_convert_type(w, jnp.int32) & ~mask) | number, 0)


def tests_of(linear: Float[Array, "f 3 3"]) -> Float[Array, "f 3 3"]:
    """w, and s w and t w from the facet's middle and scaled: it is met where |s'|, |t'| < w; zeros are not."""
    scale = 2.0 / (1.0 + 2.0 * _GROWTH)
    w = linear[:, 0]
    return jnp.stack([w, (linear[:, 1] - w / 2) * scale, (linear[:, 2] - w / 2) * scale], axis=1)
