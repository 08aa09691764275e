"""Qwen3-VL (arXiv 2511.21631): interpolated positions and deepstack in the tower, interleaved M-RoPE.

* The tower adds learned positions, resampled bilinearly from the square grid that they were learned on to the
  image's: constant indices and weights, because an image's size is static.
* Deepstack: the outputs of some of the tower's blocks go through mergers of their own and are added to the hidden
  states of the visual tokens after each of the decoder's first layers.
* The decoder is Qwen3's: RMSNorm over every head's query and key, no biases.

Reference: transformers' `Qwen3VLVisionModel`, `Qwen3VLTextModel`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, DTypeLike, Float, Int, UInt8

from vldac.models.config import ImageConfig, TextConfig, VisionConfig, accept, hf_config, positive, text_fields
from vldac.models.image import preprocess
from vldac.models.inputs import ImageSpan, TowerWork, Visual
from vldac.models.layers import Embedding, LayerNorm, Linear, Remat, scan_stack, stack
from vldac.models.qwen2_5_vl import DEFAULT_FPS
from vldac.models.qwen2_vl import Qwen2VL, Qwen2VLConfig, special_token_fields, vision_fields
from vldac.models.rope import patch_coordinates
from vldac.models.vision import EPSILON, Angles, PatchEmbed, Patches, VisionBlock, image_angles, patch_places

# What the published checkpoints' preprocessor_config.json say. The image processor's own defaults are those of
# Qwen2-VL, whose patches of 14 pixels do not fit this tower.
PUBLISHED_IMAGE = ImageConfig(min_pixels=256**2, max_pixels=4096**2, mean=(0.5,) * 3, std=(0.5,) * 3)


@dataclass(frozen=True, kw_only=True)
class DeepstackVisionConfig(VisionConfig):
    """A vision tower with learned positions and deepstack.

    Attributes:
      num_position_embeddings: learned positions, a square number.
      deepstack_blocks: numbers of the blocks whose outputs the decoder gets, increasing; K of them.
    """

    num_position_embeddings: int
    deepstack_blocks: tuple[int, ...]

    def __post_init__(self):
        super().__post_init__()
        positive(self, "num_position_embeddings")
        if self.positions_per_side**2 != self.num_position_embeddings:
            raise ValueError(
                f"num_position_embeddings is {self.num_position_embeddings}; accepted: a square number"
            )
        blocks = self.deepstack_blocks
        if not blocks or list(blocks) != sorted(set(blocks)) or not 0 <= blocks[0] <= blocks[-1] < self.depth:
            raise ValueError(
                f"deepstack_blocks is {blocks}; accepted: increasing numbers of blocks, 0 to {self.depth - 1}"
            )

    @property
    def positions_per_side(self) -> int:
        """Rows, and columns, of the grid that positions were learned on: 48 for the published checkpoints."""
        return math.isqrt(self.num_position_embeddings)


@dataclass(frozen=True)
class Qwen3VLConfig(Qwen2VLConfig):
    """A Qwen3-VL model of any size; fields as `Qwen2VLConfig`'s."""

    vision: DeepstackVisionConfig
    image: ImageConfig = field(default_factory=lambda: PUBLISHED_IMAGE)

    def __post_init__(self):
        levels, layers = len(self.vision.deepstack_blocks), self.text.num_hidden_layers
        if levels > layers:
            raise ValueError(f"deepstack_blocks names {levels} blocks; accepted: at most {layers}, decoder layers")

    def video_spans(self, frames: int, height: int, width: int, fps: float) -> list[ImageSpan]:
        """As `Qwen2VLConfig.video_spans`, but time is told in words: each step is an image of its own, behind
        "<1.5 seconds>", the middle of its frames. A video of unknown `fps` is taken to have 2.

        `frames` need not fill the last step: a repeat of the last frame is of that frame's time, as transformers
        has it. Worked example, 5 frames at 2 a second: 0.25, 1.25, and 2.0, where a sixth frame makes it 2.25.
        """
        together, span = self.vision.temporal_patch_size, self.image_span(height, width)
        token_id = self.image_token_id if self.video_token_id is None else self.video_token_id
        first = np.arange(0, frames, together)
        last = np.minimum(first + together - 1, frames - 1)
        fps = fps or DEFAULT_FPS
        seconds = (first / fps + last / fps) / 2  # in this order, so that ties round as in the original
        return [replace(span, token_id=token_id, text_before=f"<{second:.1f} seconds>") for second in seconds]

    def tower_work(self, height: int, width: int) -> TowerWork:
        """What the vision tower holds for an image of that many pixels."""
        return replace(super().tower_work(height, width), levels=1 + len(self.vision.deepstack_blocks))

    @classmethod
    def from_hf(cls, config: Any, preprocessor: Mapping[str, Any] | None = None) -> Qwen3VLConfig:
        """Reads a Hugging Face configuration, see `Qwen2VLConfig.from_hf`.

        Without a `preprocessor` the published checkpoints' is taken.
        """
        config = hf_config(config, "qwen3_vl")
        text, vision = config.text_config, config.vision_config
        rope = text.rope_parameters
        accept("hidden_act", text.hidden_act, "silu")
        accept("rope_type", rope["rope_type"], "default")
        accept("mrope_interleaved", rope.get("mrope_interleaved", True), True)
        accept("attention_bias", text.attention_bias, False)
        accept("attention_dropout", text.attention_dropout, 0.0)
        accept("vision hidden_act", vision.hidden_act, "gelu_pytorch_tanh")
        accept("vision out_hidden_size", vision.out_hidden_size, text.hidden_size)
        text_config = TextConfig(
            **text_fields(text),
            head_dim=text.head_dim,
            rope_theta=float(rope["rope_theta"]),
            mrope_section=tuple(rope.get("mrope_section", (24, 20, 20))),
            tie_word_embeddings=bool(config.tie_word_embeddings),
            mrope_interleaved=True,
            qkv_bias=False,
            qk_norm=True,
        )
        vision = DeepstackVisionConfig(
            embed_dim=vision.hidden_size,
            mlp_dim=vision.intermediate_size,
            num_position_embeddings=vision.num_position_embeddings,
            deepstack_blocks=tuple(vision.deepstack_visual_indexes),
            **vision_fields(vision),
        )
        return cls(
            text=text_config,
            vision=vision,
            image=PUBLISHED_IMAGE if preprocessor is None else ImageConfig.from_hf(preprocessor, vision),
            **special_token_fields(config),
        )


