"""Blackjack against plain rules, its strategy against a second computation, its deals and pictures."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import envs_jax
from envs_jax.cards import blackjack
from envs_jax.cards.blackjack import strategy
from envs_jax.render import glyphs, playing_cards, raster

DECK = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 10, 10, 10]


def plain_count(hand):
    """Gymnasium's sum of a hand of values."""
    return sum(hand) + 10 if 1 in hand and sum(hand) + 10 <= 21 else sum(hand)


def hand_of(cards):
    return [min(card % 13 + 1, 10) for card in np.asarray(cards).tolist() if card >= 0]


@functools.cache
def parts():
    world = envs_jax.make("cards/blackjack", image_shape=(96, 96, 3))
    return world, jax.jit(world.reset), jax.jit(world.step), jax.jit(lambda state: world.expert(state, state.key))


def state_of(dealer, player, seed=0):
    """An episode with values on the table; tens are kings."""
    _, reset, _, _ = parts()
    cards = [12 if value == 10 else value - 1 for value in (*dealer, *player)]
    hand = jnp.full(22, -1, jnp.int32).at[: len(player)].set(jnp.array(cards[2:], jnp.int32))
    dealt = jnp.array(cards[:2], jnp.int32)
    return reset(jax.random.key(seed)).replace(dealer=dealt, player=hand, count=jnp.int32(len(player)))


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**31 - 1), actions=st.lists(st.sampled_from([0, 1, 1, 1, -1, 2, 99]), max_size=20))
def test_random_episodes_are_those_of_the_plain_rules(seed, actions):
    world, reset, step, _ = parts()
    state = reset(jax.random.key(seed))
    for action in [*actions, 0]:
        before = hand_of(state.player)
        state, result = step(state, jnp.int32(action))
        after = hand_of(state.player)
        got = float(result.reward), bool(result.terminated)
        if action == 1:
            assert after[:-1] == before and int(state.count) == len(after)
            assert got == ((-1.0, True) if plain_count(after) > 21 else (0.0, False))
        else:
            assert after == before
            assert got == (-1.0, False) if action else got[1] and got[0] in (-1.0, 0.0, 1.0)
        assert bool(result.success) == (got[0] == 1)
        if got[1]:
            assert not result.truncated
            break
        assert bool(result.truncated) == (int(state.steps) >= world.max_steps)


def test_the_dealer_draws_to_17_and_the_nearer_one_wins():
    total = jax.jit(blackjack._dealer_total)
    random = np.random.default_rng(0)
    hands = [([1, 1], [1, 1, 1, 1, 6, 1, 1, 1, 1, 1]), ([1, 6], [10] * 10), ([10, 2], [3, 9] * 5)]
    hands += [(random.choice(DECK, 2).tolist(), random.choice(DECK, 10).tolist()) for _ in range(300)]
    for dealt, draws in hands:
        hand, rest = list(dealt), list(draws)
        while plain_count(hand) < 17:
            hand.append(rest.pop(0))
        assert int(total(jnp.array(dealt, jnp.int32), jnp.array(draws, jnp.int32))) == plain_count(hand)


def test_ten_draws_are_enough_for_every_dealer():
    @functools.cache
    def most(hard, ace):
        if plain_count([1, hard - 1] if ace else [hard]) >= 17:
            return 0
        return 1 + max(most(hard + card, ace or card == 1) for card in range(1, 11))

    longest = max(most(a + b, 1 in (a, b)) for a, b in itertools.product(range(1, 11), repeat=2))
    assert longest == blackjack._DEALER_DRAWS


@pytest.mark.parametrize(
    "dealer, player, reward", [((10, 10), (10, 9), -1), ((10, 7), (1, 10), 1), ((9, 9), (10, 8), 0)]
)
def test_hands_are_compared_when_the_player_stands(dealer, player, reward):
    _, result = parts()[2](state_of(dealer, player), jnp.int32(0))
    assert float(result.reward) == reward and result.terminated and bool(result.success) == (reward == 1)


