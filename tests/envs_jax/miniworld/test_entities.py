"""Boxes: sizes, colours, and how they are drawn."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from envs_jax.miniworld import entities


def test_radii_are_those_of_the_circle_around_the_footprint():
    things = entities.boxes(("red",) * 4, size=0.8)
    kinds = [entities.KINDS.index(kind) for kind in ("box", "ball", "key", "med_kit")]
    things = things.replace(kind=jnp.array(kinds, jnp.int32), size=jnp.array([0.9, 0.9, 0.35, 0.4]))
    np.testing.assert_allclose(entities.radii(things), [0.6364, 0.6377, 0.4291, 0.2521], atol=5e-5)
    assert entities.STATIC_KINDS == ("cone", "building") and np.asarray(entities.movable(things)).all()


def test_colours_are_miniworlds_and_sorted_by_name():
    assert entities.COLOUR_NAMES == ("blue", "green", "grey", "purple", "red", "yellow")
    assert entities.COLOURS["red"] == (1.0, 0.0, 0.0) and entities.COLOURS["purple"] == (0.44, 0.15, 0.76)


def test_a_thing_that_is_put_exists_there():
    things = entities.boxes(("green", "red"), size=0.6)
    assert not np.asarray(things.exists).any()
    things = entities.put(things, 1, jnp.array([1.0, 0.5, 2.0]), jnp.float32(0.3))
    np.testing.assert_array_equal(things.exists, [False, True])
    np.testing.assert_allclose(things.position[1], [1.0, 0.5, 2.0])
    assert float(things.yaw[1]) == np.float32(0.3)