class VisionMLP(nnx.Module):
    """linear_fc2(gelu(linear_fc1(x))), gelu by its tanh approximation."""

    def __init__(self, config: VisionConfig, *, rngs: nnx.Rngs, dtype: DTypeLike, param_dtype: DTypeLike):
        linear = partial(
            Linear, bias=True, std=config.initializer_range, rngs=rngs, dtype=dtype, param_dtype=param_dtype
        )
        self.linear_fc1 = linear(config.embed_dim, config.mlp_dim)
        self.linear_fc2 = linear(config.mlp_dim, config.embed_dim)

    def __call__(self, x: Float[Array, "n s e"]) -> Float[Array, "n s e"]:
        return self.linear_fc2(jax.nn.gelu(self.linear_fc1(x), approximate=True))


class Merger(nnx.Module):
    """The patches of a merge block side by side -> one vector of the decoder.

    They are normalised one by one, or (deepstack) as the one vector that they make.
    """

    def __init__(
        self,
        config: VisionConfig,
        out_features: int,
        norm_merged: bool,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike,
        param_dtype: DTypeLike,
    ):
        self.width = config.merged_dim
        self.norm_merged = norm_merged
        linear = partial(
            Linear, bias=True, std=config.initializer_range, rngs=rngs, dtype=dtype, param_dtype=param_dtype
        )
        norm_width = self.width if norm_merged else config.embed_dim
        self.norm = LayerNorm(norm_width, eps=EPSILON, param_dtype=param_dtype)
        self.linear_fc1 = linear(self.width, self.width)
        self.linear_fc2 = linear(self.width, out_features)

    def __call__(self, x: Float[Array, "n s e"]) -> Float[Array, "n t d"]:
        merged = x.shape[0], x.shape[1] * x.shape[2] // self.width, self.width
        x = self.norm(x.reshape(merged)) if self.norm_merged else self.norm(x).reshape(merged)
        return self.linear_fc2(jax.nn.gelu(self.linear_fc1(x), approximate=False))


