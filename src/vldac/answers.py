"""Answers: as they are being written, as they were written, and as they are scored."""

from __future__ import annotations

from typing import Any

from flax import struct
from jaxtyping import Array, Bool, Float, Int, Key

from vldac.models import KVCache

Sight = Float[Array, "b history levels t d"]  # frames' visual tokens: features, then deepstack levels


@struct.dataclass
class Response:
    """An answer, leaves [..., B, ...].

    Attributes:
      tokens: int32[B, N], as sampled; the pad id after the end.
      log_probs: float32[B, N], of each token when it was sampled; 0 after the end.
      mask: bool[B, N], true up to and including the end-of-sequence token.
        Worked example: 3 tokens in 5 slots -> [1, 1, 1, 0, 0].
      grammar_state: int32[B], the automaton's state after the answer.
      action: int32[B], the action that the answer names, -1 = none; in a world with slots its record,
        int32[B, 1 + n], all -1 = none.
      value: float32[B], the critic on the observation.
    """

    tokens: Int[Array, "*b n"]
    log_probs: Float[Array, "*b n"]
    mask: Bool[Array, "*b n"]
    grammar_state: Int[Array, "*b"]
    action: Int[Array, "..."]
    value: Float[Array, "*b"]


@struct.dataclass
class Scores:
    """The training pass over given answers, leaves [B, ...].

    Attributes:
      log_probs: float32[B, N], 0 where the token mask is false.
      entropy: float32[B, N], of the distribution each token was drawn from; 0 where masked. Not differentiable.
      value: float32[B].
    """

    log_probs: Float[Array, "b n"]
    entropy: Float[Array, "b n"]
    value: Float[Array, " b"]


@struct.dataclass
class Prepared:
    """What stays the same while the parameters do: computed once a rollout, not once a step.

    Attributes:
      params: the policy's parameters.
      prefix: keys and values of the static text, batch 1.
      layers: the decoder's layers apart, for the unrolled decode.
    """

    params: Any
    prefix: KVCache
    layers: Any


@struct.dataclass
class Answers:
    """Answers that are being written, leaves [B, ...].

    Attributes:
      keys: of each answer; its token i is drawn with fold_in(key, i), whatever happens in other lanes.
      index: tokens written so far: int32[] where all lanes have begun together, else int32[B].
      token: int32[B], written last.
      state: int32[B], the automaton's.
      done: bool[B], the answer has ended.
      tokens, log_probs, mask: [B, N], as in `Response`.
      value: float32[B], the critic's.
      context: bool[B, C + N], which slots of the context hold something.
      next_position: int32[B], position of the first answer token.
      cache: keys and values, C + N slots.
    """

    keys: Key[Array, " b"]
    index: Int[Array, "..."]
    token: Int[Array, " b"]
    state: Int[Array, " b"]
    done: Bool[Array, " b"]
    tokens: Int[Array, "b n"]
    log_probs: Float[Array, "b n"]
    mask: Bool[Array, "b n"]
    value: Float[Array, " b"]
    context: Bool[Array, "b s"]
    next_position: Int[Array, " b"]
    cache: KVCache
