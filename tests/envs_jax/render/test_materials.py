"""The computed pictures: the same everywhere, seamless where they repeat."""

from __future__ import annotations

import numpy as np
import pytest

from envs_jax.render.materials import MATERIALS, hashed, noise

SIDE = 64


@pytest.mark.parametrize("name", MATERIALS)
def test_materials_are_pictures_and_repeatable(name):
    picture = MATERIALS[name].paint(SIDE)
    assert picture.shape == (SIDE, SIDE, 3) and np.isfinite(picture).all()
    assert picture.min() >= 0 and picture.max() <= 255
    np.testing.assert_array_equal(picture, MATERIALS[name].paint(SIDE))
    assert MATERIALS[name].metres > 0
    # A model may not tell surfaces apart by chance: every material but the plain one has structure.
    assert (picture.std(axis=(0, 1)).max() > 2) == (name != "plain")


@pytest.mark.parametrize("name", MATERIALS)
@pytest.mark.parametrize("axis", (0, 1))
def test_materials_tile_without_a_seam(name, axis):
    """From the last line to the first the picture changes no more than between some two lines within."""
    picture = MATERIALS[name].paint(SIDE)
    change = np.abs(np.roll(picture, -1, axis) - picture).mean(axis=(1 - axis, 2))  # [SIDE], last: the seam
    assert change[-1] <= 1.1 * change[:-1].max() + 1e-9


def test_smooth_noise_wraps():
    field = noise(SIDE, 4, 6, seed=3)
    for axis in (0, 1):
        step = np.abs(np.roll(field, -1, axis) - field)
        assert np.take(step, -1, axis).max() <= step.max()
        assert step.max() < 0.25  # a jump at the border would be as large as the values themselves


def test_hashes_are_the_same_on_every_machine_and_look_uniform():
    x, y = np.meshgrid(np.arange(64), np.arange(64))
    values = hashed(x, y, 11)
    assert values.min() >= 0 and values.max() < 1
    assert abs(values.mean() - 0.5) < 0.02 and abs(values.var() - 1 / 12) < 0.005
    for shifted in (values[:, 1:] * values[:, :-1], values[1:] * values[:-1]):
        assert abs(shifted.mean() - 0.25) < 0.02  # neighbours are unrelated
    np.testing.assert_array_equal(hashed(np.array([0, 1, 2]), np.array([0, 0, 5]), 7), PINNED)


# Integer arithmetic only: any change means that pictures, and so trained models' inputs, have changed.
PINNED = np.array([5216993, 14968670, 1130856]) / 2**24