class DeepstackTower(nnx.Module):
    """Flattened patches of images of one size to visual tokens, on several levels."""

    def __init__(
        self,
        config: DeepstackVisionConfig,
        out_features: int,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike,
        param_dtype: DTypeLike,
    ):
        options = {"dtype": dtype, "param_dtype": param_dtype}
        self.config = config
        self.patch_embed = PatchEmbed(config, bias=True, rngs=rngs, **options)
        self.pos_embed = Embedding(
            config.num_position_embeddings, config.embed_dim, std=config.initializer_range, rngs=rngs, **options
        )
        self.blocks = stack(
            lambda rngs: VisionBlock(config, LayerNorm, VisionMLP, rngs=rngs, **options), config.depth, rngs
        )
        self.merger = Merger(config, out_features, norm_merged=False, rngs=rngs, **options)
        self.deepstack_merger_list = stack(
            lambda rngs: Merger(config, out_features, norm_merged=True, rngs=rngs, **options),
            len(config.deepstack_blocks),
            rngs,
        )

    def __call__(self, patches: Float[Array, "n s f"], grid: tuple[int, int], remat: Remat = "none") -> Visual:
        """Encodes images.

        Args:
          patches: n images of S = grid_h * grid_w patches each, in the image processor's order.
          grid: (grid_h, grid_w), patches down and across.
          remat: what the backward pass recomputes, see `scan_stack`.

        Returns:
          features [n, S / merge^2, d] and deepstack [K, n, S / merge^2, d], tokens row by row.
        """
        x = self.patch_embed(patches)
        x = x + self.positions(grid).astype(x.dtype)
        return self._encode(x, image_angles(self.config, grid), None, remat)

    @classmethod
    def places(cls, config: DeepstackVisionConfig, grid: tuple[int, int]) -> dict[str, np.ndarray]:
        """See `patch_places`."""
        corners, weights = interpolation(grid, config.positions_per_side, config.spatial_merge_size)
        return patch_places(config, grid) | {"corners": corners.astype(np.int32), "weights": weights}

    def read(self, pixels: Float[Array, "n s f"], patches: Patches) -> Visual:
        """See `qwen2_vl.VisionTower.read`."""
        x = self.patch_embed(pixels)
        x = x + self._between(patches.corners, patches.weights).astype(x.dtype)
        return self._encode(x, patches.angles(self.config), patches.sees(), "none")

    def _encode(
        self, x: Float[Array, "n s e"], angles: Angles, mask: Bool[Array, "n s s"] | None, remat: Remat
    ) -> Visual:
        config = self.config
        levels = deepstack_levels(config.deepstack_blocks, config.depth)

        def step(block, carry, level: Int[Array, ""]):
            x, kept = carry
            x = block(x, angles, mask)
            return (x, put(kept, x, level)), None

        kept = jnp.zeros((len(x), len(config.deepstack_blocks), *x.shape[1:]), x.dtype)
        (x, kept), _ = scan_stack(self.blocks, step, (x, kept), jnp.asarray(levels), remat=remat)
        kept = kept.swapaxes(0, 1)
        _, deepstack = scan_stack(self.deepstack_merger_list, lambda merger, _, x: (None, merger(x)), None, kept)
        return Visual(self.merger(x), deepstack)

    def positions(self, grid: tuple[int, int]) -> Float[Array, "s e"]:
        """The learned positions at an image's patches, float32."""
        side, merge = self.config.positions_per_side, self.config.spatial_merge_size
        indices, weights = interpolation(grid, side, merge)
        return self._between(jnp.asarray(indices), jnp.asarray(weights))

    def _between(self, indices: Int[Array, "*n s 4"], weights: Float[Array, "*n s 4"]) -> Float[Array, "*n s e"]:
        corners = self.pos_embed.weight[...][indices].astype(jnp.float32)  # [S, 4, E]
        return jnp.einsum("...c,...ce->...e", weights, corners, precision="highest")


def deepstack_levels(blocks: tuple[int, ...], depth: int) -> np.ndarray:
    """The place that each block's output is put in, int[depth]: that of the next level that is due.

    The output of a later block takes it over until the one that the level wants has come, so that one write a
    block is enough and nothing else is kept. Worked example, blocks 1 and 2 of 4: 0 0 1 2, and 2 is no place.
    """
    return np.searchsorted(blocks, np.arange(depth))


def put(kept: Float[Array, "n k *b"], x: Float[Array, "n *b"], level: Int[Array, ""]) -> Float[Array, "n k *b"]:
    """`kept` with x in the place `level`; the same as before where there is no such place."""
    places = kept.shape[1]
    at = jnp.minimum(level, places - 1)
    before = jax.lax.dynamic_index_in_dim(kept, at, axis=1, keepdims=False)
    return jax.lax.dynamic_update_index_in_dim(kept, jnp.where(level < places, x, before), at, axis=1)


def interpolation(grid: tuple[int, int], side: int, merge_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Where an image's patches lie among side x side learned positions, corner upon corner.

    Worked example, 3 patches across and side = 4: columns 0, 1.5 and 3, so the second patch is half of column 1
    and half of column 2.

    Args:
      grid: patches down and across.
      side: rows, and columns, of learned positions.
      merge_size: see `patch_coordinates`.

    Returns:
      (int[S, 4], float32[S, 4]): the four positions around each patch, numbered row by row, and their weights;
      patches in the image processor's order. A position beyond the last is the last, with weight 0.
    """
    axes = []
    for coordinate, size in zip(patch_coordinates(*grid, merge_size), grid, strict=True):
        # float32 step by step as in the original, so that a place on a grid line falls on the same side of it
        place = coordinate.astype(np.float32) * np.float32(side - 1) / np.float32(max(size - 1, 1))
        first, corner = np.floor(place)[:, None], np.arange(2, dtype=np.float32)
        near = np.minimum((first + corner).astype(np.int64), side - 1)
        axes.append((near, 1 - np.abs(place[:, None] - first - corner)))
    (row, row_weight), (column, column_weight) = axes
    indices = row[:, :, None] * side + column[:, None, :]
    weights = row_weight[:, :, None] * column_weight[:, None, :]
    return indices.reshape(-1, 4), weights.reshape(-1, 4)


class Qwen3VL(Qwen2VL):
    """Vision tower, decoder, unembedding."""

    TOWER = DeepstackTower
    STACKS = (*Qwen2VL.STACKS, ("visual", "deepstack_merger_list"))
    PUBLISHED = ()  # the files' names are those of `state_dict()` already

    def encode_images(self, images: UInt8[Array, "n h w 3"], remat: Remat = "none") -> Visual:
        """See `VLM.encode_images`."""
        patches, grid = preprocess(images, self.config.vision, self.config.image)
        return self.visual(patches, grid, remat)
