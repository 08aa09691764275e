"""Qwen2-VL (arXiv 2409.12191): full attention in the tower, M-RoPE with three chunks in the decoder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, DTypeLike, Float, UInt8

from vldac.models.config import ImageConfig, TextConfig, VisionConfig, accept, hf_config, text_fields
from vldac.models.image import patch_grid, preprocess, rescale
from vldac.models.inputs import ImageSpan, TowerWork, Visual
from vldac.models.layers import LayerNorm, Linear, Remat, quick_gelu, scan_stack, stack
from vldac.models.rope import image_position_extent, image_position_offsets
from vldac.models.vision import PatchEmbed, Patches, PatchMerger, VisionBlock, image_angles, patch_places
from vldac.models.vlm import VLM


@dataclass(frozen=True)
class Qwen2VLConfig:
    """A Qwen2-VL model of any size.

    Attributes:
      text, vision, image: the decoder, the vision tower, the preprocessing.
      image_token_id: stands where a visual token's features go.
      vision_start_token_id, vision_end_token_id: around the visual tokens of an image.
      video_token_id: never used here but, like the three above, never to be sampled; None = there is none.
    """

    text: TextConfig
    vision: VisionConfig
    image_token_id: int
    vision_start_token_id: int
    vision_end_token_id: int
    video_token_id: int | None = None
    image: ImageConfig = field(default_factory=ImageConfig)

    one_size: ClassVar[bool] = False  # images are scaled to areas, between bounds

    @property
    def vocab_size(self) -> int:
        return self.text.vocab_size

    @property
    def hidden_size(self) -> int:
        return self.text.hidden_size

    @property
    def special_ids(self) -> tuple[int, ...]:
        """Ids that stand for or around images: never to be sampled."""
        ids = self.image_token_id, self.vision_start_token_id, self.vision_end_token_id, self.video_token_id
        return tuple(token for token in ids if token is not None)

    def image_span(self, height: int, width: int) -> ImageSpan:
        """How an image of that many pixels stands in a prompt."""
        grid = image_grid(self, height, width)
        return ImageSpan(
            before=(self.vision_start_token_id,),
            token_id=self.image_token_id,
            offsets=image_position_offsets(*grid),
            after=(self.vision_end_token_id,),
            extent=image_position_extent(*grid),
        )

    def video_spans(self, frames: int, height: int, width: int, fps: float) -> list[ImageSpan]:
        """How a video stands in a prompt: `image_span`'s tokens once for every `temporal_patch_size` frames.

        Args:
          frames: as they are; what the last step lacks of `vision.temporal_patch_size` repeats the last one.
          height, width: of a frame; it is scaled as an image is.
          fps: frames a second, for families that count time; 0 = unknown.
        """
        down, across = image_grid(self, height, width)
        steps = -(-frames // self.vision.temporal_patch_size)
        still = image_position_offsets(down, across)
        times = (np.arange(steps) * self.time_interval(fps)).astype(np.int32)
        offsets = np.tile(still, (1, steps))
        offsets[0] = np.repeat(times, down * across)
        return [
            ImageSpan(
                before=(self.vision_start_token_id,),
                token_id=self.image_token_id if self.video_token_id is None else self.video_token_id,
                offsets=offsets,
                after=(self.vision_end_token_id,),
                # After the largest position, as the paper says (section 2.1). transformers 5 goes on after the
                # largest height or width, which in a long video is before its end.
                extent=int(offsets.max()) + 1,
            )
        ]

    def time_interval(self, fps: float) -> float:
        """How far apart the temporal positions of a video's steps are."""
        return 1.0

    def tower_work(self, height: int, width: int) -> TowerWork:
        """What the vision tower holds for an image of that many pixels."""
        grid_h, grid_w = patch_grid(height, width, self.vision, self.image)
        return TowerWork(
            patches=grid_h * grid_w,
            intermediates=8 * self.vision.embed_dim + 3 * self.vision.mlp_dim,
            scores=self.vision.num_heads * (grid_h * grid_w) ** 2,
            depth=self.vision.depth,
            head_dim=self.vision.embed_dim // self.vision.num_heads,
        )

    @classmethod
    def from_hf(cls, config: Any, preprocessor: Mapping[str, Any] | None = None) -> Qwen2VLConfig:
        """Reads a Hugging Face configuration.

        Args:
          config: what `transformers.AutoConfig` loads, or the contents of a `config.json` (flat as on the
            hub, or with a `text_config` as transformers 5 saves it).
          preprocessor: the contents of a `preprocessor_config.json`; None takes the image processor's defaults.

        Raises:
          ValueError: another architecture, or an option that this implementation does not have.
        """
        config = hf_config(config, "qwen2_vl")
        vision = config.vision_config
        accept("vision hidden_act", vision.hidden_act, "quick_gelu")
        accept("vision hidden_size", vision.hidden_size, config.text_config.hidden_size)
        vision = VisionConfig(
            embed_dim=vision.embed_dim,
            mlp_dim=int(vision.embed_dim * vision.mlp_ratio),
            **vision_fields(vision),
        )
        return cls(
            text=qwen2_text_config(config),
            vision=vision,
            image=ImageConfig() if preprocessor is None else ImageConfig.from_hf(preprocessor, vision),
            **special_token_fields(config),
        )


