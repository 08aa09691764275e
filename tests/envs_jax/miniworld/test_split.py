"""Held-out episodes: nothing in common with those for training, one in five of all, and all of them there."""

from __future__ import annotations

import jax
import numpy as np
import pytest

import envs_jax
from envs_jax.heldout import row_is_test
from envs_jax.miniworld import split


def instances(name, part, count):
    """The set of instances of `count` resets, found without the package's own definition, and one a reset."""
    world = envs_jax.make(f"miniworld/{name}", split=part)
    start = jax.jit(jax.vmap(world.reset))(jax.random.split(jax.random.key(3), count))
    if name.startswith("maze"):
        rows = np.asarray(start.passages, int)
        if name == "maze_s2":
            box = np.asarray(start.things.position)[:, 0]
            rows = np.column_stack([rows, box[:, 0] > 3.125, box[:, 2] > 3.125])
    else:
        places = np.concatenate([start.things.position, start.agent.position[:, None]], axis=1)[:, :, ::2]
        rows = np.floor(places * 2).reshape(count, -1)
    return [tuple(row) for row in rows.astype(int).tolist()]


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("maze", "maze_s3", "sign")]


@pytest.mark.parametrize("name", ["one_room", "maze_s2", *SLOW])
def test_train_and_test_have_nothing_in_common_and_are_all(name):
    train, test, both = (instances(name, part, 600) for part in ("train", "test", "all"))
    assert not set(train) & set(test)
    if name in ("maze_s2", "maze_s3", "sign"):  # few instances: every one is seen
        assert set(train) | set(test) == set(both)


@pytest.mark.parametrize("name", ["one_room", "maze_s3"])
def test_one_in_five_is_held_out(name):
    world = envs_jax.make(f"miniworld/{name}")
    start = jax.jit(jax.vmap(world.reset))(jax.random.split(jax.random.key(3), 2000))
    held_out = jax.jit(jax.vmap(lambda state: row_is_test(split.instance(world, state))))(start)
    assert 0.1 < np.mean(held_out) < 0.25  # of 14 layouts of maze_s3, two are


def test_a_split_is_refused_by_name():
    with pytest.raises(ValueError, match="split is 'dev'; accepted: all, train, test"):
        envs_jax.make("miniworld/maze", split="dev")
