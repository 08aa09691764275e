"""Blackjack without doubling, splitting or wagers: come nearer to 21 than the dealer, and not beyond.

The task of RL4VLM's gym-cards (gym_cards/envs/blackjack.py, which is Gymnasium's with pictures), to the letter
where it matters for comparison:

* An infinite deck, four of whose thirteen cards are worth 10; a ten is shown as J, Q or K, never as 10. An ace
  counts 11 as long as the hand does not go beyond 21. Dealer and player get two cards each, one of the dealer's is
  face up.
* hit: a card; beyond 21 the episode ends with -1, else 0. stand: the dealer draws to 17 or more, soft 17 included,
  and the episode ends with +1, 0 or -1. Two cards that make 21 are a 21 like any other (upstream's `natural` and
  `sab` are off by default and do nothing when on: they compare a card with its suit to a number).
* picture: the dealer's open card and a back in the upper half, the player's cards in the lower one.

Where it differs: upstream's fifth card lies outside its picture; here cards lie one over another when they need
more than the picture's width, each with its rank in sight. The symbols are drawn anew. An action id that is none,
which upstream replaces by a random one, draws nothing, costs a step, and -1, so that no one waits a bad hand out.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cache
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Int, PRNGKeyArray, UInt8

from envs_jax import heldout, options
from envs_jax.render import glyphs, playing_cards, raster
from envs_jax.world import Step

_SIDE = 300  # pixels, upstream's picture, which the layout is given in
_LEAST_SIDE = 96  # pixels
_CARD = (98, 70)  # pixels, height and width
_MOST = 22  # cards of a hand: 21 aces, and one more
_DEALER_DRAWS = (
    10  # six aces are a soft 16; a 6 makes it a hard 12; five aces more: twelve cards, two dealt at once
)
_STAND, _HIT = 0, 1
_CHANCES = np.array([1] * 9 + [4]) / 13  # of the values 1 to 10
_PHRASES = (*playing_cards.RANKS, *map(str, range(11, 22)), "soft", "bust", "vs", "dealer", "player")
_SOFT, _BUST, _VS, _DEALER, _PLAYER = (_PHRASES.index(word) for word in ("soft", "bust", "vs", "dealer", "player"))


@struct.dataclass
class State:
    """One episode.

    Attributes:
      key: for the cards to come.
      steps: int32[], taken so far.
      dealer: int32[2], cards as `suit * 13 + rank`, the open one first.
      player: int32[22], cards, -1 behind the last.
      count: int32[], how many cards the player has.
    """

    key: PRNGKeyArray
    steps: Int[Array, ""]
    dealer: Int[Array, " 2"]
    player: Int[Array, " 22"]
    count: Int[Array, ""]


@dataclass(frozen=True)
class Blackjack:
    """The world `cards/blackjack`.

    Args:
      name: registered name.
      image_shape: (height, width, 3), at least 96 x 96; the layout is scaled to it.
      split: of deals. An instance is the value of the dealer's open card and the player's first two values, in any
        order; about one in five is "test", by a fixed hash. What is drawn later is the same for all.

    Raises:
      ValueError: an option is out of range.
    """

    name: str = "cards/blackjack"
    image_shape: tuple[int, int, int] = (_SIDE, _SIDE, 3)
    split: heldout.Split = "all"

    actions: ClassVar[tuple[str, ...]] = ("stand", "hit")
    instruction: ClassVar[str] = (
        "Come nearer to 21 than the dealer, but not beyond it: hit takes a card, stand ends your turn. J, Q and K "
        "count as 10, an ace as 11 or 1."
    )
    phrases: ClassVar[tuple[str, ...]] = _PHRASES
    max_steps: ClassVar[int] = 20  # 19 hits make 21 aces; the next step ends it, whatever it is

    def __post_init__(self):
        options.check_image_shape(self.image_shape, (_LEAST_SIDE, _LEAST_SIDE), None)
        heldout.check_split(self.split)

    def reset(self, key: PRNGKeyArray) -> State:
        """Two cards each, drawn with `key`."""
        key, deal_key, hole_key, look_key = jax.random.split(key, 4)
        table = _deals(self.split)
        places = jnp.asarray(table)[jax.random.randint(deal_key, (), 0, len(table), jnp.int32)].astype(jnp.int32)
        hole = jax.random.randint(hole_key, (1,), 0, 13, jnp.int32)
        cards = _shown(look_key, jnp.concatenate([places, hole]))
        player = jnp.full(_MOST, -1, jnp.int32).at[:2].set(cards[1:3])
        return State(
            key=key,
            steps=jnp.int32(0),
            dealer=jnp.stack([cards[0], cards[3]]),
            player=player,
            count=jnp.int32(2),
        )

    def step(self, state: State, action: Int[Array, ""]) -> tuple[State, Step]:
        """A card for the player, or the dealer's turn; anything else draws nothing."""
        key, place_key, look_key, dealer_key = jax.random.split(state.key, 4)
        hit, stand = action == _HIT, action == _STAND
        card = _shown(look_key, jax.random.randint(place_key, (1,), 0, 13, jnp.int32))[0]
        player = jnp.where((jnp.arange(_MOST) == state.count) & hit, card, state.player)
        mine, _ = _total(player)
        bust = mine > 21
        draws = jnp.minimum(jax.random.randint(dealer_key, (_DEALER_DRAWS,), 1, 14, jnp.int32), 10)
        theirs = _dealer_total(_values(state.dealer), draws)
        compared = jnp.sign(jnp.where(bust, 0, mine) - jnp.where(theirs > 21, 0, theirs))
        reward = jnp.where(stand, compared, jnp.where(hit & ~bust, 0, -1)).astype(jnp.float32)
        terminated = stand | (hit & bust)
        steps = state.steps + 1
        after = State(
            key=key,
            steps=steps,
            dealer=state.dealer,
            player=player.astype(jnp.int32),
            count=jnp.minimum(state.count + hit, _MOST).astype(jnp.int32),
        )
        truncated = (steps >= self.max_steps) & ~terminated
        return after, Step(reward=reward, terminated=terminated, truncated=truncated, success=reward > 0)

    def render(self, state: State) -> UInt8[Array, "h w 3"]:
        """Both hands, the dealer's second card from behind."""
        height, width, _ = self.image_shape
        down, right = height / _SIDE, width / _SIDE
        scale = min(down, right)
        rows, columns = (int(side * scale) for side in _CARD)
        deck = jnp.asarray(playing_cards.deck(rows, columns))
        image = raster.canvas(height, width, playing_cards.BAIZE)
        size = max(16 * scale, min(8, height / 12))
        for word, cards in (("Dealer", 25), ("Player", 150)):
            # Upstream's 20 pixels above the cards; so high in small pictures, too, that no card covers a letter.
            top = max(cards * down - 1.25 * size, -0.1 * size)
            image = raster.text(image, glyphs.encode(word), 5 * right, top, size, raster.WHITE, bold=True)
        top, left = int(25 * down), int(5 * right)
        image = image.at[top : top + rows, left : left + columns].set(deck[state.dealer[0]])
        left = int(78 * right)
        image = image.at[top : top + rows, left : left + columns].set(playing_cards.back(rows, columns))

        # Card i begins at column begins[i] and lies on the ones before it.
        room = width - 10 * right - columns
        pitch = jnp.minimum(74 * right, room / jnp.maximum(state.count - 1, 1))
        begins = jnp.floor(5 * right + jnp.arange(_MOST) * pitch).astype(jnp.int32)
        column = jnp.arange(width, dtype=jnp.int32)
        uppermost = jnp.sum((column[:, None] >= begins) & (jnp.arange(_MOST) < state.count), axis=1) - 1
        within = column - begins[jnp.maximum(uppermost, 0)]
        on = (uppermost >= 0) & (within < columns)
        card = jnp.maximum(state.player[jnp.maximum(uppermost, 0)], 0)
        picture = deck[card, :, jnp.clip(within, 0, columns - 1)].transpose(1, 0, 2)  # [rows, width, 3]
        top = int(150 * down)
        window = image[top : top + rows]
        return image.at[top : top + rows].set(jnp.where(on[None, :, None], picture, window))

    def describe(self, state: State) -> Int[Array, " n"]:
        """What the picture shows, "dealer K player A 3"."""
        head = jnp.stack([jnp.int32(_DEALER), state.dealer[0] % 13, jnp.int32(_PLAYER)])
        return jnp.concatenate([head, jnp.where(state.player >= 0, state.player % 13, -1)]).astype(jnp.int32)

    def admissible(self, state: State) -> Bool[Array, " a"]:
        """Both."""
        return jnp.ones(2, bool)

    def expert(self, state: State, key: PRNGKeyArray) -> Int[Array, ""]:
        """What has the greater expected reward, by `strategy`."""
        total, soft = _total(state.player)
        up = _values(state.dealer)[0]
        hits = jnp.asarray(strategy())[soft.astype(jnp.int32), jnp.minimum(total, 21), up]
        return (hits & (total <= 21)).astype(jnp.int32)

    def explain(self, state: State) -> Int[Array, " n"]:
        """What is counted in the picture, "soft 17 vs 10" or "13 vs A"."""
        total, soft = _total(state.player)
        ids = jnp.asarray([-1, -1, *(_PHRASES.index(str(number)) for number in range(2, 22))], jnp.int32)
        mine = jnp.where(total > 21, _BUST, ids[jnp.clip(total, 0, 21)])
        up = _values(state.dealer)[0] - 1  # the phrase of a rank is the rank: "A", "2", ..., "10"
        return jnp.stack([jnp.where(soft, _SOFT, -1), mine, jnp.int32(_VS), up]).astype(jnp.int32)


