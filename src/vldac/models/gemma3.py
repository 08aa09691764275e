"""Gemma 3 (arXiv 2503.19786): SigLIP tower, local and global attention, visual tokens that see their whole image.

* Every image is scaled to one square size and becomes the same number of visual tokens, whatever its own size;
  pan and scan, which the image processor leaves off by default, is not done.
* Positions are plain: three equal axes for M-RoPE, all frequencies on the first.
* The tower's features take the place of embeddings as they are, without the factor sqrt(d) that text gets.
* How much a local layer sees is counted in positions. An image's tokens see all of their image that lies in the
  window, later tokens included.

References: transformers' `Gemma3ForConditionalGeneration`, `Gemma3Processor`, `Gemma3ImageProcessorPil`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, DTypeLike, Float, UInt8

from vldac.models.config import (
    LocalAttention,
    TextConfig,
    accept,
    check_colours,
    colours,
    hf_config,
    positive,
    text_fields,
)
from vldac.models.image import preprocess_square
from vldac.models.inputs import ImageSpan, TowerWork, Visual
from vldac.models.layers import Remat, RMSNorm
from vldac.models.siglip import SiglipConfig, SiglipTower
from vldac.models.vlm import VLM


@dataclass(frozen=True)
class SquareImageConfig:
    """What `preprocessor_config.json` says beyond the size, which is the tower's.

    Attributes:
      mean, std: per colour, of values in [0, 1].
    """

    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)

    def __post_init__(self):
        check_colours(self.mean, self.std)

    @classmethod
    def from_hf(cls, preprocessor: Mapping[str, Any], image_size: int, tokens: int) -> SquareImageConfig:
        """Reads the contents of a `preprocessor_config.json`, which must fit the model.

        Raises:
          ValueError: another size or number of tokens than the model's, the resampling is not bilinear (2), pan
            and scan is on, or a step that is always done here is left out.
        """
        for name, ours in (
            ("size", {"height": image_size, "width": image_size}),
            ("image_seq_length", tokens),
            ("resample", 2),
            ("rescale_factor", 1 / 255),
            ("do_resize", True),
            ("do_rescale", True),
            ("do_normalize", True),
        ):
            accept(f"preprocessor {name}", preprocessor.get(name, ours), ours)
        accept("preprocessor do_pan_and_scan", preprocessor.get("do_pan_and_scan") or False, False)
        return cls(**colours(preprocessor, cls.mean, cls.std))


@dataclass(frozen=True)
class Gemma3Config:
    """A Gemma 3 model of any size that sees.

    Attributes:
      text, vision, image: the decoder, the vision tower, the preprocessing.
      tokens_per_image: visual tokens of an image, a square number; its root divides the tower's patches per side.
      image_token_id: stands where a visual token's features go.
      boi_token_id, eoi_token_id: around the visual tokens of an image.
    """

    text: TextConfig
    vision: SiglipConfig
    tokens_per_image: int
    image_token_id: int
    boi_token_id: int
    eoi_token_id: int
    image: SquareImageConfig = field(default_factory=SquareImageConfig)

    one_size: ClassVar[bool] = True  # every image is scaled to

    def __post_init__(self):
        positive(self, "tokens_per_image")
        side = math.isqrt(self.tokens_per_image)
        if side**2 != self.tokens_per_image or self.vision.patches_per_side % side:
            raise ValueError(
                f"tokens_per_image is {self.tokens_per_image}; accepted: the square of a divisor of "
                f"{self.vision.patches_per_side}, the tower's patches per side"
            )

    @property
    def vocab_size(self) -> int:
        return self.text.vocab_size

    @property
    def hidden_size(self) -> int:
        return self.text.hidden_size

    @property
    def special_ids(self) -> tuple[int, ...]:
        """Ids that stand for or around images: never to be sampled."""
        return self.image_token_id, self.boi_token_id, self.eoi_token_id

    def image_span(self, height: int, width: int) -> ImageSpan:
        """How an image stands in a prompt, whatever its size."""
        del height, width
        offsets = np.broadcast_to(np.arange(self.tokens_per_image, dtype=np.int32), (3, self.tokens_per_image))
        return ImageSpan(
            before=(self.boi_token_id,),
            token_id=self.image_token_id,
            offsets=offsets,
            after=(self.eoi_token_id,),
            extent=self.tokens_per_image,
            text_before="\n\n",
            text_after="\n\n",
        )

    def tower_work(self, height: int, width: int) -> TowerWork:
        """What the vision tower holds for an image, whatever its size."""
        del height, width
        vision, patches = self.vision, self.vision.patches_per_side**2
        return TowerWork(
            patches=patches,
            intermediates=8 * vision.hidden_size + 2 * vision.intermediate_size,
            scores=vision.num_attention_heads * patches**2,
            depth=vision.num_hidden_layers,
            head_dim=vision.hidden_size // vision.num_attention_heads,
        )

    @classmethod
    def from_hf(cls, config: Any, preprocessor: Mapping[str, Any] | None = None) -> Gemma3Config:
        """Reads a Hugging Face configuration.

        Args:
          config: what `transformers.AutoConfig` loads, or the contents of a `config.json` (sparse as on the hub,
            or complete as transformers 5 saves it).
          preprocessor: the contents of a `preprocessor_config.json`; None takes the published one's values.

        Raises:
          ValueError: another architecture, or an option that this implementation does not have.
        """
        config = hf_config(config, "gemma3")
        vision = _vision_config(config)
        return cls(
            text=_text_config(config),
            vision=vision,
            tokens_per_image=config.mm_tokens_per_image,
            image_token_id=config.image_token_id,
            boi_token_id=config.boi_token_id,
            eoi_token_id=config.eoi_token_id,
            image=SquareImageConfig()
            if preprocessor is None
            else SquareImageConfig.from_hf(preprocessor, vision.image_size, config.mm_tokens_per_image),
        )


def _text_config(config: Any) -> TextConfig:
    text = config.text_config
    accept("text model_type", text.model_type, "gemma3_text")
    accept("hidden_activation", text.hidden_activation, "gelu_pytorch_tanh")
    accept("attention_bias", text.attention_bias, False)
    accept("attention_dropout", text.attention_dropout, 0.0)
    accept("attn_logit_softcapping", text.attn_logit_softcapping, None)
    accept("final_logit_softcapping", text.final_logit_softcapping, None)
    accept("use_bidirectional_attention", text.use_bidirectional_attention or False, False)
    kinds = "sliding_attention", "full_attention"
    if unknown := set(text.layer_types) - set(kinds):
        raise ValueError(f"layer_types has {', '.join(sorted(unknown))}; accepted: {', '.join(kinds)}")
    sliding, full = (text.rope_parameters[kind] for kind in kinds)
    accept("sliding_attention rope_type", sliding["rope_type"], "default")
    if full["rope_type"] not in ("default", "linear"):
        raise ValueError(f"full_attention rope_type is {full['rope_type']!r}; accepted: 'default', 'linear'")
    for kind, rope in zip(kinds, (sliding, full), strict=True):
        accept(f"{kind} partial_rotary_factor", rope.get("partial_rotary_factor", 1.0), 1.0)
    local = tuple(kind == "sliding_attention" for kind in text.layer_types)
    if any(local) and text.sliding_window is None:
        raise ValueError("sliding_window is None; accepted: 1 or more where layer_types has sliding_attention")
    return TextConfig(
        **text_fields(text),
        head_dim=text.head_dim,
        rope_theta=float(full["rope_theta"]),
        rope_factor=float(full["factor"]) if full["rope_type"] == "linear" else 1.0,
        mrope_section=(text.head_dim // 2, 0, 0),
        tie_word_embeddings=bool(config.tie_word_embeddings),
        qkv_bias=False,
        qk_norm=True,
        query_scale=float(text.query_pre_attn_scalar) ** -0.5,
        activation="gelu_tanh",
        unit_offset_norms=True,
        sandwich_norms=True,
        embedding_scale=float(text.hidden_size) ** 0.5,
        local=LocalAttention(text.sliding_window, float(sliding["rope_theta"]), local) if any(local) else None,
        bidirectional_images=True,
    )


def _vision_config(config: Any) -> SiglipConfig:
    vision = config.vision_config
    accept("vision model_type", vision.model_type, "siglip_vision_model")
    accept("vision hidden_act", vision.hidden_act, "gelu_pytorch_tanh")
    accept("vision attention_dropout", vision.attention_dropout, 0.0)
    accept("vision num_channels", vision.num_channels, 3)
    accept("vision_use_head", vision.vision_use_head, False)
    for name in ("image_size", "patch_size"):
        if not isinstance(getattr(vision, name), int):
            raise ValueError(f"vision {name} is {getattr(vision, name)!r}; accepted: one whole number")
    return SiglipConfig(
        image_size=vision.image_size,
        patch_size=vision.patch_size,
        hidden_size=vision.hidden_size,
        intermediate_size=vision.intermediate_size,
        num_hidden_layers=vision.num_hidden_layers,
        num_attention_heads=vision.num_attention_heads,
        layer_norm_eps=vision.layer_norm_eps,
        initializer_range=config.initializer_range,
    )


class Projector(nnx.Module):
    """Averages squares of patches, normalises them, and takes them to the decoder's width."""

    def __init__(self, config: Gemma3Config, *, rngs: nnx.Rngs, dtype: DTypeLike, param_dtype: DTypeLike):
        shape = (config.vision.hidden_size, config.text.hidden_size)  # [in, out]: no Linear in the original
        std = jnp.asarray(config.text.initializer_range, param_dtype)
        self.dtype = dtype
        self.patches = config.vision.patches_per_side
        self.side = math.isqrt(config.tokens_per_image)
        self.mm_soft_emb_norm = RMSNorm(
            shape[0], eps=config.vision.layer_norm_eps, unit_offset=True, param_dtype=param_dtype
        )
        self.mm_input_projection_weight = nnx.Param(jax.random.normal(rngs.params(), shape, param_dtype) * std)

    def __call__(self, x: Float[Array, "n s e"]) -> Float[Array, "n t d"]:
        images, _, width = x.shape
        square = self.patches // self.side
        x = x.reshape(images, self.side, square, self.side, square, width)
        pooled = jnp.mean(x, axis=(2, 4), dtype=jnp.float32).astype(x.dtype)
        normed = self.mm_soft_emb_norm(pooled.reshape(images, -1, width))
        return jnp.einsum("nte,ed->ntd", normed, self.mm_input_projection_weight[...].astype(self.dtype))


