"""Which words an answer's action has: read on the device, byte by byte, once the answer has ended.

* Tokens say where the last answer object ends, and which of them its action lies in: only their bytes are read.
* Two automata read them side by side: the grammar's, which knows where an action begins and its object ends, and
  `Speech`, which tells the words in between.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, Integer, UInt8

from vldac.text.automaton import ByteAutomaton
from vldac.text.speech import WORD, Speech
from vldac.text.tokenizer import Vocabulary


@partial(
    jax.tree_util.register_dataclass,
    data_fields=("byte_class", "frame", "completes", "inside", "speech", "told", "text", "begins"),
    meta_fields=("places",),
)
@dataclass(frozen=True, eq=False)
class RecordReader:
    """Tables over K classes of bytes.

    Attributes:
      byte_class: int32[256], bytes that no position tells apart share one.
      frame: int[Q, K], the grammar's automaton over bytes; completes: bool[Q, K], an answer object ends.
      inside: bool[Q], between the quote that opens an action and the end of its object.
      speech: int[S, K], the automaton of the actions; the last position is that of all that is no action.
      told: int32[S, K, E], place * WORD + id of what a byte makes certain, -1 = nothing.
      text: uint8[...], the tokens' bytes, one after another; begins: int32[V + 1], where each begins.
      places: n.
    """

    byte_class: Int[np.ndarray | Array, " 256"]
    frame: Integer[np.ndarray | Array, "Q K"]
    completes: Bool[np.ndarray | Array, "Q K"]
    inside: Bool[np.ndarray | Array, " Q"]
    speech: Integer[np.ndarray | Array, "S K"]
    told: Int[np.ndarray | Array, "S K E"]
    text: UInt8[np.ndarray | Array, " t"]
    begins: Int[np.ndarray | Array, " v"]
    places: int

    @classmethod
    def build(cls, automaton: ByteAutomaton, said: Speech, vocabulary: Vocabulary) -> RecordReader:
        """On the host.

        Raises:
          ValueError: the vocabulary has no token for a single byte that some action needs.
        """
        used = sorted({byte for row in said.edges for byte in row})
        missing = bytes(
            set(used) - {text[0] for text in vocabulary.bytes_of if text is not None and len(text) == 1}
        )
        if missing:
            raise ValueError(f"the vocabulary has no tokens for the bytes {missing!r}, which actions are made of")
        alike: dict[bytes, int] = {}
        byte_class, members = np.zeros(256, np.int32), []
        for byte in range(256):
            key = automaton.next_position[:, byte].tobytes() + automaton.names[:, byte].tobytes()
            key = bytes([byte]) if byte in used else key
            if key not in alike:
                alike[key] = len(members)
                members.append(byte)
            byte_class[byte] = alike[key]

        dead = len(said.edges)
        table = np.full((dead + 1, len(members)), dead, np.int32)
        told = np.full((dead + 1, len(members), max(map(len, said.told.values()))), -1, np.int32)
        for position, row in enumerate(said.edges):
            for byte, target in row.items():
                table[position, byte_class[byte]] = target
        for (position, byte), numbers in said.told.items():
            told[position, byte_class[byte], : len(numbers)] = numbers
        texts = [text or b"" for text in vocabulary.bytes_of]
        texts += [b""] * (vocabulary.size - len(texts))
        return cls(
            byte_class=byte_class,
            frame=_small(automaton.next_position[:, members]),
            completes=automaton.names[:, members] >= 0,
            inside=automaton.inside,
            speech=_small(table),
            told=told,
            text=np.frombuffer(b"".join(texts) or b"\0", np.uint8),
            begins=np.cumsum([0, *map(len, texts)]).astype(np.int32),
            places=said.places,
        )

    def read(
        self, tokens: Int[Array, "*b n"], position: Int[Array, "*b n"], completing: Bool[Array, "*b n"]
    ) -> Int[Array, "*b r"]:
        """int32[*b, 1 + n], the last action that is completed; -1 throughout where there is none.

        Args:
          tokens: answers.
          position: of the grammar's automaton before each token.
          completing: tokens that an answer object ends in.
        """
        batch, length = tokens.shape[:-1], tokens.shape[-1]
        tokens, position, completing = (x.reshape(-1, length) for x in (tokens, position, completing))
        at = jnp.arange(length)
        end = jnp.max(jnp.where(completing, at, -1), axis=1, keepdims=True)
        # An action that a token ends in was opened in the last token that began outside.
        outside = ~jnp.asarray(self.inside)[position] & (at <= end)
        start = jnp.max(jnp.where(outside, at, 0), axis=1, keepdims=True)
        begins = jnp.asarray(self.begins)
        lengths = jnp.where((at >= start) & (at <= end), begins[tokens + 1] - begins[tokens], 0)
        ends = jnp.cumsum(lengths, axis=1)
        total = ends[:, -1]
        rows = jnp.arange(len(tokens))
        nothing = jnp.full((len(tokens), 1 + self.places), -1, jnp.int32)

        def byte(carry):
            number, frame, speech, words, found = carry
            live = number < total
            # Worked example, tokens of 2 and 3 bytes, number 3: one has ended, so it is byte 1 of the second.
            which = jnp.minimum((ends <= number).sum(axis=1), length - 1)
            offset = number - (ends - lengths)[rows, which]
            place = jnp.clip(begins[tokens[rows, which]] + offset, 0, len(self.text) - 1)
            kind = jnp.asarray(self.byte_class)[jnp.asarray(self.text)[place].astype(jnp.int32)]
            told = jnp.asarray(self.told)[speech, kind]
            for i in range(told.shape[-1]):
                here = (told[:, i, None] >= 0) & (told[:, i, None] // WORD == jnp.arange(1 + self.places))
                words = jnp.where(here, told[:, i, None] % WORD, words)
            speech = jnp.asarray(self.speech)[speech, kind].astype(jnp.int32)
            after = jnp.asarray(self.frame)[frame, kind].astype(jnp.int32)
            inside = jnp.asarray(self.inside)
            opens = inside[after] & ~inside[frame]
            speech, words = jnp.where(opens, 0, speech), jnp.where(opens[:, None], -1, words)
            ends_here = live & jnp.asarray(self.completes)[frame, kind]
            found = jnp.where(ends_here[:, None], words, found)
            return number + 1, after, speech, words, found

        first = jnp.take_along_axis(position, start, axis=1)[:, 0]
        dead = jnp.full(len(tokens), len(self.speech) - 1, jnp.int32)
        carry = jnp.int32(0), first, dead, nothing, nothing
        found = jax.lax.while_loop(lambda carry: (carry[0] < total).any(), byte, carry)[-1]
        return found.reshape(*batch, 1 + self.places)


def _small(table: np.ndarray) -> np.ndarray:
    return table.astype(np.uint16 if table.max() < 2**16 else np.int32)
