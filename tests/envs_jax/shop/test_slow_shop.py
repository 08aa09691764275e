"""Visits to our shop and to the slow one go the same way, action by action."""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

INT32 = st.integers(-(2**31), 2**31 - 1)


def test_pages_results_options_and_rewards_are_the_slow_shops(shop, visits):
    states, commands, actions, steps = visits
    seen, worths = set(), []
    for lane in range(len(states.steps)):
        session = shop.session(jax.tree.map(lambda leaf: leaf[lane, 0], states))  # noqa: B023
        for t in range(shop.world.max_steps):
            shop.agree(jax.tree.map(lambda leaf: leaf[lane, t], states), commands[lane, t], session)  # noqa: B023
            seen.add(session.page)
            going = not session.done
            reward, done = session.act(shop.say(actions[lane, t]))
            assert steps.reward[lane, t] == pytest.approx(reward, abs=1e-6)
            assert steps.terminated[lane, t] == done
            assert steps.success[lane, t] == (going and done and reward >= 1)
            if going and done:
                worths.append(round(reward, 3))
    assert seen == {"search", "results", "item", "description", "features", "reviews", "done"}
    assert len(set(worths)) > 3 and 0 < min(w for w in worths if w) < 1  # partly right purchases, too


def test_the_ranking_is_that_of_bm25_without_rounding(shop):
    """Ours rounds each word's weight: the exact scores of its results fall, but for ties within that rounding."""
    rng = np.random.default_rng(0)
    world = shop.world
    search = jax.jit(world._search)
    for _ in range(30):
        query = rng.integers(0, len(world.goods.vocabulary), 6)
        found = [int(p) for p in search(jnp.asarray(query, jnp.int32)) if p >= 0]
        text = [shop.word(i) for i in query]
        exact = [sum(shop.engine.weight(word, p) for word in text) for p in range(world.products)]
        assert all(exact[a] > exact[b] - 6 / 2048 for a, b in pairwise(found))
        least = min((exact[p] for p in found), default=0.0)
        if len(found) == 50:
            assert all(exact[p] < least + 6 / 2048 for p in set(range(world.products)) - set(found))
        else:
            assert sorted(found) == [p for p, value in enumerate(exact) if value > 0]


def test_a_repeated_word_counts_twice(shop):
    world = shop.world
    one, two = (world.goods.vocabulary.index(word) for word in ("wooden", "shirt"))
    search = jax.jit(world._search)
    for query in ([one, two, -1, -1, -1, -1], [one, one, one, two, -1, -1], [-1, two, -1, two, one, -1]):
        words = [shop.word(i) for i in query if i >= 0]
        found = search(jnp.array(query, jnp.int32))
        assert [int(p) for p in found if p >= 0] == shop.engine.search(words)


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 2**31 - 1),
    records=st.lists(
        st.one_of(
            st.lists(INT32, min_size=7, max_size=7),
            st.tuples(st.sampled_from([0, 1, 1, 1]), st.integers(-1, 92), *[st.integers(-2, 300)] * 5).map(list),
            st.tuples(st.just(0), *[st.integers(-1, 280)] * 6).map(list),
            st.none(),
        ),
        min_size=1,
        max_size=20,
    ),
)
def test_any_records_do_what_the_slow_shop_does(shop, seed, records):
    """None stands for a sampled action, so that deeper pages are reached. Garbage is a counted no-op."""
    key = jax.random.key(seed)
    state = shop.reset(key)
    session = shop.session(state)
    for t, record in enumerate(records):
        action = jnp.array(record, jnp.int32) if record else shop.sample(state, jax.random.fold_in(key, t))
        reward, done = session.act(shop.say(action))
        state, step = shop.step(state, action)
        shop.agree(state, shop.commands(state), session)
        assert int(state.steps) == t + 1
        assert float(step.reward) == pytest.approx(reward, abs=1e-6) and bool(step.terminated) == done
