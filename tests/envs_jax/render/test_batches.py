"""Pictures drawn a few worlds at a time are those drawn all at once, and need no more memory for more worlds."""

from __future__ import annotations

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh, AxisType

import envs_jax
from envs_jax.render import batches

pytestmark = pytest.mark.skipif(jax.default_backend() != "cpu", reason="on other devices worlds are drawn at once")


def draw(scene, camera):
    """Of a pytree and an array; pixel p of the picture is a + p b + c."""
    return scene["a"] + jnp.arange(5) * scene["b"] + camera


@pytest.fixture
def room_for(monkeypatch):
    """Sets how many worlds of five pixels are drawn at once."""

    def few(worlds: int):
        monkeypatch.setattr(batches, "PIXELS", 5 * worlds)
        monkeypatch.setattr(os, "cpu_count", lambda: 1)

    return few


@pytest.mark.parametrize("at_once", (1, 2, 3, 6, 7, 100))
def test_every_world_is_drawn_once_and_in_its_place(room_for, at_once):
    room_for(at_once)
    worlds = 7
    scene = {"a": 100 * jnp.arange(worlds), "b": jnp.arange(worlds)}
    camera = 1000 * jnp.arange(worlds)
    want = [[1100 * w + p * w for p in range(5)] for w in range(worlds)]
    got = jax.jit(jax.vmap(batches.few_at_once(draw, 5)))(scene, camera)
    np.testing.assert_array_equal(got, want)


def test_what_all_worlds_share_is_not_taken_apart(room_for):
    room_for(2)
    scene = {"a": jnp.int32(3), "b": jnp.arange(7)}
    look = jax.vmap(batches.few_at_once(draw, 5), in_axes=({"a": None, "b": 0}, None))
    np.testing.assert_array_equal(
        jax.jit(look)(scene, jnp.int32(10)), [[13 + p * w for p in range(5)] for w in range(7)]
    )


def test_worlds_of_worlds(room_for):
    room_for(2)
    a = jnp.arange(12).reshape(3, 4)
    look = jax.vmap(jax.vmap(batches.few_at_once(draw, 5)))
    got = jax.jit(look)({"a": a, "b": 2 * a}, 0 * a)
    np.testing.assert_array_equal(got, a[..., None] + 2 * a[..., None] * np.arange(5))


def test_a_single_world_and_few_of_them_are_drawn_without_a_loop(room_for):
    room_for(4)
    given = {"a": jnp.arange(4), "b": jnp.arange(4)}, jnp.arange(4)
    look = batches.few_at_once(draw, 5)
    assert "scan" not in str(jax.make_jaxpr(jax.vmap(look))(*given))
    assert "scan" not in str(jax.make_jaxpr(look)({"a": 1, "b": 2}, 3))
    room_for(3)
    assert "scan" in str(jax.make_jaxpr(jax.vmap(look))(*given))


def test_worlds_on_several_devices_stay_there(room_for):
    room_for(3)
    given = {"a": jnp.arange(8), "b": jnp.arange(8)}, jnp.arange(8)
    for devices, in_turns in ((1, True), (4, False)):
        with jax.sharding.use_abstract_mesh(AbstractMesh((devices,), ("data",), axis_types=(AxisType.Auto,))):
            program = str(jax.make_jaxpr(jax.vmap(batches.few_at_once(draw, 5)))(*given))
        assert ("scan" in program) == in_turns


def test_more_worlds_need_no_more_memory_but_for_their_pictures(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    world = envs_jax.make("miniworld/one_room")

    def needed(worlds):
        keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), worlds))
        states = jax.eval_shape(jax.vmap(world.reset), keys)
        return jax.jit(jax.vmap(world.render)).lower(states).compile().memory_analysis().temp_size_in_bytes

    few, many = needed(16), needed(256)
    pictures = 240 * 60 * 80 * 3  # the loop collects them
    assert many - few < 1.3 * pictures
