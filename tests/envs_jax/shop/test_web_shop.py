"""The world as such: its contract, its options, its goals and its expert."""

import itertools
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import TypeCheckError

import envs_jax
from envs_jax.shop import WebShop, layout, words
from envs_jax.shop.phrases import FIRST_VALUE, Book
from envs_jax.world import INVALID, random_action


def record(world, text):
    """The action that is spoken as `text`."""
    verb, argument = text.removesuffix("]").split("[", 1)
    if verb == "search":
        ids = [world.goods.vocabulary.index(word) for word in argument.split()]
    else:
        ids = [world.book.links.index(argument)]
    return jnp.array([verb == "click", *ids, *[-1] * (6 - len(ids))], jnp.int32)


def play(world, luck):
    """(reward, success, length) of visits, [count]; the first `luck` int[count] actions of each are random."""

    def one(key, luck):
        first = world.reset(key)

        def body(carry, key):
            state, going = carry
            action = jnp.where(state.steps < luck, random_action(world, state, key), world.expert(state, key))
            after, step = world.step(state, action)
            ends = going & (step.terminated | step.truncated)
            return (after, going & ~ends), (jnp.where(ends, step.reward, 0), ends & step.success, going, ends)

        keys = jax.random.split(jax.random.fold_in(key, 1), world.max_steps)
        _, (reward, success, going, ends) = jax.lax.scan(body, (first, jnp.bool_(True)), keys)
        return reward.sum(), success.any(), going.sum(), ends.any()

    keys = jax.random.split(jax.random.key(1), len(luck))
    reward, success, length, ended = map(np.asarray, jax.jit(jax.vmap(one))(keys, jnp.asarray(luck)))
    assert ended.all()
    return reward, success, length


@pytest.mark.parametrize(
    "name",
    [
        "shop/small",
        "shop/small:groups=0",
        pytest.param("shop/small:split=test", marks=pytest.mark.slow),
        pytest.param("shop/web_shop", marks=pytest.mark.slow),
        pytest.param("shop/web_shop:products=20000,split=test", marks=pytest.mark.slow),
    ],
)
def test_the_expert_buys_what_was_asked_for_in_every_visit(name):
    reward, success, length = play(envs_jax.make(name), np.zeros(512, np.int32))
    assert success.all() and length.max() <= 10
    np.testing.assert_allclose(reward, 1.0, atol=1e-6)


def test_the_expert_needs_no_luck_and_finds_back_from_wherever_chance_has_led():
    """Random actions for a while, then the expert's: 0 = it plays alone, 6 = it takes over, 99 = it never does."""
    world = envs_jax.make("shop/web_shop:split=train", products=400, max_steps=24)
    alone = np.repeat([0, 6, 99], [256, 128, 128])
    reward, success, length = play(world, alone)
    assert success[alone == 0].all() and length[alone == 0].max() <= 10
    late = (alone == 6) & (length > 6)  # but for what was bought before
    assert late.sum() > 64 and success[late].all() and reward[late].min() > 0.999
    assert success[alone == 99].mean() < 0.05 and reward[alone == 99].mean() < 0.3


def test_every_product_that_goals_are_of_is_found_with_the_words_of_the_task(shop):
    """Within the first fifty: a search, four further pages, an item, its options and the purchase at most."""
    world = shop.world
    numbers, _ = world._goals
    fresh = world.reset(jax.random.key(0))

    def place(goal):
        record = world.expert(fresh.replace(goal=goal), fresh.key)
        return (world._search(record[1:]) == goal).any()

    assert len(numbers) > 300 and np.asarray(jax.jit(jax.vmap(place))(jnp.asarray(numbers))).all()


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["shop/small", "shop/small:text=goal,split=test,scale=2", "shop/web_shop", "shop/web_shop:products=20000"],
)
def test_it_keeps_the_contract(name):
    report = envs_jax.check(envs_jax.make(name), episodes=32, states=3)
    assert report.expert_success == 1


