"""What goes into a vision-language model, whatever its family: visual tokens, and slots that hold something.

* Slots are static and absent ones are masked; who calls decides what lies in them, and at which positions.
* How an image stands in a prompt (what is written around it, which positions its tokens take) is data that a
  family's configuration gives, so that prompts are built without knowing the family.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float, Int


@dataclass(frozen=True, eq=False)
class ImageSpan:
    """How an image of one size stands in a prompt.

    Attributes:
      before, after: ids around its visual tokens.
      token_id: stands where a visual token's features go.
      offsets: int32[3, T], (temporal, height, width) positions of the T visual tokens relative to the first.
        Worked example, M-RoPE and 1x2 tokens: [[0, 0], [0, 0], [0, 1]].
      extent: how far the visual tokens move the next token's position on.
      text_before, text_after: text around all of this, tokenised together with what it meets.
    """

    before: tuple[int, ...]
    token_id: int
    offsets: np.ndarray
    after: tuple[int, ...]
    extent: int
    text_before: str = ""
    text_after: str = ""

    @property
    def tokens(self) -> int:
        """T, visual tokens of the image."""
        return self.offsets.shape[1]


@dataclass(frozen=True)
class TowerWork:
    """What a vision tower holds for one image while it computes a block: to know memory and work before.

    Attributes:
      patches: tokens of the tower.
      intermediates: numbers of one patch in a block, about.
      scores: attention scores of a block, all heads.
      depth: blocks.
      head_dim: width of a head.
      levels: sets of visual tokens that come of it, deepstack's counted.
    """

    patches: int
    intermediates: int
    scores: int
    depth: int
    head_dim: int
    levels: int = 1

    def image_bytes(self, itemsize: int) -> int:
        """Bytes of one image in one block. Scores are float32 before and after the softmax, and factors once."""
        return self.patches * self.intermediates * itemsize + self.scores * (3 * 4 + itemsize)


@struct.dataclass
class Visual:
    """The visual tokens of n images of one size.

    Attributes:
      features: float[n, T, d], what takes the place of token embeddings.
      deepstack: float[K, n, T, d], what is added to the hidden states after each of the first K decoder layers
        (Qwen3-VL); None = nothing.
    """

    features: Float[Array, "n t d"]
    deepstack: Float[Array, "k n t d"] | None = None


@struct.dataclass
class Inputs:
    """What lies in the slots of B sequences.

    Attributes:
      embeddings: float[B, S, d]; finite in absent slots, too.
      positions: int32[B, 3, S], (temporal, height, width); all three equal for text, and the temporal one alone
        counts in families without M-RoPE.
      valid: bool[B, S], false where a slot is absent.
      images: int32[B, S], which image a slot's visual token belongs to, -1 = none; None = nowhere. Families
        whose visual tokens see all of their own image look at it.
        Worked example, a b [img0 img0] c [img1 img1] -> -1 -1 0 0 -1 1 1.
      deepstack: float[K, B, S, d], see `Visual`; zero where there is no visual token; None = nothing.
    """

    embeddings: Float[Array, "b s d"]
    positions: Int[Array, "b 3 s"]
    valid: Bool[Array, "b s"]
    images: Int[Array, "b s"] | None = None
    deepstack: Float[Array, "k b s d"] | None = None

    def place(self, visual: Visual, slots: np.ndarray, images: np.ndarray) -> Inputs:
        """Lays visual tokens into the same slots of every sequence.

        Args:
          visual: of B * m images, sequence by sequence.
          slots: int[m * T], where they go.
          images: int[m * T], the number of the image that each of them belongs to.
        """
        batch, width = self.embeddings.shape[0], self.embeddings.shape[2]
        features = visual.features.reshape(batch, -1, width).astype(self.embeddings.dtype)
        numbers = np.full(self.embeddings.shape[1], -1, np.int32)
        numbers[slots] = images
        deepstack = None
        if visual.deepstack is not None:
            levels = visual.deepstack.reshape(len(visual.deepstack), batch, -1, width)
            deepstack = jnp.zeros((len(levels), *self.embeddings.shape), levels.dtype).at[:, :, slots].set(levels)
        return self.replace(
            embeddings=self.embeddings.at[:, slots].set(features),
            images=jnp.broadcast_to(jnp.asarray(numbers), self.embeddings.shape[:2]),
            deepstack=deepstack,
        )

    def append_text(
        self, embeddings: Float[Array, "b n d"], positions: Int[Array, "b 3 n"], valid: Bool[Array, "b n"]
    ) -> Inputs:
        """The same slots, and `n` slots of text behind them."""
        more = embeddings.shape[1]
        return Inputs(
            embeddings=jnp.concatenate([self.embeddings, embeddings.astype(self.embeddings.dtype)], axis=1),
            positions=jnp.concatenate([self.positions, positions], axis=2),
            valid=jnp.concatenate([self.valid, valid], axis=1),
            images=None if self.images is None else jnp.pad(self.images, ((0, 0), (0, more)), constant_values=-1),
            deepstack=None
            if self.deepstack is None
            else jnp.pad(self.deepstack, ((0, 0), (0, 0), (0, more), (0, 0))),
        )