def _shown(key: PRNGKeyArray, places: Int[Array, " n"]) -> Int[Array, " n"]:
    """Cards for places in the deck of thirteen, 9 and up a ten: a suit each, and J, Q or K for a ten."""
    suit_key, face_key = jax.random.split(key)
    suits = jax.random.randint(suit_key, places.shape, 0, 4, jnp.int32)
    faces = jax.random.randint(face_key, places.shape, 10, 13, jnp.int32)
    return (suits * 13 + jnp.where(places >= 9, faces, places)).astype(jnp.int32)


def _values(cards: Int[Array, " n"]) -> Int[Array, " n"]:
    """1 for an ace to 10, 0 where there is no card."""
    return jnp.where(cards >= 0, jnp.minimum(cards % 13 + 1, 10), 0).astype(jnp.int32)


def _total(cards: Int[Array, " n"]) -> tuple[Int[Array, ""], Bool[Array, ""]]:
    """What a hand counts, and whether it is soft: an ace counts 11. A, 6 -> 17, True; A, 6, 10 -> 17, False."""
    values = _values(cards)
    hard = jnp.sum(values)
    soft = (values == 1).any() & (hard <= 11)
    return (hard + 10 * soft).astype(jnp.int32), soft


def _dealer_total(dealt: Int[Array, " 2"], draws: Int[Array, " n"]) -> Int[Array, ""]:
    """The dealer's count after drawing to 17: 10, 2 with draws 3, 9, ... -> 15, then 24."""
    hard = jnp.sum(dealt) + jnp.concatenate([jnp.zeros(1, jnp.int32), jnp.cumsum(draws)])
    ace = (dealt == 1).any() | jnp.concatenate([jnp.zeros(1, bool), jnp.cumsum(draws == 1) > 0])
    total = hard + 10 * (ace & (hard <= 11))
    return total[jnp.argmax(total >= 17)].astype(jnp.int32)


