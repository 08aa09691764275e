"""The action grammar as one table on the device: which tokens may be written, and which action was spoken.

* A byte automaton (`automaton`) is folded with the vocabulary: one gather advances it by a whole token, however
  long, across whatever borders of the format. Sampled ids are never decoded.
* "grammar" masks: every answer is one JSON object that names an action, and ends within its budget. "free"
  samples anything and finds the last answer object in it, or none. Both read with the same table.
* Tokens that move the automaton alike everywhere share a column: 150 k tokens are some hundreds of classes.
* A state is a number, `position + positions * (1 + last action named)`, and the table holds such numbers: an
  answer's action rides along without multiplying the rows by the number of actions.
* Every way of cutting a text into tokens is accepted; the bytes alone decide.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, Integer

from envs_jax import Slot
from vldac.text.automaton import ByteAutomaton, finder, writer
from vldac.text.records import RecordReader
from vldac.text.speech import speech
from vldac.text.tokenizer import Vocabulary

NEVER = 2**30  # tokens to the end where there is no way; finite, so that 1 + NEVER is a number
_NOTHING, _PAD, _EOS = -3, -2, -1  # the last three classes: ids without bytes, pad, EOS


@partial(
    jax.tree_util.register_dataclass,
    data_fields=("next_state", "token_class", "distance", "reader"),
    meta_fields=("decoding", "eos_id", "start"),
)
@dataclass(frozen=True, eq=False)
class ActionGrammar:
    """How the answers of one world are read and masked, token by token.

    Host arrays: a jitted function that closes over a grammar has them as constants. It is a pytree, too, and
    can be an argument of one.

    Attributes:
      next_state: uint[Q, C], Q positions of the automaton, C token classes: the next position, and the action
        of the last answer that the token completes, packed as a state is.
      token_class: int32[V], of every id of the model's vocabulary.
      distance: int32[Q], fewest further tokens, EOS included, until an answer is complete; `NEVER` where there
        is no way. In free decoding: until the next one that is begun or to be begun.
      decoding: "free" or "grammar".
      eos_id: ends an answer.
      start: the state before the first token.
      reader: reads the words of actions with slots, None without.
    """

    next_state: Integer[np.ndarray | Array, "Q C"]
    token_class: Int[np.ndarray | Array, " V"]
    distance: Int[np.ndarray | Array, " Q"]
    decoding: Literal["free", "grammar"]
    eos_id: int
    start: int = 0
    reader: RecordReader | None = None

    @classmethod
    def build(
        cls, actions: Sequence[str], vocabulary: Vocabulary, decoding: str, slots: Mapping[str, Slot] | None = None
    ) -> ActionGrammar:
        """Compiles the grammar of a world's actions, on the host.

        Args:
          actions: what may be spoken; the action id is the index.
          vocabulary: of the model.
          decoding: "free" or "grammar".
          slots: what may stand in their places; None or empty = they are fixed texts.

        Raises:
          ValueError: an action is empty, repeated or not text; the vocabulary can not write one of them; two are
            spoken alike; or another decoding.
        """
        if decoding not in ("free", "grammar"):
            raise ValueError(f"decoding is {decoding!r}; accepted: 'free', 'grammar'")
        said = speech(actions, slots) if slots else actions
        automaton = writer(said) if decoding == "grammar" else finder(said)
        next_state, token_class = _fold(automaton, vocabulary)
        distance = _distance(automaton, next_state)
        reader = RecordReader.build(automaton, said, vocabulary) if slots else None
        missing = _unwritable(automaton, next_state, 1 if slots else len(actions))
        if missing:
            names = ", ".join(repr(actions[action]) for action in missing)
            raise ValueError(f"the vocabulary has no tokens to write the answer of action {names}")
        dtype = next(t for t in (np.uint8, np.uint16, np.int32) if next_state.max() <= np.iinfo(t).max)
        return cls(next_state.astype(dtype), token_class, distance, decoding, vocabulary.eos_id, reader=reader)

    def check_budget(self, max_tokens: int) -> None:
        """Raises ValueError if no answer fits into `max_tokens` tokens, EOS included."""
        needed = int(self.distance[self.start])
        if max_tokens < needed:
            raise ValueError(f"max_tokens is {max_tokens}; accepted: {needed} or more, the shortest answer")

    def initial(self, batch: int | tuple[int, ...] = ()) -> Int[Array, "..."]:
        """int32[*batch], the state before anything is written."""
        return jnp.full(batch, self.start, jnp.int32)

    def advance(self, state: Int[Array, "*b"], tokens: Int[Array, "*b"]) -> Int[Array, "*b"]:
        """The state after one more token. EOS and pad change nothing."""
        position, named = self._unpack(state)
        entry = jnp.asarray(self.next_state)[position, jnp.asarray(self.token_class)[tokens]]
        position, newly = self._unpack(entry.astype(jnp.int32))
        return position + self._positions * jnp.where(newly > 0, newly, named)

    def allowed(self, state: Int[Array, "*b"], tokens_left: Int[Array, "..."] | int) -> Bool[Array, "*b V"]:
        """What may be sampled.

        In free decoding all but ids without bytes (EOS may). In grammar decoding only what keeps the answer in
        the grammar and lets it be completed: a token counts itself and the fewest that must follow it.
        Worked example, 3 tokens left inside the thoughts, fewest to close being `", "action": "`, `left"}`,
        EOS: only the first of these is allowed.

        Never empty: where nothing can be completed any more, which the mask itself never leads to, EOS.

        Args:
          state: before the token.
          tokens_left: slots left, that of the token about to be sampled included; broadcast to the states.
        """
        token_class = jnp.asarray(self.token_class)
        if self.decoding == "free":
            may = jnp.asarray(np.arange(self._classes) < self._classes + _NOTHING).at[_EOS].set(True)
            return jnp.broadcast_to(may[token_class], (*state.shape, token_class.shape[0]))
        distance = jnp.asarray(self.distance)
        position, _ = self._unpack(state)
        after, _ = self._unpack(jnp.asarray(self.next_state)[position].astype(jnp.int32))  # [*b, C]
        left = jnp.broadcast_to(jnp.asarray(tokens_left), state.shape)
        may = 1 + distance[after] <= left[..., None]
        may = may.at[..., _PAD].set(False)
        may = may.at[..., _EOS].set((distance[position] == 1) | (distance[position] > left))
        return may[..., token_class]

    def action(self, state: Int[Array, "*b"]) -> Int[Array, "*b"]:
        """int32[*b], the action that the text so far names, -1 = none."""
        position, named = self._unpack(state)
        return jnp.where(jnp.asarray(self.distance)[position] < NEVER, named - 1, -1)

    def record(self, tokens: Int[Array, "*b n"], mask: Bool[Array, "*b n"]) -> Int[Array, "*b ..."]:
        """What answers name, read when they have ended: int32[*b, 1 + places] with slots (all -1 = none), else
        int32[*b], the action alone.

        Of several answer objects the last counts. One whose action holds a word that its slot does not have, or
        more words than it takes, names no action, so it is no answer object.

        Args:
          tokens, mask: as for `states`.
        """
        before = self.states(tokens, mask)
        last = jnp.where(mask[..., -1], self.advance(before[..., -1], tokens[..., -1]), before[..., -1])
        if self.reader is None:
            return self.action(last)
        position, _ = self._unpack(before)
        entry = jnp.asarray(self.next_state)[position, jnp.asarray(self.token_class)[tokens]]
        _, newly = self._unpack(entry.astype(jnp.int32))
        record = self.reader.read(tokens, position, (newly > 0) & mask)
        return jnp.where((self.action(last) >= 0)[..., None], record, -1)

    def states(self, tokens: Int[Array, "*b n"], mask: Bool[Array, "*b n"]) -> Int[Array, "*b n"]:
        """The state before each token, as `advance` met it while the answer was sampled.

        Args:
          tokens: answers.
          mask: true up to and including EOS; tokens where it is false change nothing.
        """

        def step(state, slot):
            token, real = slot
            return jnp.where(real, self.advance(state, token), state), state

        slots = jnp.moveaxis(tokens, -1, 0), jnp.moveaxis(mask, -1, 0)
        _, before = jax.lax.scan(step, self.initial(tokens.shape[:-1]), slots)
        return jnp.moveaxis(before, 0, -1)

    @property
    def _positions(self) -> int:
        return self.next_state.shape[0]

    @property
    def _classes(self) -> int:
        return self.next_state.shape[1]

    def _unpack(self, state: Int[Array, "*b"]) -> tuple[Int[Array, "*b"], Int[Array, "*b"]]:
        """(position, 1 + the last action named)."""
        return state % self._positions, state // self._positions


def _fold(automaton: ByteAutomaton, vocabulary: Vocabulary) -> tuple[np.ndarray, np.ndarray]:
    """(next_state int32[Q, C], token_class int32[V]).

    A text moves the automaton as a function from positions to states, a column. All tokens are read side by
    side, one byte at a time, and what is computed is one column for every different (column so far, byte):
    a few thousand, not one for every token.
    """
    positions = len(automaton.next_position)
    by_byte = automaton.next_position + positions * (1 + automaton.names)  # packed [Q, 256]
    columns, numbers = [np.arange(positions)], {}  # of the empty text: stay, name nothing
    numbers[columns[0].tobytes()] = 0
    followed: dict[int, int] = {}  # 256 * column + byte -> column

    def follow(pair: int) -> int:
        if pair not in followed:
            before, byte = divmod(pair, 256)
            named, position = np.divmod(columns[before], positions)
            column = by_byte[position, byte]
            column = np.where(column >= positions, column, column + positions * named)
            if automaton.dead >= 0:  # a text that has left the grammar names nothing
                column = np.where(column % positions == automaton.dead, automaton.dead, column)
            followed[pair] = numbers.setdefault(column.tobytes(), len(columns))
            if followed[pair] == len(columns):
                columns.append(column)
        return followed[pair]

    written = {i: text for i, text in enumerate(vocabulary.bytes_of) if text is not None}
    ids, texts = np.array(list(written), np.int64), list(written.values())
    lengths = np.array([len(text) for text in texts])
    begins = np.cumsum(lengths) - lengths
    data = np.frombuffer(b"".join(texts), np.uint8)
    column = np.zeros(len(ids), np.int64)
    for at in range(lengths.max(initial=0)):
        reading = np.flatnonzero(lengths > at)
        pairs, which = np.unique(256 * column[reading] + data[begins[reading] + at], return_inverse=True)
        column[reading] = np.array([follow(int(pair)) for pair in pairs])[which]

    used, dense = np.unique(column, return_inverse=True)
    lost = np.full(positions, max(automaton.dead, 0))  # an id without bytes: the text is broken off there
    stay = np.arange(positions)
    next_state = np.stack([*(columns[number] for number in used), lost, stay, stay], axis=1)
    classes = next_state.shape[1]
    token_class = np.full(vocabulary.size, classes + _NOTHING, np.int32)
    token_class[ids] = dense
    token_class[vocabulary.pad_id] = classes + _PAD
    token_class[vocabulary.eos_id] = classes + _EOS
    return next_state.astype(np.int32), token_class


def _distance(automaton: ByteAutomaton, next_state: np.ndarray) -> np.ndarray:
    """int32[Q]: breadth first, backwards from the tokens that complete an answer."""
    positions = len(next_state)
    after, named = next_state[:, :_NOTHING] % positions, next_state[:, :_NOTHING] // positions
    distance = np.where(automaton.complete, 1, NEVER)
    tokens, nearest = 2, (named > 0).any(axis=1)  # the completing token and EOS
    while nearest.any():
        distance[nearest] = tokens
        nearest = (distance[after] == tokens).any(axis=1) & (distance == NEVER)
        tokens += 1
    return distance.astype(np.int32)


def _unwritable(automaton: ByteAutomaton, next_state: np.ndarray, actions: int) -> list[int]:
    """The actions that no sequence of tokens from the start names."""
    positions = len(next_state)
    after, named = next_state[:, :_NOTHING] % positions, next_state[:, :_NOTHING] // positions
    reached = np.zeros(positions, bool)
    frontier = reached.copy()
    frontier[0] = True
    while frontier.any():
        reached |= frontier
        following = np.zeros(positions, bool)
        following[after[frontier]] = True
        frontier = following & ~reached
    return sorted(set(range(actions)) - set((named[reached] - 1).ravel().tolist()))
