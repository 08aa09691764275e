"""Scenes are plain arrays: empty parts, stacking, and MiniWorld's light."""

from __future__ import annotations

import jax
import numpy as np

from envs_jax.render.scene import (
    miniworld_light,
    no_balls,
    no_boxes,
    no_cones,
    no_panels,
    no_patches,
    no_walls,
)


def test_empty_parts_have_no_rows():
    for part in (no_walls(), no_patches(), no_boxes(), no_balls(), no_cones(), no_panels()):
        assert {leaf.shape[0] for leaf in jax.tree.leaves(part)} == {0}
        assert part.exists.dtype == bool


def test_the_light_is_miniworlds():
    light = miniworld_light()
    np.testing.assert_allclose(light.direction, np.array([1, 3.5, 1]) / 3.7749172, rtol=1e-6)
    np.testing.assert_allclose([light.diffuse, light.ambient], [[0.7] * 3, [0.45] * 3], rtol=1e-6)
