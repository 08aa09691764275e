"""EZPoints and Points24 against a plain Python class, their hands, plans and pictures."""

import functools
import itertools
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import envs_jax
from envs_jax.cards import ez_points, points24
from envs_jax.cards.ez_points import EZPoints
from envs_jax.cards.formula import MINUS, OVER, PLUS, TIMES, TOKENS
from envs_jax.cards.plans import plans
from envs_jax.cards.points24 import Points24

NAMES = ("cards/ez_points", "cards/points24")


class PlainPoints:
    """gym-cards' rules for one episode: a list of what was written, Python's own arithmetic."""

    def __init__(self, world, values, faithful):
        self.actions, self.limit, self.values = world.actions, world.limit, list(values)
        self.target = 12 if world.cards == 2 else world.target
        self.written, self.used, self.faithful, self.wasted = [], [], faithful, 0

    def step(self, action):
        """(reward, terminated, truncated)"""
        if len(self.written) + self.wasted > self.limit:
            return -1.0, False, True
        if not 0 <= action < len(self.actions):
            self.wasted += 1  # upstream has no such actions
            return -1.0, False, False
        said = self.actions[action]
        if said == "=":
            return (10.0 if self.right() else -1.0), True, False
        if said.isdigit():
            if self.used.count(int(said)) >= self.values.count(int(said)):
                self.written.append(" ")
                return -1.0, False, False
            self.used.append(int(said))
        self.written.append(said)
        return 0.0, False, False

    def right(self):
        if len(self.used) != len(self.values):
            return False
        try:
            if self.faithful:
                return eval("".join(self.written)) == self.target
            signs = [w if w in "+-*/()" else f"Fraction({w})" for w in self.written if w != " "]
            text = " ".join(signs)
            if "* *" in text or "/ /" in text or ") F" in text or ") (" in text:
                return False
            return eval(text, {"Fraction": Fraction}) == self.target
        except Exception:
            return False


@functools.cache
def world_and_step(name, faithful):
    world = envs_jax.make(name, faithful=faithful, image_shape=(96, 96, 3))
    return world, jax.jit(world.step), jax.jit(lambda state: world.expert(state, state.key))


def state_of(world, ranks):
    """A fresh episode with the cards, ace 0 and king 12."""
    fresh = jax.jit(world.reset)(jax.random.key(0))
    return fresh.replace(ranks=jnp.array(ranks, jnp.int32))


def values(ranks):
    return [min(rank + 1, 10) for rank in ranks]


def spoken(world, state):
    return [world.phrases[i] for i in np.asarray(world.explain(state)) if i >= 0]


def play(world, step, state, text):
    for said in text.split():
        state, result = step(state, jnp.int32(world.actions.index(said)))
    return state, result


@pytest.mark.parametrize(
    "name, faithful",
    [
        ("cards/points24", False),
        ("cards/ez_points", False),
        pytest.param("cards/points24", True, marks=pytest.mark.slow),
        pytest.param("cards/ez_points", True, marks=pytest.mark.slow),
    ],
)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_random_episodes_are_those_of_the_plain_rules(name, faithful, data):
    world, step, expert = world_and_step(name, faithful)
    ranks = data.draw(st.lists(st.integers(0, 12), min_size=world.cards, max_size=world.cards))
    plain, state = PlainPoints(world, values(ranks), faithful), state_of(world, ranks)
    stars = world.actions.index("*")
    for _ in range(world.max_steps):
        wise = data.draw(st.integers(0, 9)) < 6
        action = int(expert(state)) if wise else data.draw(st.integers(-2, len(world.actions) + 1))
        if "".join(plain.written).count("**") and action == stars:
            action = 0  # towers of powers: Python would take for ever
        expected = plain.step(action)
        state, result = step(state, jnp.int32(action))
        assert (float(result.reward), bool(result.terminated), bool(result.truncated)) == expected
        assert bool(result.success) == (expected[0] == 10)
        written = [TOKENS[token] for token in np.asarray(state.formula)[: int(state.length)]]
        assert written == plain.written
        allowed = np.asarray(world.admissible(state))[:10]
        left = [plain.used.count(n) < plain.values.count(n) for n in range(1, 11)]
        assert allowed.tolist() == left
        if expected[1] or expected[2]:
            break
    assert expected[1] or expected[2]


