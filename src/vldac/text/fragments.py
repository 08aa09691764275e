"""Text put together on the device: pieces that were tokenised on the host, gathered and packed.

* `FragmentTable.pack` sets pieces one after another without gaps: one gather, static shapes.
* `AnswerWriter` writes the answer that a world's expert would give, to learn from: phrases, then an action.
* Pieces are tokenised apart from each other, so their joint is cut as a tokenizer might not cut it. Pieces are
  chosen so that joints lie where byte-level BPE cuts anyhow: a space begins a word.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from envs_jax import Slot
from envs_jax.world import PLACE
from vldac.text.automaton import encoded_actions, json_text
from vldac.text.tokenizer import Tokenizer, Vocabulary, encode


@dataclass(frozen=True, eq=False)
class FragmentTable:
    """Token sequences as rows; a fragment id is the index.

    Attributes:
      tokens: int32[F, L], padded with `pad_id`.
      lengths: int32[F].
      pad_id: fills unused slots.
    """

    tokens: Int[np.ndarray, "F L"]
    lengths: Int[np.ndarray, " F"]
    pad_id: int

    @classmethod
    def build(cls, fragments: Sequence[Sequence[int]], pad_id: int = 0) -> FragmentTable:
        """From lists of token ids, on the host. Fragments may be empty; so may the list."""
        rows = [list(fragment) for fragment in fragments] or [[]]  # a table without rows could not be indexed
        tokens = np.full((len(rows), max(1, *map(len, rows))), pad_id, np.int32)
        for row, fragment in zip(tokens, rows, strict=True):
            row[: len(fragment)] = fragment
        return cls(tokens, np.array([len(row) for row in rows], np.int32), pad_id)

    def length_of(self, ids: Int[Array, "*n"]) -> Int[Array, "*n"]:
        """int32, tokens of each fragment; 0 for an id outside the table, such as -1 = nothing."""
        known = (ids >= 0) & (ids < len(self.lengths))
        return jnp.where(known, jnp.asarray(self.lengths)[ids], 0)

    def pack(
        self, ids: Int[Array, " n"], capacity: int
    ) -> tuple[Int[Array, " capacity"], Bool[Array, " capacity"], Int[Array, ""]]:
        """Fragments one after another. What does not fit is cut off at the end, in the middle of a fragment.

        Worked example, fragments [[7], [8, 9]], ids = [1, -1, 0], capacity 5:
        tokens = [8, 9, 7, pad, pad], valid = [1, 1, 1, 0, 0], length = 3.

        Args:
          ids: fragment ids; one outside the table, such as -1, is nothing.
          capacity: slots.

        Returns:
          (tokens int32[capacity], valid bool[capacity], length int32[] of used slots).
        """
        ids = jnp.append(ids, -1)  # where the slots behind the last fragment point
        lengths = self.length_of(ids)
        ends = jnp.cumsum(lengths)
        slots = jnp.arange(capacity)
        # A slot's fragment is the number of those that end at or before it.
        which = (ends <= slots[:, None]).sum(axis=1, dtype=jnp.int32)
        offset = slots - (ends - lengths)[which]
        valid = slots < ends[-1]
        tokens = jnp.where(valid, jnp.asarray(self.tokens)[ids[which], offset], self.pad_id)
        return tokens, valid, jnp.minimum(ends[-1], capacity)


@dataclass(frozen=True, eq=False)
class AnswerWriter:
    """Writes `{"thoughts": "PHRASE PHRASE", "action": "ACTION"}` and EOS: demonstrations for a world.

    Attributes:
      table: the opening; every phrase as the first of the thoughts; every phrase after a space; and what
        closes the thoughts, names an action and ends, with the words of slots apart.
      phrases: P, how many phrases.
      actions: A, how many actions.
      max_tokens: N, slots of an answer.
      closing: int32[A, F], fragments of what closes the thoughts, names the action and ends; -1 = nothing. Where a
        word goes, the fragment of its slot's word 0.
      place: int32[A, F], the place of the record whose word goes there; -1 = no word does.
    """

    table: FragmentTable
    phrases: int
    actions: int
    max_tokens: int
    closing: Int[np.ndarray, "A F"]
    place: Int[np.ndarray, "A F"]

    @classmethod
    def build(
        cls,
        phrases: Sequence[str],
        actions: Sequence[str],
        tokenizer: Tokenizer,
        vocabulary: Vocabulary,
        max_tokens: int,
        slots: Mapping[str, Slot] | None = None,
    ) -> AnswerWriter:
        """Tokenises all that an answer can be made of, on the host and once.

        Raises:
          ValueError: an answer without thoughts does not fit into `max_tokens`, or the tokenizer alters a text
            (by Unicode normalisation, say), so that the grammar would not read it.
        """

        def exact(text: str) -> list[int]:
            tokens = encode(tokenizer, text)
            written = b"".join(vocabulary.bytes_of[token] or b"" for token in tokens)
            if written != text.encode():
                raise ValueError(f"the tokenizer alters the text {text!r}: its tokens spell {written!r}")
            return tokens

        opening = exact('{"thoughts": "')
        first = [exact(json_text(phrase)) for phrase in phrases]
        later = [exact(" " + json_text(phrase)) for phrase in phrases]
        encoded_actions(actions)
        slots, fragments = slots or {}, [opening, *first, *later]
        words: dict[tuple[str, str], int] = {}  # (slot, what stands before a word) -> the fragment of word 0
        programs, longest = [], 0
        for action in actions:
            parts = PLACE.split(action) if slots else [action]
            program, place, length, before = [], 0, 0, ""
            for i, part in enumerate(parts):
                if i % 2 == 0:
                    # A space goes with the word that it comes before: there a tokenizer cuts.
                    before = " " if part.endswith(" ") and i + 1 < len(parts) else ""
                    text = ('", "action": "' if i == 0 else "") + json_text(part[: len(part) - len(before)])
                    text += '"}' if i + 1 == len(parts) else ""
                    fixed = exact(text) + [vocabulary.eos_id] * (i + 1 == len(parts))
                    program.append((len(fragments), -1))
                    fragments.append(fixed)
                    length += len(fixed)
                    continue
                for _ in range(slots[part].most):
                    if (part, before) not in words:
                        words[part, before] = len(fragments)
                        fragments += [exact(before + json_text(word)) for word in slots[part].words]
                    base = words[part, before]
                    program.append((base, place))
                    length += max(map(len, fragments[base : base + len(slots[part].words)]))
                    place, before = place + 1, " "
            programs.append(program)
            longest = max(longest, length)
        needed = len(opening) + longest
        table = np.full((len(actions), max(map(len, programs)), 2), -1, np.int32)
        for row, program in zip(table, programs, strict=True):
            row[: len(program)] = program
        if max_tokens < needed:
            raise ValueError(
                f"max_tokens is {max_tokens}; accepted: {needed} or more, the longest answer without thoughts"
            )
        return cls(
            FragmentTable.build(fragments, vocabulary.pad_id),
            len(phrases),
            len(actions),
            max_tokens,
            closing=table[..., 0],
            place=table[..., 1],
        )

    def write(
        self, phrase_ids: Int[Array, " n"], action: Int[Array, "..."]
    ) -> tuple[Int[Array, " N"], Bool[Array, " N"]]:
        """One answer.

        Thoughts that do not fit are cut before the first phrase that is too long, never within a phrase (it
        might be within a character or an escape), and the rest of the answer is always whole.

        Args:
          phrase_ids: the thoughts; ids outside the phrases, such as -1, are nothing.
          action: in range(A), anything else is clipped into it; or a record that is an action.

        Returns:
          (tokens int32[N], pad after EOS; mask bool[N], true up to and including EOS).
        """
        known = (phrase_ids >= 0) & (phrase_ids < self.phrases)
        later = jnp.cumsum(known) > 1
        thoughts = jnp.where(known, 1 + phrase_ids + self.phrases * later, -1)
        number = jnp.clip(action[0] if action.ndim else action, 0, self.actions - 1)
        closing = jnp.asarray(self.closing)[number]
        if action.ndim:
            place = jnp.asarray(self.place)[number]
            word = action[1 + jnp.maximum(place, 0)]
            closing = jnp.where(place < 0, closing, jnp.where(word >= 0, closing + word, -1))
        room = self.max_tokens - self.table.length_of(jnp.int32(0)) - self.table.length_of(closing).sum()
        thoughts = jnp.where(jnp.cumsum(self.table.length_of(thoughts)) <= room, thoughts, -1)
        ids = jnp.concatenate([jnp.zeros(1, jnp.int32), thoughts, closing])
        tokens, mask, _ = self.table.pack(ids, self.max_tokens)
        return tokens, mask
