"""Qwen2-VL (arXiv 2409.12191) in Flax NNX: defined as a module, used as a pure function of its parameters.

    graphdef, params = nnx.split(Qwen2VL(config, rngs=nnx.Rngs(0)))

    @jax.jit
    def f(params, images):
        return nnx.merge(graphdef, params).encode_images(images)

* Parameter paths and shapes are those of a Hugging Face checkpoint, except that the layers of a stack share
  one array with a leading layer axis.
* Slots are static and absent ones are masked; who calls decides what lies in them, and at which positions.
* A prefix that all lanes share is computed once with batch size 1 and attended by every lane.
"""

from __future__ import annotations

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, DTypeLike, Float, Int, UInt8

from vldac.models.config import Qwen2VLConfig
from vldac.models.decoder import Decoder
from vldac.models.image import patch_grid, preprocess
from vldac.models.kv_cache import KVCache
from vldac.models.layers import Embedding, Remat
from vldac.models.vision import VisionTower


class Qwen2VL(nnx.Module):
    """Vision tower, decoder, unembedding."""

    def __init__(
        self,
        config: Qwen2VLConfig,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
    ):
        """Draws the parameters.

        Args:
          config: sizes and constants.
          rngs: weights are normal with the config's `initializer_range`, biases 0, norms 1.
          dtype: what is computed in; norms, softmax, rotations and logits are float32 all the same.
          param_dtype: what the parameters are kept in.
        """
        options = {"rngs": rngs, "dtype": dtype, "param_dtype": param_dtype}
        self.config = config
        self.visual = VisionTower(config.vision, config.text.hidden_size, **options)
        self.language_model = Decoder(config.text, **options)
        self.lm_head = (
            None
            if config.text.tie_word_embeddings
            else Embedding(
                config.text.vocab_size, config.text.hidden_size, std=config.text.initializer_range, **options
            )
        )

    def image_grid(self, height: int, width: int) -> tuple[int, int]:
        """Visual tokens down and across of an image of that many pixels."""
        return image_grid(self.config, height, width)

    def encode_images(self, images: UInt8[Array, "n h w 3"], remat: Remat = "none") -> Float[Array, "n t d"]:
        """Images of one size -> visual tokens, preprocessing included.

        Args:
          images: RGB.
          remat: what the backward pass recomputes, see `layers.scan_stack`.

        Returns:
          [n, tokens, d], tokens row by row; their number is the product of `image_grid(h, w)`.
        """
        patches, grid = preprocess(images, self.config.vision, self.config.image)
        return self.visual(patches, grid, remat)

    def embed(self, tokens: Int[Array, "*b"]) -> Float[Array, "*b d"]:
        """Token embeddings. Visual tokens' features are put in their slots by the caller."""
        return self.language_model.embed_tokens(tokens)

    def forward(
        self,
        embeddings: Float[Array, "b s d"],
        positions: Int[Array, "b 3 s"],
        valid: Bool[Array, "b s"],
        prefix: KVCache | None = None,
        remat: Remat = "none",
    ) -> tuple[Float[Array, "b s d"], KVCache]:
        """All slots at once: prefill and training.

        A slot sees the prefix and the valid slots up to itself. Worked example, P prefix tokens and 3 slots with
        valid = [1 0 1]: the third slot sees the P, the first and itself.

        Args:
          embeddings: what lies in the slots; finite in the invalid ones, too.
          positions: (temporal, height, width) of every slot; the prefix's own positions are in its keys already.
          valid: false where a slot is empty.
          prefix: keys and values that all lanes share, batch 1; gradients flow into them. None = none.
          remat: what the backward pass recomputes, see `layers.scan_stack`.

        Returns:
          (hidden, cache): hidden states after the final norm (meaningless in invalid slots); keys and values of
          the S slots, without the prefix.
        """
        return self.language_model.forward(embeddings, positions, valid, prefix, remat)

    def decode_layers(self) -> tuple[nnx.State, ...]:
        """The decoder's layers apart, cast to the dtype of the computation, for `decode_step`.

        To be called once, outside the loop over tokens: inside it, slicing the stack would copy every weight on
        every step.
        """
        return self.language_model.decode_layers()

    def decode_step(
        self,
        layers: tuple[nnx.State, ...],
        embedding: Float[Array, "b d"],
        positions: Int[Array, "b 3"],
        cache: KVCache,
        index: Int[Array, ""],
        valid: Bool[Array, "b s"],
        prefix: KVCache | None = None,
    ) -> tuple[Float[Array, "b d"], KVCache]:
        """One more token in every lane.

        Worked example, a context of 3 slots of which the second is empty, then answer slots 3, 4; the first
        answer token: index = 3, valid = [1 0 1 1 0].

        Args:
          layers: from `decode_layers`.
          embedding: of the token.
          positions: its (temporal, height, width).
          cache: keys and values, S slots a lane; donate or carry it, it is updated in place then.
          index: the slot that this token is written to, the same in every lane.
          valid: which slots are attended, this token's own included.
          prefix: as in `forward`.

        Returns:
          (hidden, cache): the token's hidden state after the final norm; the cache with its slot filled.
        """
        return self.language_model.decode_step(layers, embedding, positions, cache, index, valid, prefix)

    def logits(self, hidden: Float[Array, "*b d"]) -> Float[Array, "*b v"]:
        """Unnormalised log-probabilities of the next token, float32, padding rows of the vocabulary included."""
        head = self.language_model.embed_tokens if self.lm_head is None else self.lm_head
        return head.attend(hidden)


def image_grid(config: Qwen2VLConfig, height: int, width: int) -> tuple[int, int]:
    """Visual tokens down and across that an image of that many pixels becomes."""
    grid_h, grid_w = patch_grid(height, width, config.vision, config.image)
    return grid_h // config.vision.spatial_merge_size, grid_w // config.vision.spatial_merge_size