@pytest.mark.parametrize("faithful", [pytest.param(False, marks=pytest.mark.slow), True])
def test_every_episode_of_ez_points_is_that_of_the_plain_rules(faithful):
    """Whatever is said before "=", for some hands; 8 stands for all numbers that no card has.

    2 with 10 make the sum, 2 with 6 the product, 6 with 6 the sum, 5 with 4 neither; 1 with 2 are 12 where numbers
    that stand together are one. The longest episodes are one token too long for "=" to be heard.
    """
    world, _, _ = world_and_step("cards/ez_points", faithful)
    run = jax.jit(jax.vmap(lambda state, actions: jax.lax.scan(world.step, state, actions)[1], (None, 0)))
    refused, plus, times, end = (world.actions.index(said) for said in "8+*=")
    for cards, can_win in (((2, 10), True), ((2, 6), True), ((6, 6), True), ((5, 4), False), ((1, 2), faithful)):
        said = [*(world.actions.index(str(card)) for card in sorted(set(cards))), refused, plus, times]
        episodes = [(*row, end) for n in range(world.limit + 2) for row in itertools.product(said, repeat=n)]
        table = np.full((len(episodes), world.limit + 2), end, np.int32)
        for row, episode in zip(table, episodes, strict=True):
            row[: len(episode)] = episode
        steps = run(state_of(world, [card - 1 for card in cards]), jnp.asarray(table))
        rewards, terminated, truncated = (
            np.asarray(leaf).tolist() for leaf in (steps.reward, steps.terminated, steps.truncated)
        )
        for number, episode in enumerate(episodes):
            plain = PlainPoints(world, cards, faithful)
            expected = [plain.step(action) for action in episode]
            got = list(zip(rewards[number], terminated[number], truncated[number], strict=True))[: len(episode)]
            assert got == expected, [world.actions[action] for action in episode]
        assert steps.truncated.any() and steps.success.any() == can_win


def test_the_fraction_that_floats_miss_is_right_unless_faithful():
    for faithful in (False, True):
        world, step, _ = world_and_step("cards/points24", faithful)
        _, result = play(world, step, state_of(world, (2, 2, 7, 7)), "8 / ( 3 - 8 / 3 ) =")
        assert float(result.reward) == (-1 if faithful else 10) and result.terminated


def test_numbers_stand_together_only_if_faithful():
    for faithful in (False, True):
        world, step, _ = world_and_step("cards/points24", faithful)
        _, result = play(world, step, state_of(world, (1, 5, 1, 2)), "2 6 - 3 + 2 - 1 =")
        assert float(result.reward) == -1  # no card is worth 1
        _, result = play(world, step, state_of(world, (1, 5, 0, 0)), "2 6 - 1 - 1 =")
        assert float(result.reward) == (10 if faithful else -1)


def test_not_all_cards_is_wrong_and_the_last_step_truncates_whatever_is_said():
    world, step, _ = world_and_step("cards/points24", False)
    _, result = play(world, step, state_of(world, (3, 5, 0, 0)), "4 * 6 =")
    assert float(result.reward) == -1 and result.terminated and not result.success
    state, result = play(world, step, state_of(world, (3, 5, 0, 0)), "+ " * 21)
    assert not result.truncated and int(state.length) == 21
    after, result = play(world, step, state, "=")
    assert result.truncated and not result.terminated and float(result.reward) == -1
    assert (after.formula == state.formula).all()


