"""The game that EZPoints and Points24 have in common: write a formula of all cards that comes to the target.

After gym_cards/envs/ezpoints.py and points.py of RL4VLM, to the letter where it matters for comparison:

* A card is worth its number, an ace 1, a face 10. A number that no unused card has is refused: a blank is written
  instead, reward -1. Every other token is written, reward 0.
* "=" ends the episode (terminated): reward 10 if all cards are used and the formula comes to the target, else -1.
* A step with a formula longer than the limit already does nothing but truncate, with reward -1, "=" included.
* Picture: the table's green, cards in a row across the middle, the formula below in white.

Where it differs, beside how formulas are read (`formula.py`, option `faithful`): an action id that is none, which
upstream replaces by a random one, writes nothing, costs a step and -1; as it writes nothing, the limit is one on
steps, which is the same for all other actions. The formula is broken into lines where upstream's leaves the
picture.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Int, PRNGKeyArray, UInt8

from envs_jax import heldout, options
from envs_jax.cards import formula
from envs_jax.cards.formula import BLANK, TOKENS
from envs_jax.cards.plans import Plans
from envs_jax.render import glyphs, playing_cards, raster
from envs_jax.world import Step

SIDE = 300  # pixels, upstream's picture, which the layout is given in
LEAST_SIDE = 96  # pixels; below this the formula cannot be read
_EQUALS = BLANK + 1  # what "=" is among the tokens here; it is never part of a formula
_FORESEEN = 6  # tokens of the plan that a thought holds
# Ranks, whose id is the rank's, then what tokens have beside them.
_PHRASES = (*playing_cards.RANKS, "1", "+", "-", "*", "/", "(", ")", "=", "cards", "formula")
_TOKEN_PHRASE = np.array([_PHRASES.index(t) if t != " " else -1 for t in (*TOKENS, "=")], np.int32)


@struct.dataclass
class State:
    """One episode.

    Attributes:
      key: what an episode would draw from; the steps of these worlds draw nothing.
      steps: int32[], taken so far.
      ranks: int32[cards], index into `playing_cards.RANKS`, ace 0, king 12.
      suits: int32[cards], index into `playing_cards.SUITS`.
      formula: int32[limit + 1], indices into `formula.TOKENS`, -1 behind its end.
      length: int32[], how many tokens it has.
    """

    key: PRNGKeyArray
    steps: Int[Array, ""]
    ranks: Int[Array, " cards"]
    suits: Int[Array, " cards"]
    formula: Int[Array, " n"]
    length: Int[Array, ""]


def values_of(ranks):
    """What cards are worth, 1 to 10."""
    return (jnp if isinstance(ranks, jax.Array) else np).minimum(ranks + 1, 10)


@dataclass(frozen=True)
class Points:
    """What the two worlds share; `EZPoints` and `Points24` say which cards, actions and layout."""

    name: str
    image_shape: tuple[int, int, int] = (SIDE, SIDE, 3)
    split: heldout.Split = "all"
    faithful: bool = False

    cards: ClassVar[int]
    limit: ClassVar[int]  # tokens; a longer formula truncates
    actions: ClassVar[tuple[str, ...]]
    phrases: ClassVar[tuple[str, ...]] = _PHRASES
    font_size: ClassVar[int]
    lines: ClassVar[tuple[tuple[str, int, int, int], ...]]  # label, top, first token, token behind the last

    def __post_init__(self):
        options.check_image_shape(self.image_shape, (LEAST_SIDE, LEAST_SIDE), None)
        heldout.check_split(self.split)
        options.check_bool("faithful", self.faithful)

    @property
    def max_steps(self) -> int:
        """Steps after which an episode is truncated: the one after the formula has grown too long."""
        return self.limit + 2

    @property
    def _target(self) -> int:
        raise NotImplementedError

    def _plans(self) -> Plans:
        raise NotImplementedError

    def _hands(self) -> np.ndarray:
        """Equally likely ranks, int8[hands, cards]."""
        raise NotImplementedError

    def reset(self, key: PRNGKeyArray) -> State:
        """A hand, drawn with `key`, and an empty formula."""
        key, hand_key, suit_key = jax.random.split(key, 3)
        table = self._hands()
        hand = jnp.asarray(table)[jax.random.randint(hand_key, (), 0, len(table), jnp.int32)].astype(jnp.int32)
        suits = jax.random.randint(suit_key, (self.cards,), 0, len(playing_cards.SUITS), jnp.int32)
        return State(
            key=key,
            steps=jnp.int32(0),
            ranks=hand,
            suits=suits,
            formula=jnp.full(self.limit + 1, -1, jnp.int32),
            length=jnp.int32(0),
        )

    def _left(self, state: State) -> Int[Array, " 10"]:
        """How many unused cards there are of each value, int32[10]."""
        numbers = jnp.arange(10, dtype=jnp.int32)
        have = jnp.sum(values_of(state.ranks)[:, None] == numbers + 1, axis=0)
        return (have - jnp.sum(state.formula[:, None] == numbers, axis=0)).astype(jnp.int32)

    def step(self, state: State, action: Int[Array, ""]) -> tuple[State, Step]:
        """Writes one token, or a blank for a number that no card has, or works the formula out."""
        tokens = jnp.asarray(_tokens_of(self.actions))
        known = (action >= 0) & (action < len(self.actions))
        token = jnp.where(known, tokens[jnp.clip(action, 0, len(self.actions) - 1)], -1)
        too_long = state.steps > self.limit
        left = self._left(state)
        refused = (token >= 0) & (token < 10) & (left[jnp.clip(token, 0, 9)] <= 0)
        ended = (token == _EQUALS) & ~too_long
        writes = known & ~too_long & (token != _EQUALS)
        at = (jnp.arange(self.limit + 1) == state.length) & writes
        written = jnp.where(at, jnp.where(refused, BLANK, token), state.formula).astype(jnp.int32)
        all_used = jnp.sum(left) == 0
        read = jnp.where(ended & all_used, state.length, 0)
        solved = ended & formula.equals(state.formula, read, self._target, self.faithful)
        bad = too_long | ~known | refused | ended
        reward = jnp.where(solved, 10.0, jnp.where(bad, -1.0, 0.0)).astype(jnp.float32)
        length = jnp.minimum(state.length + writes, self.limit + 1).astype(jnp.int32)
        after = state.replace(steps=state.steps + 1, formula=written, length=length)
        return after, Step(reward=reward, terminated=ended, truncated=too_long, success=solved)

    def render(self, state: State) -> UInt8[Array, "h w 3"]:
        """The cards and the formula so far."""
        height, width, _ = self.image_shape
        down, right = height / SIDE, width / SIDE
        scale = min(down, right)
        card_width = int(SIDE / self.cards * 0.9)
        card_height = card_width * 7 // 5
        image = raster.canvas(height, width, playing_cards.BAIZE)
        rows, columns = int(card_height * scale), int(card_width * scale)
        deck = jnp.asarray(playing_cards.deck(rows, columns))
        for i in range(self.cards):
            left = int((5 + int(i * card_width * 1.1)) * right)
            top = int((SIDE - card_height) // 2 * down)
            picture = deck[state.suits[i] * 13 + state.ranks[i]]
            image = image.at[top : top + rows, left : left + columns].set(picture)
        size = max(self.font_size * scale, min(11, height / 10))  # the least that can be read
        spaced = self.font_size * scale >= 14
        for label, top, first, last in self.lines:
            ids = [glyphs.encode(label)]
            if last > first:
                ids.append(_written(state.formula[first:last], spaced))
            text = jnp.concatenate([jnp.asarray(part) for part in ids])
            image = raster.text(image, text, 10 * right, top * down, size, raster.WHITE, bold=not spaced)
        return image

    def describe(self, state: State) -> Int[Array, " n"]:
        """What the picture shows, "cards 3 8 K A formula 3 * 8"."""
        head, middle = (jnp.full(1, _PHRASES.index(word), jnp.int32) for word in ("cards", "formula"))
        inside = (state.formula >= 0) & (state.formula < BLANK)
        words = jnp.where(inside, jnp.asarray(_TOKEN_PHRASE)[jnp.clip(state.formula, 0)], -1)
        return jnp.concatenate([head, state.ranks, middle, words]).astype(jnp.int32)

    def admissible(self, state: State) -> Bool[Array, " a"]:
        """Numbers of unused cards, and every sign: a card worth 3 unused -> "3" may be said."""
        tokens = _tokens_of(self.actions)
        left = self._left(state)[np.clip(tokens, 0, 9)] > 0
        return jnp.where(tokens < 10, left, True)

    def _next(self, state: State) -> Int[Array, " n"]:
        """The rest of the first plan that begins as the formula does, "=" behind it; "=" alone if none does.

        Worked example: formula 8 / blank (, plan 8 / ( 3 - 8 / 3 ) -> 3 - 8 / 3 ) = and -1.
        """
        size = self.limit + 1
        real = (state.formula >= 0) & (state.formula != BLANK)
        place = jnp.cumsum(real) - 1
        count = jnp.sum(real)
        plans = self._plans().of(values_of(state.ranks))
        most = plans.shape[1]
        at = (place[:, None] == jnp.arange(most)) & real[:, None]  # [size, most]
        so_far = jnp.sum(jnp.where(at, state.formula[:, None], 0), axis=0)
        lengths = jnp.sum(plans >= 0, axis=1)
        same = (plans == so_far) | (jnp.arange(most) >= count)
        fits = same.all(axis=1) & (lengths >= count) & (lengths > 0)
        chosen = jnp.argmax(fits)
        plan = jnp.where(fits.any(), plans[chosen], -1)
        length = jnp.where(fits.any(), lengths[chosen], count)
        ahead = count + jnp.arange(min(size, most + 1))
        token = jnp.where(ahead < length, plan[jnp.clip(ahead, 0, most - 1)], -1)
        return jnp.where(ahead == length, _EQUALS, token).astype(jnp.int32)

    def expert(self, state: State, key: PRNGKeyArray) -> Int[Array, ""]:
        """The next token of a formula that comes to the target; "=" if none begins as this one does."""
        table = np.full(_EQUALS + 1, -1, np.int32)
        table[_tokens_of(self.actions)] = np.arange(len(self.actions))
        return jnp.asarray(table)[self._next(state)[0]]

    def explain(self, state: State) -> Int[Array, " n"]:
        """What the plan has next, at most six signs, "8 / ( 3 - 8"."""
        ahead = self._next(state)[:_FORESEEN]
        return jnp.where(ahead >= 0, jnp.asarray(_TOKEN_PHRASE)[jnp.clip(ahead, 0)], -1)


@cache
def _tokens_of(actions: tuple[str, ...]) -> np.ndarray:
    """Actions as tokens, int32[actions]."""
    return np.array([(*TOKENS, "=").index(action) for action in actions], np.int32)


def _written(tokens: Int[Array, " n"], spaced: bool) -> Int[Array, " m"]:
    """Glyph ids of a part of a formula, -1 where nothing stands."""
    table = np.full((len(TOKENS) + 1, 3), -1, np.int32)  # the last row is nothing
    for row, token in zip(table, TOKENS, strict=False):
        row[: len(token)] = glyphs.encode(token)
        if spaced:
            row[2] = glyphs.SPACE
    return jnp.asarray(table)[jnp.where(tokens >= 0, tokens, len(TOKENS))].reshape(-1)
