"""A shop of middle size, its slow counterpart, and whole visits to it."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import envs_jax
from envs_jax.shop.layout import PAGES
from envs_jax.world import spoken

LANES = 48


class Shop:
    """A world, compiled once, and the same goods for the slow shop."""

    def __init__(self, slow: ModuleType, name: str, **options):
        self.slow = slow
        self.world = envs_jax.make(name, **options)
        self.goods = [self.world.goods.product(number) for number in range(self.world.products)]
        self.engine = slow.Engine(self.goods)
        self.reset, self.step = jax.jit(self.world.reset), jax.jit(self.world.step)
        self.commands, self.sample = jax.jit(self.world.commands), jax.jit(self.world.sample)

    def word(self, number: int) -> str:
        return self.world.goods.vocabulary[number]

    def session(self, state):
        """The slow shop, before the first step, with the goal of a fresh State."""
        item = self.goods[int(state.goal)]
        wanted = [self.word(value) for value in np.asarray(state.wanted) if value >= 0]
        goal = {
            "item": item,
            "attributes": item["asked"],
            "options": dict(zip(item["options"], wanted, strict=True)),
            "limit": float(state.limit),
        }
        return self.slow.Session(self.goods, self.engine, goal)

    def say(self, action) -> str | None:
        return spoken(self.world, np.asarray(action))

    def agree(self, state, commands, session) -> None:
        """The same page, results, item, options and links."""
        assert PAGES[int(state.page)] == session.page
        assert [int(p) for p in np.asarray(state.results) if p >= 0] == session.results
        assert int(state.shelf) == session.shelf - 1
        assert int(state.item) == (-1 if session.item is None else session.item)
        groups = list(session.goods[session.item]["options"]) if session.item is not None else []
        chosen = [self.word(value) if value >= 0 else None for value in np.asarray(state.chosen)]
        assert chosen == [session.options.get(group) for group in groups] + [None] * (3 - len(groups))
        assert [self.word(value) for value in np.asarray(state.query) if value >= 0] == session.query
        links = self.world.book.links
        assert {links[i] for i in np.flatnonzero(np.asarray(commands))} == session.clickables()
        assert float(state.score) == pytest.approx(session.score, abs=1e-6)


@pytest.fixture(scope="session")
def shop():
    path = Path(__file__).with_name("slow_shop.py")
    spec = importlib.util.spec_from_file_location("slow_shop", path)
    slow = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(slow)
    return Shop(slow, "shop/web_shop", products=400)


@pytest.fixture(scope="session")
def visits(shop):
    """Visits, [lanes, time]: states before, links, actions, steps. Half of the lanes sample, half are wise."""
    world = shop.world

    def one(wise, key):
        first = world.reset(key)

        def body(state, key):
            action = jnp.where(wise, world.expert(state, key), world.sample(state, key))
            after, step = world.step(state, action)
            plain = state.replace(key=jax.random.key_data(state.key))  # NumPy holds no keys
            return after, (plain, world.commands(state), action, step)

        return jax.lax.scan(body, first, jax.random.split(jax.random.fold_in(key, 1), world.max_steps))[1]

    wise = jnp.arange(2 * LANES) >= LANES
    played = jax.jit(jax.vmap(one))(wise, jax.random.split(jax.random.key(7), 2 * LANES))
    return jax.tree.map(np.asarray, played)