def test_ez_points_deals_as_upstream_does():
    """First card uniform on 2..K; 12 // first or 12 - first for 2, 3, 4, 6; swapped half the time."""
    expected = np.zeros((13, 13))
    for first in range(2, 14):
        value = min(first, 10)
        seconds = [12 // value, 12 - value] if value in (1, 2, 3, 4, 6) else [12 - value] * 2
        for second in seconds:
            expected[first - 1, second - 1] += 1 / 48
            expected[second - 1, first - 1] += 1 / 48
    got = np.zeros((13, 13))
    np.add.at(got, tuple(ez_points._deals("all").T.astype(int)), 1 / len(ez_points._deals("all")))
    np.testing.assert_allclose(got, expected, atol=1e-12)


def test_points24_deals_every_solvable_hand_alike_or_every_hand():
    every = points24._deals(24, False, "all")
    assert len(every) == len(np.unique(every, axis=0)) == 13**4
    solvable = {tuple(hand) for hand in points24._deals(24, True, "all").tolist()}
    for hand in every[np.random.default_rng(0).choice(len(every), 150, replace=False)].tolist():
        assert (tuple(hand) in solvable) == can_be_solved(sorted(values(hand)))


def can_be_solved(numbers):
    """By joining any two numbers until one is left."""
    numbers = [Fraction(n) for n in numbers]
    if len(numbers) == 1:
        return numbers[0] == 24
    for i, j in itertools.permutations(range(len(numbers)), 2):
        a, b = numbers[i], numbers[j]
        rest = [n for k, n in enumerate(numbers) if k not in (i, j)]
        joined = [a + b, a - b, a * b] + ([a / b] if b else [])
        if any(can_be_solved([*rest, new]) for new in joined):
            return True
    return False


def test_566_of_the_715_hands_have_a_solution_and_every_plan_is_one():
    table = plans(4, 24, (PLUS, MINUS, TIMES, OVER))
    assert len(table.tokens) == 566  # the known number for the values 1 to 10
    random = np.random.default_rng(1)
    for key in itertools.combinations_with_replacement(range(1, 11), 4):
        row = table.row[int("".join(str(value - 1) for value in key))]
        if row < 0:
            continue
        texts = [plan for plan in table.tokens[row] if plan[0] >= 0]
        for plan in [texts[0], texts[random.integers(len(texts))]]:
            said = [TOKENS[token] for token in plan if token >= 0]
            assert sorted(int(word) for word in said if word.isdigit()) == list(key)
            assert (
                eval("".join(f"Fraction({w})" if w.isdigit() else w for w in said), {"Fraction": Fraction}) == 24
            )
        assert len({tuple(plan) for plan in texts}) == len(texts)


@pytest.mark.parametrize("name", NAMES)
def test_train_and_test_share_no_hand_and_are_all_of_them(name):
    deals = (lambda split: points24._deals(24, True, split)) if "24" in name else ez_points._deals
    instances, share = {}, {}
    for split in ("all", "train", "test"):
        hands = deals(split)
        instances[split] = {tuple(sorted(values(hand))) for hand in hands.tolist()}
        share[split] = len(hands)
    assert not instances["train"] & instances["test"]
    assert instances["train"] | instances["test"] == instances["all"]
    assert share["train"] + share["test"] == share["all"]
    assert 0.15 < share["test"] / share["all"] < 0.26
    world = envs_jax.make(f"{name}:split=test", image_shape=(96, 96, 3))
    ranks = np.asarray(jax.jit(jax.vmap(world.reset))(jax.random.split(jax.random.key(0), 64)).ranks)
    assert {tuple(sorted(values(hand))) for hand in ranks.tolist()} <= instances["test"]


def test_the_thought_is_what_the_plan_has_next():
    world, step, expert = world_and_step("cards/points24", False)
    state = state_of(world, (2, 2, 7, 7))
    assert spoken(world, state) == ["8", "/", "(", "3", "-", "8"]
    state, _ = play(world, step, state, "8 5 / (")  # 5 is refused: a blank changes nothing
    assert spoken(world, state) == ["3", "-", "8", "/", "3", ")"]
    state, _ = play(world, step, state, "3 - 8 / 3")
    assert spoken(world, state) == [")", "="]
    state, _ = play(world, step, state, "8")
    described = [world.phrases[i] for i in np.asarray(world.describe(state)) if i >= 0]
    assert described == ["cards", "3", "3", "8", "8", "formula", "8", "/", "(", "3", "-", "8", "/", "3"]
    state, _ = play(world, step, state, "+")
    assert spoken(world, state) == ["="] and world.actions[int(expert(state))] == "="  # nothing to be saved


@pytest.mark.parametrize("name", ["cards/points24", pytest.param("cards/ez_points", marks=pytest.mark.slow)])
def test_every_rank_and_every_token_can_be_told_from_every_other(name):
    world = envs_jax.make(name, image_shape=(112, 112, 3))
    render = jax.jit(jax.vmap(world.render))
    fresh = state_of(world, [4] * world.cards)
    states = [fresh.replace(ranks=fresh.ranks.at[0].set(rank)) for rank in range(13)]
    states += [fresh.replace(formula=fresh.formula.at[0].set(t), length=jnp.int32(1)) for t in range(16)]
    pictures = np.asarray(render(jax.tree.map(lambda *x: jnp.stack(x), *states)), int)
    for i, j in itertools.combinations(range(len(pictures)), 2):
        assert (np.abs(pictures[i] - pictures[j]).max(axis=2) > 80).sum() >= 3


@pytest.mark.parametrize("name", [pytest.param("cards/ez_points", marks=pytest.mark.slow), "cards/points24"])
def test_it_keeps_the_contract_of_a_world(name):
    report = envs_jax.check(envs_jax.make(name, image_shape=(96, 96, 3)), episodes=64)
    assert report.expert_success == 1.0 and report.random_success < 0.2


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, solved",
    [
        ("cards/ez_points:faithful=True,split=test", 1.0),
        ("cards/points24:faithful=True,split=train", 0.95),  # of 3 3 8 8 and a few others floats make no 24
        ("cards/points24:solvable=False", 0.6),
        ("cards/points24:target=36,split=test", 1.0),
    ],
)
def test_its_options_keep_the_contract_too(name, solved):
    assert envs_jax.check(envs_jax.make(name), episodes=64).expert_success >= solved


@pytest.mark.parametrize(
    "build, message",
    [
        (lambda: Points24(target=1), "target is 1; accepted: an int from 2 to 99"),
        (lambda: EZPoints(image_shape=(95, 300, 3)), "both at least 96"),
        (lambda: envs_jax.make("cards/points24:split=valid"), "split"),
        (lambda: envs_jax.make("cards/points24:solvable=1"), "solvable"),
    ],
)
def test_an_option_out_of_range_is_named(build, message):
    with pytest.raises((ValueError, TypeError), match=message):
        build()
