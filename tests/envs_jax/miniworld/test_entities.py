"""Boxes: sizes, colours, and how they are drawn."""

from __future__ import annotations

import math

import jax.numpy as jnp
import numpy as np
import pytest

from envs_jax.miniworld import entities


def test_radii_are_those_of_the_circle_around_the_footprint():
    sizes = jnp.array([[0.8, 0.8, 0.8], [0.9, 0.9, 0.9], [3.0, 9.0, 4.0]])
    np.testing.assert_allclose(entities.radii(sizes), [0.566, 0.636, 2.5], atol=5e-4)


def test_colours_are_miniworlds_and_sorted_by_name():
    assert entities.COLOUR_NAMES == ("blue", "green", "grey", "purple", "red", "yellow")
    assert entities.COLOURS["red"] == (1.0, 0.0, 0.0) and entities.COLOURS["purple"] == (0.44, 0.15, 0.76)


def test_a_box_stands_on_its_position():
    things = entities.boxes(("green", "red"), size=0.6)
    assert not np.asarray(things.exists).any()
    things = entities.put(things, 1, jnp.array([1.0, 0.5, 2.0]), jnp.float32(0.3))
    drawn = entities.as_boxes(things, texture=3)
    np.testing.assert_allclose(drawn.centre[1], [1.0, 0.8, 2.0], rtol=1e-6)  # carried half a metre above the floor
    np.testing.assert_array_equal(drawn.colour, [[0, 1, 0], [1, 0, 0]])
    np.testing.assert_array_equal(drawn.exists, [False, True])
    np.testing.assert_array_equal(drawn.texture, [3, 3])
    assert float(drawn.yaw[1]) == pytest.approx(0.3) and math.isclose(float(drawn.size[1, 1]), 0.6, rel_tol=1e-6)