def qwen2_text_config(config: Any) -> TextConfig:
    """The decoder of Qwen2-VL and Qwen2.5-VL, which is Qwen2's with M-RoPE, from a Hugging Face configuration."""
    text, rope = config.text_config, config.text_config.rope_parameters
    accept("hidden_act", text.hidden_act, "silu")
    accept("rope_type", rope["rope_type"], "default")
    accept("layer_types", set(text.layer_types), {"full_attention"})
    accept("attention_dropout", text.attention_dropout, 0.0)
    # transformers' attention knows no other head width here, whatever `head_dim` says
    head_dim = text.hidden_size // text.num_attention_heads
    accept("head_dim", getattr(text, "head_dim", None) or head_dim, head_dim)
    accept("hidden_size", text.hidden_size, head_dim * text.num_attention_heads)
    return TextConfig(
        **text_fields(text),
        head_dim=head_dim,
        rope_theta=float(rope["rope_theta"]),
        mrope_section=tuple(rope.get("mrope_section", (16, 24, 24))),
        tie_word_embeddings=bool(config.tie_word_embeddings),
    )


def vision_fields(vision: Any) -> dict[str, Any]:
    """The fields of `VisionConfig` that all Qwen families' vision configurations spell alike."""
    accept("vision rope_type", vision.rope_parameters["rope_type"], "axial")
    for name in ("patch_size", "temporal_patch_size"):
        if not isinstance(getattr(vision, name), int):
            raise ValueError(f"vision {name} is {getattr(vision, name)!r}; accepted: one whole number")
    return {
        "depth": vision.depth,
        "num_heads": vision.num_heads,
        "patch_size": vision.patch_size,
        "spatial_merge_size": vision.spatial_merge_size,
        "temporal_patch_size": vision.temporal_patch_size,
        "in_channels": vision.in_channels,
        "rope_theta": float(vision.rope_parameters["rope_theta"]),
        "initializer_range": vision.initializer_range,
    }


def special_token_fields(config: Any) -> dict[str, int | None]:
    """The ids that stand for or around images and videos, by the names of `Qwen2VLConfig`'s fields."""
    names = "image_token_id", "vision_start_token_id", "vision_end_token_id", "video_token_id"
    return {name: getattr(config, name) for name in names}


class VisionMLP(nnx.Module):
    """fc2(quick_gelu(fc1(x)))."""

    def __init__(self, config: VisionConfig, *, rngs: nnx.Rngs, dtype: DTypeLike, param_dtype: DTypeLike):
        linear = partial(
            Linear, bias=True, std=config.initializer_range, rngs=rngs, dtype=dtype, param_dtype=param_dtype
        )
        self.fc1 = linear(config.embed_dim, config.mlp_dim)
        self.fc2 = linear(config.mlp_dim, config.embed_dim)

    def __call__(self, x: Float[Array, "n s e"]) -> Float[Array, "n s e"]:
        return self.fc2(quick_gelu(self.fc1(x)))