@cache
def _deals(split: heldout.Split) -> np.ndarray:
    """Equally likely places in the deck of thirteen, int8[deals, 3]: the dealer's open card, the player's two."""
    table = np.array(list(itertools.product(range(13), repeat=3)), np.int8)
    values = np.minimum(table.astype(np.int64), 9)
    pair = np.sort(values[:, 1:], axis=1)
    test = heldout.numbers_are_test(values[:, 0] * 100 + pair[:, 0] * 10 + pair[:, 1])
    return table[heldout.part(test, split)]


@cache
def strategy() -> np.ndarray:
    """Where to hit, bool[2, 22, 11]: by soft, count and value of the dealer's open card.

    Exact, because the deck is infinite: chances and expected rewards by recursion over counts.
    """
    hits = np.zeros((2, 22, 11), bool)
    for up in range(1, 11):
        ends = dealer_chances(up)

        def stand(total, ends=ends):
            return sum(chance * np.sign(total - (end if end <= 21 else 0)) for end, chance in ends.items())

        @cache
        def value(hard, ace, stand=stand):
            return max(stand(_count(hard, ace)), hit(hard, ace))

        @cache
        def hit(hard, ace, value=value):
            after = [(hard + card, ace or card == 1) for card in range(1, 11)]
            rewards = [-1.0 if total > 21 else value(total, one) for total, one in after]
            return float(_CHANCES @ np.array(rewards))

        for total in range(4, 22):
            hits[0, total, up] = hit(total, total >= 12) > stand(total)  # an ace that counts 1 changes nothing
            if total >= 12:
                hits[1, total, up] = hit(total - 10, True) > stand(total)
    return hits


def _count(hard: int, ace: bool) -> int:
    return hard + 10 if ace and hard <= 11 else hard


def dealer_chances(up: int) -> dict[int, float]:
    """Chances of the dealer's count in the end, 17 to 26, if the open card has the value `up`, 1 to 10."""

    @cache
    def ends(hard, ace):
        total = _count(hard, ace)
        if total >= 17:
            return {total: 1.0}
        chances: dict[int, float] = {}
        for card, chance in enumerate(_CHANCES, start=1):
            for end, share in ends(hard + card, ace or card == 1).items():
                chances[end] = chances.get(end, 0.0) + float(chance) * share
        return chances

    return ends(up, up == 1)
