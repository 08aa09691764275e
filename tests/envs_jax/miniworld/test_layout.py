"""Rooms as walls: seen from within, closed, in MiniWorld's order."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from envs_jax.miniworld import layout, view
from envs_jax.miniworld.dynamics import Agent
from envs_jax.render.raycast import CEILING, FLOOR, WALL, trace
from envs_jax.render.scene import Scene, miniworld_light, no_boxes, no_patches


def test_rectangle_starts_with_the_east_wall():
    walls = layout.FixedPlan((layout.Room(layout.rectangle((-1.0, 2.0), (3.0, 5.0))),)).walls_array
    np.testing.assert_array_equal(walls.start, [[3, 5], [3, 2], [-1, 2], [-1, 5]])
    np.testing.assert_array_equal(walls.end, [[3, 2], [-1, 2], [-1, 5], [3, 5]])
    np.testing.assert_array_equal(walls.low, np.zeros(4))
    np.testing.assert_allclose(walls.high, np.full(4, 2.74))


def test_a_room_is_closed_and_seen_from_within():
    """Looking anywhere from anywhere inside, also in a triangle, no sky and no surface outside is seen."""
    triangle = ((-1.15, -2.0), (-1.15, 2.0), (2.31, 0.0))  # the hub of MiniWorld's YMaze
    for outline in (layout.rectangle((0.0, 0.0), (6.0, 6.0)), triangle):
        walls = layout.FixedPlan((layout.Room(outline),)).walls_array
        scene = Scene(
            walls=walls,
            patches=no_patches(),
            boxes=no_boxes(),
            floor_texture=jnp.int32(0),
            ceiling_texture=jnp.int32(0),
            ceiling_height=jnp.float32(layout.WALL_HEIGHT),
            sky=jnp.ones(3),
            light=miniworld_light(),
        )
        middle = np.mean(outline, axis=0)

        def look(yaw, scene=scene, middle=middle):
            agent = Agent(jnp.array([middle[0], 0.0, middle[1]], jnp.float32), yaw)
            return trace(scene, view.camera(agent), (24, 32))

        hit = jax.jit(jax.vmap(look))(jnp.linspace(-3, 3, 12))
        assert set(np.unique(hit.kind)) <= {FLOOR, CEILING, WALL}
        assert set(np.unique(np.asarray(hit.index)[np.asarray(hit.kind) == WALL])) == set(range(len(outline)))
