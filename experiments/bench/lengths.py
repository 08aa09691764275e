"""Answers of known lengths, to be timed: random weights end theirs at random, a trained model would not.

Two runs, or ours and a peer's, then write the same number of tokens, and what lanes gain that do not wait for the
longest answer can be measured with lengths as uneven as one likes.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import jax
from jaxtyping import Array, Bool, Int, Key

from vldac.policy import Policy

_LENGTH = 2**31 - 1  # folded into an answer's key; its tokens fold in their numbers


@dataclass(frozen=True, eq=False)
class TimedPolicy(Policy):
    """A policy whose answers end after so many tokens, whatever they say.

    Attributes:
      lengths: the least and the most tokens of an answer, each number between them as likely; the most is
        `max_tokens` or less.
    """

    lengths: tuple[int, int] = (1, 1)

    @classmethod
    def of(cls, policy: Policy, lengths: tuple[int, int]) -> TimedPolicy:
        """The same policy with other ends."""
        fields = {field.name: getattr(policy, field.name) for field in dataclasses.fields(Policy)}
        return cls(**fields, lengths=lengths)

    def _ends(
        self, keys: Key[Array, " b"], token: Int[Array, " b"], written: Int[Array, "..."]
    ) -> Bool[Array, " b"]:
        least, most = self.lengths
        if least == most:
            return (written >= most) | (token < 0)  # the latter is never true, and has the lanes' shape
        draw = jax.vmap(lambda key: jax.random.randint(jax.random.fold_in(key, _LENGTH), (), least, most + 1))
        return written >= draw(keys)
