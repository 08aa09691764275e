"""Places are free, uniform over the free ones, and always found."""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from envs_jax.miniworld import entities, layout, placement

PLAN = layout.FixedPlan((layout.Room(layout.rectangle((0.0, 0.0), (4.0, 4.0))),))
ROOM = PLAN.walls_array


def box_at(x, z, size):
    return entities.put(entities.boxes(("red",), size), 0, jnp.array([x, 0.0, z], jnp.float32), jnp.float32(0))


def places(things, count=3000, yaw=(-math.pi, math.pi), low=(0.4, 0.4), high=(3.6, 3.6)):
    among = dataclasses.replace(
        placement.regions(PLAN, (placement.Where(),), 0.4), low=np.array([low]), high=np.array([high])
    )
    draw = jax.vmap(lambda key: placement.place(key, among, 0.4, ROOM, things, yaw))
    return map(np.asarray, jax.jit(draw)(jax.random.split(jax.random.key(0), count)))


def test_places_are_those_of_rejection_sampling():
    position, yaw = places(box_at(2, 1.5, 1.6))
    gap = np.linalg.norm(position[:, ::2] - [2, 1.5], axis=-1) - 0.4 - 1.6 * math.sqrt(2) / 2
    assert gap.min() >= 0 and (position[:, 1] == 0).all()
    drawn = np.random.default_rng(0).uniform(0.4, 3.6, (20000, 2))
    kept = drawn[np.linalg.norm(drawn - [2, 1.5], axis=-1) >= 0.4 + 1.6 * math.sqrt(2) / 2][:3000]
    assert len(kept) == 3000
    for axis in (0, 1):
        assert stats.ks_2samp(position[:, 2 * axis], kept[:, axis]).pvalue > 1e-3
    assert stats.ks_2samp(gap, np.linalg.norm(kept - [2, 1.5], axis=-1) - 0.4 - 0.8 * math.sqrt(2)).pvalue > 1e-3
    assert stats.kstest(yaw, stats.uniform(-math.pi, 2 * math.pi).cdf).pvalue > 1e-3
    assert abs(np.corrcoef(position[:, 0], yaw)[0, 1]) < 0.06


def test_draws_too_near_to_a_wall_are_passed_over():
    """Drawing from the whole room still ends a radius from its walls."""
    position, _ = places(entities.boxes(()), count=500, low=(0.0, 0.0), high=(4.0, 4.0))
    assert position[:, ::2].min() >= 0.4 - 1e-6 and position[:, ::2].max() <= 3.6 + 1e-6


def test_a_range_of_yaws():
    _, yaw = places(entities.boxes(()), count=200, yaw=(-0.5, 0.25))
    assert -0.5 <= yaw.min() < -0.4 and 0.15 < yaw.max() <= 0.25


def test_where_nothing_is_free_the_least_overlap_is_taken():
    position, yaw = places(box_at(2, 2, 6.0), count=50)
    assert np.isfinite(position).all() and np.isfinite(yaw).all()
    assert np.linalg.norm(position[:, ::2] - 2, axis=-1).min() > 1.5  # towards the corners, away from the middle