def test_cards_are_drawn_from_a_deck_with_four_tens_that_show_no_10():
    world, _, _, _ = parts()
    count = 20_000
    states = jax.jit(jax.vmap(world.reset))(jax.random.split(jax.random.key(1), count))
    hit = jax.jit(jax.vmap(lambda state: world.step(state, jnp.int32(1))[0]))(states)
    for cards in (
        states.dealer[:, 0],
        states.dealer[:, 1],
        states.player[:, 0],
        states.player[:, 1],
        hit.player[:, 2],
    ):
        ranks = np.bincount(np.asarray(cards) % 13, minlength=13) / count
        expected = np.array([1] * 9 + [0] + [4 / 3] * 3) / 13
        np.testing.assert_allclose(ranks, expected, atol=5 * np.sqrt(0.1 / count))
        assert ranks[9] == 0
        np.testing.assert_allclose(np.bincount(np.asarray(cards) // 13) / count, 0.25, atol=0.02)


def test_the_strategy_is_the_better_action_by_a_second_computation():
    """Tables from the greatest hard sum downwards, the dealer's ends as a vector: no recursion, no shared code."""
    chance = np.array([0] + [1] * 9 + [4]) / 13
    ends = np.zeros((28, 2, 27))  # by hard sum and ace: chances of the dealer's count
    for hard, ace in itertools.product(range(27, 0, -1), (1, 0)):
        total = hard + 10 if ace and hard <= 11 else hard
        if total >= 17:
            ends[hard, ace, min(total, 26)] = 1
        else:
            for card in range(1, 11):
                ends[hard, ace] += chance[card] * ends[hard + card, int(ace or card == 1)]
    for up in range(1, 11):
        dealer = ends[up, int(up == 1)]
        np.testing.assert_allclose(dealer.sum(), 1)
        best = np.full((33, 2), -1.0)
        for hard, ace in itertools.product(range(21, 1, -1), (1, 0)):
            total = hard + 10 if ace and hard <= 11 else hard
            stand = dealer[22:].sum() + dealer[17 : min(total, 22)].sum() - dealer[max(total + 1, 17) : 22].sum()
            hit = sum(chance[card] * best[hard + card, int(ace or card == 1)] for card in range(1, 11))
            best[hard, ace] = max(stand, hit)
            soft = int(total != hard)
            assert total < 4 or strategy()[soft, total, up] == (hit > stand), (hard, ace, up)


def test_the_strategy_is_that_of_the_textbooks():
    """Rows for 2, 3, ..., 10, A: hard 12 stands against 4 to 6, hard 13 to 16 up to 6, soft 18 up to 8."""

    def row(soft, total):
        return "".join("H" if strategy()[soft, total, up] else "S" for up in (2, 3, 4, 5, 6, 7, 8, 9, 10, 1))

    assert row(0, 11) == "HHHHHHHHHH" and row(0, 12) == "HHSSSHHHHH"
    assert {row(0, total) for total in range(13, 17)} == {"SSSSSHHHHH"} and row(0, 17) == "SSSSSSSSSS"
    assert row(1, 17) == "HHHHHHHHHH" and row(1, 18) == "SSSSSSSHHH" and row(1, 19) == "SSSSSSSSSS"


def test_the_expert_plays_the_strategy_and_its_mean_reward_is_the_known_one():
    world, _, _, expert = parts()
    assert int(expert(state_of((10, 5), (10, 6)))) == 1 and int(expert(state_of((6, 5), (10, 6)))) == 0
    assert int(expert(state_of((9, 5), (1, 7)))) == 1 and int(expert(state_of((8, 5), (1, 7)))) == 0

    def play(key):
        def turn(carry, _):
            state, total, done = carry
            state, result = world.step(state, world.expert(state, state.key))
            return (state, total + jnp.where(done, 0, result.reward), done | result.terminated), None

        start = world.reset(key), jnp.float32(0), jnp.bool_(False)
        return jax.lax.scan(turn, start, None, length=12)[0][1:]

    rewards, done = jax.jit(jax.vmap(play))(jax.random.split(jax.random.key(2), 40_000))
    assert done.all()
    expected = expected_reward()
    assert -0.06 < expected < -0.03  # Sutton and Barto's game, played best
    assert abs(float(rewards.mean()) - expected) < 5 / np.sqrt(40_000)


def expected_reward():
    """Of the strategy, over all deals."""
    total = 0.0
    for up in range(1, 11):
        chances = blackjack.dealer_chances(up)

        @functools.cache
        def value(hard, ace, up=up, chances=chances):
            if hard > 21:
                return -1.0
            count = hard + 10 if ace and hard <= 11 else hard
            if strategy()[int(count != hard), count, up]:
                return sum(value(hard + card, ace or card == 1) for card in DECK) / 13
            return sum(share * np.sign(count - (end if end < 22 else 0)) for end, share in chances.items())

        total += DECK.count(up) / 13 * sum(value(a + b, 1 in (a, b)) for a in DECK for b in DECK) / 169
    return total


def test_the_thought_is_the_count_and_the_open_card():
    world = parts()[0]

    def words(ids):
        return " ".join(world.phrases[i] for i in np.asarray(ids) if i >= 0)

    assert words(world.explain(state_of((10, 2), (1, 6)))) == "soft 17 vs 10"
    assert words(world.explain(state_of((1, 2), (1, 6, 10)))) == "17 vs A"
    assert words(world.explain(state_of((1, 2), (10, 6, 10)))) == "bust vs A"
    assert words(world.describe(state_of((10, 2), (1, 6)))) == "dealer K player A 6"


@pytest.mark.parametrize("side", [300, 112])
def test_every_card_of_a_long_hand_is_in_the_picture_and_the_hidden_one_is_not(side):
    world = envs_jax.make("cards/blackjack", image_shape=(side, side, 3))
    render = jax.jit(world.render)
    base = state_of((10, 5), (2, 3, 2, 3, 2, 3, 2))
    picture = np.asarray(render(base), int)
    for i in range(7):
        other = np.asarray(render(base.replace(player=base.player.at[i].set(8))), int)
        changed = (np.abs(other - picture).max(axis=2) > 80).nonzero()
        assert len(changed[0]) > 5 and changed[0].min() >= 150 * side // 300
    assert (np.asarray(render(base.replace(dealer=base.dealer.at[1].set(20)))) == picture).all()
    assert (np.asarray(render(base.replace(dealer=base.dealer.at[0].set(20)))) != picture).any()


def test_no_card_covers_a_letter_of_the_labels_where_the_picture_is_small():
    side, size = 112, 8
    world = envs_jax.make("cards/blackjack", image_shape=(side, side, 3))
    words = {"Dealer": (0, 25), "Player": (123, 150)}  # the rows of a picture of 300 that have no cards

    @jax.jit
    def drawn(state):
        alone = raster.canvas(40, side, playing_cards.BAIZE)
        write = lambda word: raster.text(  # noqa: E731
            alone, glyphs.encode(word), 5 * side / 300, 5, size, raster.WHITE, bold=True
        )
        return world.render(state), [write(word) for word in words]

    picture, lines = jax.tree.map(np.asarray, drawn(state_of((10, 5), (2, 3))))
    for (word, (begin, end)), line in zip(words.items(), lines, strict=True):
        rows = np.flatnonzero((line != line[-1, -1]).any(axis=(1, 2)))
        line = line[rows[0] : rows[-1] + 1]
        free = picture[int(begin * side / 300) : int(end * side / 300)]
        assert any((free[top : top + len(line)] == line).all() for top in range(len(free) - len(line) + 1)), word


def test_train_and_test_share_no_deal():
    def instances(split):
        table = np.minimum(blackjack._deals(split).astype(int), 9)
        return {(up, *sorted(pair)) for up, *pair in table.tolist()}

    assert not instances("train") & instances("test")
    assert instances("train") | instances("test") == instances("all") and len(instances("all")) == 550
    assert 0.15 < len(blackjack._deals("test")) / len(blackjack._deals("all")) < 0.25
    world = envs_jax.make("cards/blackjack:split=test")
    states = jax.jit(jax.vmap(world.reset))(jax.random.split(jax.random.key(0), 64))
    for dealer, player in zip(states.dealer, states.player, strict=True):
        assert (hand_of(dealer)[0] - 1, *sorted(value - 1 for value in hand_of(player))) in instances("test")


def test_it_keeps_the_contract_of_a_world():
    report = envs_jax.check(parts()[0], episodes=512)
    assert 0.36 < report.expert_success < 0.50 and report.random_success < 0.36


@pytest.mark.slow
@pytest.mark.parametrize("split", ["train", "test"])
def test_its_splits_keep_the_contract_too(split):
    assert envs_jax.check(envs_jax.make("cards/blackjack", split=split), episodes=512).expert_success > 0.33
