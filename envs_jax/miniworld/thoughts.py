"""Words for what is looked for: where in the picture it is, and where the way goes while it is not seen.

The same words for the same picture in every task and variant, few and short: a small model must learn to say them.
"""

from __future__ import annotations

import math

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from envs_jax.miniworld.expert import KEEP

_SIDES = ("far left", "left", "ahead", "right", "far right")
_FAR_LEFT, _LEFT, _AHEAD, _RIGHT, _FAR_RIGHT = range(5)
# At the borders the experts begin to turn, 15 degrees at a time or 45.
_AHEAD_WITHIN, _SIDE_WITHIN = (math.radians(KEEP * degrees) for degrees in (15, 45))
_NEAR_WITHIN = 2.5  # metres, to a thing's middle
SEEN_FROM = 1 / 2000  # share of the picture: 2.4 pixels of 80 x 60


def phrases(*nouns: str, way: bool = False) -> tuple[str, ...]:
    """What may be said: for each noun "no box", "box far left" .. "box far right"; "near", "far"; with `way` also
    "way far left" .. "way far right"."""
    said = [phrase for noun in nouns for phrase in (f"no {noun}", *(f"{noun} {side}" for side in _SIDES))]
    ways = [f"way {side}" for side in _SIDES] if way else []
    return (*said, "near", "far", *ways)


def side(angle: Float[Array, ""]) -> Int[Array, ""]:
    """Place in far left, left, ahead, right, far right of a bearing in radians to the left."""
    off = jnp.abs(angle)
    left = jnp.where(off <= _SIDE_WITHIN, _LEFT, _FAR_LEFT)
    right = jnp.where(off <= _SIDE_WITHIN, _RIGHT, _FAR_RIGHT)
    return jnp.where(off <= _AHEAD_WITHIN, _AHEAD, jnp.where(angle > 0, left, right))


def think(
    nouns: int,
    noun: Int[Array, ""] | int,
    seen: Bool[Array, ""],
    angle: Float[Array, ""],
    metres: Float[Array, ""],
    way: Float[Array, ""] | None = None,
) -> Int[Array, "2"]:
    """Phrase ids for one thing: "box ahead near", "box left", or "no box" and, if given, where the way goes.

    Its distance is said only of what is ahead, where it will soon matter.

    Args:
      nouns: how many nouns `phrases` got.
      noun: which of them.
      seen: whether the thing is in the picture.
      angle, metres: where it is.
      way: bearing of the way there, radians; None if the phrases have no way.
    """
    where = side(angle)
    near = jnp.where(metres <= _NEAR_WITHIN, 6 * nouns, 6 * nouns + 1)
    there = jnp.stack([6 * noun + 1 + where, jnp.where(where == _AHEAD, near, -1)])
    way_on = jnp.int32(-1) if way is None else 6 * nouns + 2 + side(way)
    return jnp.where(seen, there, jnp.stack([jnp.asarray(6 * noun), jnp.asarray(way_on)])).astype(jnp.int32)