def test_what_is_no_action_does_what_invalid_does(shop, visits):
    """On every page: unknown templates, words and links, links of other pages, an empty search."""
    world, (states, commands, _, _) = shop.world, visits
    count, links = len(world.goods.vocabulary), len(world.book.links)
    least, most = np.iinfo(np.int32).min, np.iinfo(np.int32).max
    same = jax.jit(jax.vmap(world.step, (None, 0)))
    for page in range(len(layout.PAGES)):
        lane, t = np.argwhere(states.page == page)[0]
        absent = [[1, int(i), *[-1] * 5] for i in np.flatnonzero(~commands[lane, t])]
        records = [
            [INVALID, *[-1] * 6],
            *([verb, 0, 0, 0, 0, 0, 0] for verb in (-7, 2, 3, least, most)),
            [0, *[-1] * 6],
            *([0, 3, word, -1, -1, -1, -1] for word in (-2, count, least, most)),
            *([1, link, -1, -1, -1, -1, -1] for link in (-1, -5, links, least, most)),
            *absent,
        ]
        state = jax.tree.map(lambda leaf: jnp.asarray(leaf[lane, t]), states)  # noqa: B023
        after, step = same(state, jnp.array(records + records[:1] * (120 - len(records)), jnp.int32))
        assert (np.asarray(after.steps) == t + 1).all()
        for field, old in vars(state).items():
            if field != "steps":
                assert (np.asarray(getattr(after, field)) == np.asarray(old)).all(), field
        assert not np.asarray(step.reward).any() and not np.asarray(step.success).any()


def test_a_search_is_taken_on_any_page_and_forgets_the_options(shop):
    world, state = shop.world, shop.reset(jax.random.key(0))
    state, _ = shop.step(state, record(world, "search[shirt]"))
    state, _ = shop.step(state, record(world, "click[item 2]"))
    value = world.book.links[FIRST_VALUE + int(np.flatnonzero(np.asarray(shop.commands(state))[FIRST_VALUE:])[0])]
    state, _ = shop.step(state, record(world, f"click[{value}]"))
    assert (np.asarray(state.chosen) >= 0).sum() == 1
    sub, _ = shop.step(state, record(world, "click[features]"))
    back, _ = shop.step(sub, record(world, "click[< prev]"))
    assert (np.asarray(back.chosen) == np.asarray(state.chosen)).all() and back.page == layout.ITEM
    for before in (state, sub):
        after, _ = shop.step(before, record(world, "search[wooden lamp]"))
        assert after.page == layout.RESULTS and after.item == -1 and (np.asarray(after.chosen) == -1).all()
    left, _ = shop.step(state, record(world, "click[< prev]"))
    assert left.page == layout.RESULTS and (np.asarray(left.chosen) == -1).all()


def test_goals_are_drawn_as_upstream_draws_them():
    """Chances of products against an enumeration of all combinations; the price's four cases; any option."""
    world = WebShop(products=60, kinds=10, attributes=3, groups=2)
    goals, weight, asking = [], Counter(), Counter()
    for number in range(world.products):
        item = world.goods.product(number)
        if world.goods.weight[number]:
            goals += [(number, item["asked"]) for _ in itertools.product(*item["options"].values())]
    for _, asked in goals:
        asking.update(asked)
    for number, asked in goals:
        weight[number] += np.mean([1 / asking[word] for word in asked])
    total = sum(weight.values())
    for number in range(world.products):
        assert world.goods.weight[number] == pytest.approx(weight[number] / total)

    states = jax.jit(jax.vmap(world.reset))(jax.random.split(jax.random.key(0), 4096))
    goal, limit, wanted = (np.asarray(leaf) for leaf in (states.goal, states.limit, states.wanted))
    share = np.bincount(goal, minlength=world.products) / len(goal)
    error = np.sqrt(world.goods.weight * (1 - world.goods.weight) / len(goal))
    assert (np.abs(share - world.goods.weight) < 5 * error + 1e-9).all()
    # Multiples of ten above the price: never the first, the others in one, two, three cases of six.
    price = world.goods.price[goal] / 2
    step = (limit - 10 * np.floor(price / 10)) / 10
    assert (limit > price).all() and (limit % 10 == 0).all()
    cases = np.bincount(step.astype(int), minlength=5) / len(goal)
    np.testing.assert_allclose(cases, [0, 0, 1 / 6, 2 / 6, 3 / 6], atol=0.04)
    assert ((wanted[:, :, None] == world.goods.values[goal]).any(2) | (wanted < 0)).all()
    assert ((wanted >= 0) == (world.goods.groups[goal] >= 0)).all()