class Gemma3(VLM):
    """Vision tower, projector, decoder, unembedding."""

    STACKS = (("language_model", "layers"), ("vision_tower", "encoder", "layers"))
    PUBLISHED = (
        ("language_model.lm_head.", "lm_head."),
        ("language_model.model.", "model.language_model."),
        ("vision_tower.vision_model.", "model.vision_tower."),
        ("vision_tower.", "model.vision_tower."),  # as transformers 5 saves a model that it has made itself
        ("multi_modal_projector.", "model.multi_modal_projector."),
        ("model.vision_tower.vision_model.", "model.vision_tower."),  # `state_dict()` of transformers 4
    )

    def __init__(
        self,
        config: Gemma3Config,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
    ):
        """Draws the parameters, see `VLM`."""
        options = {"rngs": rngs, "dtype": dtype, "param_dtype": param_dtype}
        self.vision_tower = SiglipTower(config.vision, **options)
        self.multi_modal_projector = Projector(config, **options)
        super().__init__(config, config.text, **options)

    def encode_images(self, images: UInt8[Array, "n h w 3"], remat: Remat = "none") -> Visual:
        """See `VLM.encode_images`."""
        image = self.config.image
        pixels = preprocess_square(images, self.config.vision.image_size, image.mean, image.std)
        return Visual(self.multi_modal_projector(self.vision_tower(pixels, remat)))
