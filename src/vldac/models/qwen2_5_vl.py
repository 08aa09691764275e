"""Qwen2.5-VL (arXiv 2502.13923): most blocks of the tower attend within windows; the decoder is Qwen2-VL's.

* A window is a square of pixels (112 in the published checkpoints), those at the right and bottom edges are what
  is left over. Which patches share one is a constant of the image's size, so a windowed block is a full one with
  a mask, and all blocks are one scan. An image that is one window needs no mask at all.
* The tower is a decoder's in style: RMSNorm and a gated MLP, with biases.

Reference: transformers' `Qwen2_5_VisionTransformerPretrainedModel`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, DTypeLike, Float

from vldac.models.config import ImageConfig, VisionConfig, accept, hf_config
from vldac.models.inputs import Visual
from vldac.models.layers import Linear, Remat, RMSNorm, gated, scan_stack
from vldac.models.qwen2_vl import (
    Qwen2VL,
    Qwen2VLConfig,
    VisionTower,
    qwen2_text_config,
    special_token_fields,
    vision_fields,
)
from vldac.models.rope import patch_coordinates
from vldac.models.vision import Patches, image_angles, patch_places

DEFAULT_FPS = 2.0  # of the image processor's sampling


@dataclass(frozen=True, kw_only=True)
class WindowedVisionConfig(VisionConfig):
    """A vision tower with windows.

    Attributes:
      window_size: pixels of a window's side; at least a merge block's.
      full_attention_blocks: numbers of the blocks that attend to the whole image.
      tokens_per_second: temporal positions that a second of video takes.
    """

    window_size: int
    full_attention_blocks: tuple[int, ...]
    tokens_per_second: float = 4.0

    def __post_init__(self):
        super().__post_init__()
        block = self.patch_size * self.spatial_merge_size
        if self.window_size < block:
            raise ValueError(
                f"window_size is {self.window_size}; accepted: a merge block's {block} pixels or more"
            )

    @property
    def window_patches(self) -> int:
        """Patches of a window's side, whole merge blocks."""
        return self.window_size // self.spatial_merge_size // self.patch_size * self.spatial_merge_size


@dataclass(frozen=True)
class Qwen2_5VLConfig(Qwen2VLConfig):
    """A Qwen2.5-VL model of any size; fields as `Qwen2VLConfig`'s."""

    vision: WindowedVisionConfig

    def time_interval(self, fps: float) -> float:
        """Positions are time here; a video of unknown `fps` is taken to have 2, the usual sampling rate."""
        return self.vision.tokens_per_second * self.vision.temporal_patch_size / (fps or DEFAULT_FPS)

    @classmethod
    def from_hf(cls, config: Any, preprocessor: Mapping[str, Any] | None = None) -> Qwen2_5VLConfig:
        """Reads a Hugging Face configuration, see `Qwen2VLConfig.from_hf`."""
        config = hf_config(config, "qwen2_5_vl")
        vision = config.vision_config
        accept("vision hidden_act", vision.hidden_act, "silu")
        accept("vision out_hidden_size", vision.out_hidden_size, config.text_config.hidden_size)
        vision = WindowedVisionConfig(
            embed_dim=vision.hidden_size,
            mlp_dim=vision.intermediate_size,
            window_size=vision.window_size,
            full_attention_blocks=tuple(vision.fullatt_block_indexes),
            tokens_per_second=float(vision.tokens_per_second),
            **vision_fields(vision),
        )
        return cls(
            text=qwen2_text_config(config),
            vision=vision,
            image=ImageConfig() if preprocessor is None else ImageConfig.from_hf(preprocessor, vision),
            **special_token_fields(config),
        )


class GatedMLP(nnx.Module):
    """down(silu(gate(x)) * up(x)), all with biases."""

    def __init__(self, config: VisionConfig, *, rngs: nnx.Rngs, dtype: DTypeLike, param_dtype: DTypeLike):
        linear = partial(
            Linear, bias=True, std=config.initializer_range, rngs=rngs, dtype=dtype, param_dtype=param_dtype
        )
        self.gate_proj = linear(config.embed_dim, config.mlp_dim)
        self.up_proj = linear(config.embed_dim, config.mlp_dim)
        self.down_proj = linear(config.mlp_dim, config.embed_dim)

    def __call__(self, x: Float[Array, "n s e"]) -> Float[Array, "n s e"]:
        return self.down_proj(gated(jax.nn.silu, self.gate_proj(x), self.up_proj(x)))


class WindowedTower(VisionTower):
    """Flattened patches of images of one size to visual tokens, most blocks within windows."""

    NORM = RMSNorm
    MLP = GatedMLP

    def __call__(
        self, patches: Float[Array, "n s f"], grid: tuple[int, int], remat: Remat = "none"
    ) -> Float[Array, "n t d"]:
        """Encodes images, see `qwen2_vl.VisionTower.__call__`."""
        config = self.config
        angles = image_angles(config, grid)
        window = window_mask(grid, config.window_patches, config.spatial_merge_size)
        is_full = np.isin(np.arange(config.depth), config.full_attention_blocks)

        def step(block, x: Array, is_full: Bool[Array, ""]):
            return block(x, angles, None if window.all() else window | is_full), None

        x, _ = scan_stack(self.blocks, step, self.patch_embed(patches), jnp.asarray(is_full), remat=remat)
        return self.merger(x)

    @classmethod
    def places(cls, config: WindowedVisionConfig, grid: tuple[int, int]) -> dict[str, np.ndarray]:
        """See `patch_places`."""
        places = patch_places(config, grid)
        row, column = (places[name] // config.window_patches for name in ("row", "column"))
        return places | {"window": row * (int(column.max()) + 1) + column}

    def read(self, pixels: Float[Array, "n s f"], patches: Patches) -> Visual:
        """See `qwen2_vl.VisionTower.read`."""
        angles, whole, windowed = patches.angles(self.config), patches.sees(), patches.sees(windowed=True)
        is_full = np.isin(np.arange(self.config.depth), self.config.full_attention_blocks)

        def step(block, x: Array, is_full: Bool[Array, ""]):
            return block(x, angles, jnp.where(is_full, whole, windowed)), None

        x, _ = scan_stack(self.blocks, step, self.patch_embed(pixels), jnp.asarray(is_full))
        return Visual(self.merger(x))


def window_mask(grid: tuple[int, int], window: int, merge_size: int) -> np.ndarray:
    """Which patches share a window, bool[S, S], both axes in the image processor's order.

    Worked example, a grid of 2x6 patches with 2x2 merge blocks, windows of 4x4 patches: two windows, of 8 and 4
    patches; the mask has a block of 8x8 and one of 4x4 on its diagonal. With more than one row of windows a
    window's patches are not next to each other in that order.

    Args:
      grid: patches down and across.
      window: patches of a window's side.
      merge_size: see `patch_coordinates`.
    """
    row, column = (x // window for x in patch_coordinates(*grid, merge_size))
    return (row[:, None] == row) & (column[:, None] == column)


class Qwen2_5VL(Qwen2VL):
    """Vision tower, decoder, unembedding."""

    TOWER = WindowedTower