@pytest.mark.parametrize(
    "options", [{"products": 800}, {"products": 60, "kinds": 10, "attributes": 1, "groups": 1}]
)
def test_train_and_test_ask_for_different_things(options):
    asked = {}
    for split in ("all", "train", "test"):
        world = WebShop(split=split, **options)
        items = [world.goods.product(int(number)) for number in world._goals[0]]
        asked[split] = {(*item["nouns"][:2], *sorted(item["asked"])) for item in items}
        assert (np.diff(world._goals[1], prepend=0) >= 0).all() and world._goals[1][-1] == 1
    assert not asked["train"] & asked["test"]
    assert asked["train"] | asked["test"] == asked["all"]
    assert 0.1 < len(asked["test"]) / len(asked["all"]) < 0.35


def test_small_is_small():
    world = envs_jax.make("shop/small")
    assert world.products == 60 and len(world.goods.vocabulary) < 160 and len(world.book.links) < 70
    assert max(len(item["options"]) for item in map(world.goods.product, range(60))) == 1
    assert max(len(world.goods.product(number)["asked"]) for number in range(60)) == 1


def test_the_catalogue_is_the_same_whoever_asks_and_another_with_another_seed():
    one, two, other = (WebShop(products=60, seed=seed).goods for seed in (0, 0, 1))
    assert one is two
    assert any((a != b).any() for a, b in zip(one.values, other.values, strict=True))


def test_words_do_not_mix():
    """A value belongs to one group and stands in no text; no word holds a space; prices are drawn as they are."""
    values = [value for group in words.OPTIONS.values() for value in group]
    told = {word for section in words.SECTIONS.values() for word in section.attributes}
    told |= {noun for kind in words.KINDS for noun in kind.nouns}
    told |= {use for uses in words.USES.values() for use in uses}
    assert len(set(values)) == len(values) and not set(values) & told
    assert not (set(values) | told) & set(words.OPTIONS)
    assert not any(" " in word for word in [*values, *told, *words.OPTIONS])
    assert set(words.SHADES) <= set(words.COLORS) and set(words.SHADES.values()) <= set(words.COLORS)
    assert len({kind.nouns for kind in words.KINDS}) == len(words.KINDS)
    assert all((kind.department, kind.section) in words.SECTIONS for kind in words.KINDS)


def test_runs_of_phrases_follow_one_another(shop):
    book = Book(shop.world.goods)
    assert tuple(book.phrases[: len(shop.world.goods.vocabulary)]) == shop.world.goods.vocabulary
    for first, last, length in (
        ("$0.00", "$150.00", 300),
        ("0.00 dollars", "200.00 dollars", 20),
        ("0.00", "1.00", 100),
        ("0 results", "50 results", 50),
        ("page 1 (1-10)", "page 5 (41-50)", 4),
        ("item 1", "item 10", 9),
        ("1 of 5 stars", "5 of 5 stars", 4),
        ("broke after a day", "the best I have had", 9),
        ("color:", "grade:", len(words.OPTIONS) - 1),
    ):
        assert book.id(last) - book.id(first) == length


@pytest.mark.parametrize(
    "options, message",
    [
        ({"products": 5}, "products is 5; accepted: an int from 10 to 20000"),
        ({"kinds": 99}, "kinds is 99; accepted: an int from 2 to 58"),
        ({"attributes": 0}, "attributes is 0; accepted: an int from 1 to 3"),
        ({"groups": 4}, "groups is 4; accepted: an int from 0 to 3"),
        ({"seed": -1}, "seed is -1; accepted"),
        ({"max_steps": 0}, "max_steps is 0; accepted"),
        ({"scale": 9}, "scale is 9; accepted: an int from 1 to 4"),
    ],
)
def test_a_bad_option_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        envs_jax.make("shop/web_shop", **options)


@pytest.mark.parametrize("options", [{"split": "dev"}, {"text": "html"}, {"products": 40.0}])
def test_an_option_of_a_wrong_type_is_named(options):
    # The annotations, which are checked while the tests run, come before the world's own ValueError.
    with pytest.raises((ValueError, TypeCheckError), match=next(iter(options))):
        envs_jax.make("shop/web_shop", **options)
