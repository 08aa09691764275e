"""What every family of vision-language models can do, used as pure functions of the parameters.

    graphdef, params = nnx.split(models.create(config, rngs=nnx.Rngs(0)))

    @jax.jit
    def f(params, images):
        return nnx.merge(graphdef, params).encode_images(images)

* Parameter paths and shapes are those of a Hugging Face checkpoint, except that the layers of a stack share
  one array with a leading layer axis. What a family's checkpoints spell otherwise is data on its class.
* A prefix that all lanes share is computed once with batch size 1 and attended by every lane.
"""

from __future__ import annotations

from typing import Any, ClassVar

from flax import nnx
from jaxtyping import Array, Bool, DTypeLike, Float, Int, UInt8

from vldac.models.config import TextConfig
from vldac.models.decoder import DecodeLayers, Decoder
from vldac.models.inputs import Inputs, Visual
from vldac.models.kv_cache import KVCache
from vldac.models.layers import Embedding, Remat


class VLM(nnx.Module):
    """A vision tower (the family's own), a decoder, an unembedding.

    Attributes:
      STACKS: paths of modules whose parameters have a leading layer axis.
      RENAMED: parts of a parameter's path that Hugging Face spells otherwise, as ours -> theirs.
      PUBLISHED: prefixes of tensor names in published files that `state_dict()` of transformers 5 spells
        otherwise, as (published, ours), the first that fits.
    """

    STACKS: ClassVar[tuple[tuple[str, ...], ...]]
    RENAMED: ClassVar[dict[str, str]] = {}
    PUBLISHED: ClassVar[tuple[tuple[str, str], ...]] = ()

    def __init__(self, config: Any, text: TextConfig, *, rngs: nnx.Rngs, dtype: DTypeLike, param_dtype: DTypeLike):
        """Draws decoder and unembedding; the family adds its vision tower.

        Args:
          config: of the family.
          text: its decoder's.
          rngs: weights are normal with the config's `initializer_range`, biases 0, norms the identity.
          dtype: what is computed in; norms, softmax, rotations and logits are float32 all the same.
          param_dtype: what the parameters are kept in.
        """
        options = {"rngs": rngs, "dtype": dtype, "param_dtype": param_dtype}
        self.config = config
        self.language_model = Decoder(text, **options)
        self.lm_head = (
            None
            if text.tie_word_embeddings
            else Embedding(text.vocab_size, text.hidden_size, std=text.initializer_range, **options)
        )

    def encode_images(self, images: UInt8[Array, "n h w 3"], remat: Remat = "none") -> Visual:
        """Images of one size -> visual tokens, preprocessing included.

        Args:
          images: RGB.
          remat: what the backward pass recomputes, see `layers.scan_stack`.

        Returns:
          [n, tokens, d], tokens row by row; `config.image_span(h, w)` says how many, and how they stand in a
          prompt.
        """
        raise NotImplementedError

    def embed(self, tokens: Int[Array, "*b"]) -> Float[Array, "*b d"]:
        """Token embeddings. Visual tokens' features are put in their slots by the caller (`Inputs.place`)."""
        return self.language_model.embed(tokens)

    def forward(
        self,
        inputs: Inputs,
        prefix: KVCache | None = None,
        remat: Remat = "none",
        unroll: bool = False,
        first: int = 0,
    ) -> tuple[Float[Array, "b q d"], KVCache]:
        """All slots at once: prefill and training.

        A slot sees the prefix and the valid slots up to itself. Worked example, P prefix tokens and 3 slots with
        valid = [1 0 1]: the third slot sees the P, the first and itself.

        Args:
          inputs: what lies in the S slots of B sequences; the prefix's own positions are in its keys already.
          prefix: keys and values that all lanes share, batch 1; gradients flow into them. None = none.
          remat, unroll: what the backward pass recomputes, and whether layers are written out; see
            `layers.scan_stack`.
          first: the slot that hidden states are wanted from on.

        Returns:
          (hidden, cache): hidden states of slots first, first + 1, ... after the final norm (meaningless in
          invalid slots); keys and values of all S slots, without the prefix.
        """
        return self.language_model.forward(inputs, prefix, remat, unroll, first)

    def decode_layers(self, gather: bool = False) -> DecodeLayers:
        """The decoder's layers apart, cast to the dtype of the computation and joined, for `decode_step`.

        To be called once, outside the loop over tokens: inside it, slicing the stack would copy every weight on
        every step.

        Args:
          gather: whole along a mesh's fsdp axis, so that a token sends nothing along it.
        """
        return self.language_model.decode_layers(gather)

    def decode_step(
        self,
        layers: DecodeLayers,
        embedding: Float[Array, "b d"],
        positions: Int[Array, "b 3"],
        cache: KVCache,
        index: Int[Array, "..."],
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
          index: the slot that this token is written to, int32[] for the same in every lane, or int32[B].
          valid: which slots are attended, this token's own included.
          prefix: as in `forward`.

        Returns:
          (hidden, cache): the token's hidden state after the final norm; the cache with its slot filled.
        """
        return self.language_model.decode_step(layers, embedding, positions, cache, index, valid, prefix)

    def logits(self, hidden: Float[Array, "*b d"]) -> Float[Array, "*b v"]:
        """Unnormalised log-probabilities of the next token, float32, padding rows of the vocabulary included."""
        return self._head.attend(hidden)

    def unembedding(self) -> Float[Array, "v d"]:
        """The matrix behind `logits`, as it is kept."""
        return self._head.weight[...]

    @property
    def _head(self) -> Embedding:
        return self.language_model.embed_tokens if self.lm_head is None else self.lm_head