class VisionTower(nnx.Module):
    """Flattened patches of images of one size to visual tokens.

    Attributes:
      NORM, MLP: what the blocks are made of.
    """

    NORM: ClassVar[type[nnx.Module]] = LayerNorm
    MLP: ClassVar[type[nnx.Module]] = VisionMLP

    def __init__(
        self,
        config: VisionConfig,
        out_features: int,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike,
        param_dtype: DTypeLike,
    ):
        options = {"dtype": dtype, "param_dtype": param_dtype}
        self.config = config
        self.patch_embed = PatchEmbed(config, rngs=rngs, **options)
        self.blocks = stack(
            lambda rngs: VisionBlock(config, self.NORM, self.MLP, rngs=rngs, **options), config.depth, rngs
        )
        self.merger = PatchMerger(config, out_features, self.NORM, rngs=rngs, **options)

    def __call__(
        self, patches: Float[Array, "n s f"], grid: tuple[int, int], remat: Remat = "none"
    ) -> Float[Array, "n t d"]:
        """Encodes images.

        Args:
          patches: n images of S = grid_h * grid_w patches each, in the image processor's order.
          grid: (grid_h, grid_w), patches down and across.
          remat: what the backward pass recomputes, see `scan_stack`.

        Returns:
          [n, S / merge^2, d], tokens row by row.
        """
        angles = image_angles(self.config, grid)

        def step(block, x, _):
            return block(x, angles), None

        x, _ = scan_stack(self.blocks, step, self.patch_embed(patches), remat=remat)
        return self.merger(x)

    @classmethod
    def places(cls, config: VisionConfig, grid: tuple[int, int]) -> dict[str, np.ndarray]:
        """See `patch_places`."""
        return patch_places(config, grid)

    def read(self, pixels: Float[Array, "n s f"], patches: Patches) -> Visual:
        """Encodes images of any sizes.

        Args:
          pixels: of the patches, normalised.
          patches: where they lie.

        Returns:
          As `__call__`; of an image's S / merge^2 tokens those count that it has patches for.
        """
        angles, mask = patches.angles(self.config), patches.sees()

        def step(block, x, _):
            return block(x, angles, mask), None

        x, _ = scan_stack(self.blocks, step, self.patch_embed(pixels))
        return Visual(self.merger(x))


class Qwen2VL(VLM):
    """Vision tower, decoder, unembedding; the later Qwen families have another tower.

    Attributes:
      TOWER: the vision tower's class.
    """

    TOWER: ClassVar[type[nnx.Module]] = VisionTower
    STACKS = (("language_model", "layers"), ("visual", "blocks"))
    RENAMED: ClassVar = {"mlp_0": "mlp.0", "mlp_2": "mlp.2"}  # a torch Sequential's members are numbers
    PUBLISHED = (
        ("visual.", "model.visual."),
        ("model.layers.", "model.language_model.layers."),
        ("model.embed_tokens.", "model.language_model.embed_tokens."),
        ("model.norm.", "model.language_model.norm."),
    )

    def __init__(
        self,
        config: Qwen2VLConfig,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
    ):
        """Draws the parameters, see `VLM`."""
        options = {"rngs": rngs, "dtype": dtype, "param_dtype": param_dtype}
        self.visual = self.TOWER(config.vision, config.text.hidden_size, **options)
        super().__init__(config, config.text, **options)

    def encode_images(self, images: UInt8[Array, "n h w 3"], remat: Remat = "none") -> Visual:
        """See `VLM.encode_images`."""
        patches, grid = preprocess(images, self.config.vision, self.config.image)
        return Visual(self.visual(patches, grid, remat))

    def encode_patches(self, patches: Patches) -> Visual:
        """As `encode_images`, of images of any sizes and steps of videos, resized and cut into patches before."""
        image = self.config.image
        repeats = self.config.vision.patch_dim // len(image.mean)
        mean, std = (np.repeat(np.asarray(x, np.float32), repeats) for x in (image.mean, image.std))
        return self.visual.read(rescale(patches.pixels, mean, std), patches)


def image_grid(config: Qwen2VLConfig, height: int, width: int) -> tuple[int, int]:
    """Visual tokens down and across that an image of that many pixels becomes."""
    grid_h, grid_w = patch_grid(height, width, config.vision, config.image)
    return grid_h // config.vision.spatial_merge_size, grid_w // config.vision.spatial_merge_size
