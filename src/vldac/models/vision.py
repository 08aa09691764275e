"""What the Qwen families' vision towers share: patches -> transformer with two-axis rotary positions.

* Images of one call have one static size, so they are a batch, and rotary tables, windows and interpolation
  weights are constants. Images of another size are another call. Where sizes are many, those tables can be data
  instead (`Patches`): images of any size share a program with room for them.
* The patch embedding, a 3-D convolution in the checkpoint, is a product: its stride is its kernel.
* The towers themselves, and what they are made of apart from this, are in the families' files.

Reference: transformers' `Qwen2VLVisionBlock`, `Qwen2_5_VLVisionBlock`, `Qwen3VLVisionBlock`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx, struct
from jaxtyping import Array, Bool, DTypeLike, Float, Int

from vldac.models.attention import attend
from vldac.models.config import VisionConfig
from vldac.models.layers import LayerNorm, Linear, RMSNorm
from vldac.models.products import times
from vldac.models.rope import patch_coordinates, rotate, vision_angles

EPSILON = 1e-6  # of the towers' norms: fixed in the architectures, no checkpoint's config names it
Angles = tuple[Float[Array, "#n s h"], Float[Array, "#n s h"]]


@struct.dataclass
class Patches:
    """Patches of n images of any sizes, each with room for S of them, and where they lie.

    Attributes:
      pixels: uint8[n, S, f], flattened patches, image by image in the image processor's order.
      row, column: int32[n, S], of each patch in its own image.
      window: int32[n, S], patches of one window share a number; -1 = there is no patch.
      corners, weights: int32[n, S, 4], float32[n, S, 4], see `qwen3_vl.interpolation`; None in other families.
    """

    pixels: Array
    row: Int[Array, "n s"]
    column: Int[Array, "n s"]
    window: Int[Array, "n s"]
    corners: Int[Array, "n s 4"] | None = None
    weights: Float[Array, "n s 4"] | None = None

    def angles(self, config: VisionConfig) -> Angles:
        """Cosine and sine of the rotary angles, as `vision_angles`."""
        quarter = config.embed_dim // config.num_heads // 4
        frequencies = 1.0 / config.rope_theta ** (np.arange(quarter, dtype=np.float32) / quarter)
        angles = [at[..., None].astype(jnp.float32) * frequencies for at in (self.row, self.column)]
        angles = jnp.concatenate(angles, axis=-1)
        return jnp.cos(angles), jnp.sin(angles)

    def sees(self, windowed: bool = False) -> Bool[Array, "n s s"]:
        """Which patch sees which: all of its image, or of its window. Absent ones see all and are never seen."""
        there = self.window >= 0
        mask = jnp.broadcast_to(there[:, None, :], (*there.shape, there.shape[1]))
        if windowed:
            mask &= (self.window[:, :, None] == self.window[:, None, :]) | ~there[:, :, None]
        return mask


def patch_places(config: VisionConfig, grid: tuple[int, int]) -> dict[str, np.ndarray]:
    """Fields of `Patches` for one image of (down, across) patches, without the pixels: arrays [S, ...]."""
    row, column = patch_coordinates(*grid, config.spatial_merge_size)
    return {"row": row.astype(np.int32), "column": column.astype(np.int32), "window": np.zeros(len(row), np.int32)}


class PatchEmbed(nnx.Module):
    """One vector a patch. The weight keeps the convolution's shape, [E, colour, time, row, column]."""

    def __init__(
        self, config: VisionConfig, bias: bool = False, *, rngs: nnx.Rngs, dtype: DTypeLike, param_dtype: DTypeLike
    ):
        side = config.patch_size
        shape = (config.embed_dim, config.in_channels, config.temporal_patch_size, side, side)
        self.dtype = dtype
        self.proj = Convolution(shape, bias, config.initializer_range, rngs, param_dtype)

    def __call__(self, patches: Float[Array, "n s f"]) -> Float[Array, "n s e"]:
        weight = self.proj.weight[...].astype(self.dtype)
        weight = weight.reshape(weight.shape[0], -1)  # [E, colour * time * row * column], a patch's own order
        x = times(patches.astype(self.dtype), weight)
        return x if self.proj.bias is None else x + self.proj.bias[...].astype(self.dtype)


class Convolution(nnx.Module):
    """Holds a convolution's parameters, so that their paths are the checkpoint's."""

    def __init__(self, shape: tuple[int, ...], bias: bool, std: float, rngs: nnx.Rngs, param_dtype: DTypeLike):
        weight = jax.random.normal(rngs.params(), shape, param_dtype)
        self.weight = nnx.Param(weight * jnp.asarray(std, param_dtype))
        self.bias = nnx.Param(jnp.zeros(shape[0], param_dtype)) if bias else None


class VisionAttention(nnx.Module):
    """Attention among the patches of an image; query, key and value from one product."""

    def __init__(self, config: VisionConfig, *, rngs: nnx.Rngs, dtype: DTypeLike, param_dtype: DTypeLike):
        self.heads = config.num_heads
        linear = partial(
            Linear, bias=True, std=config.initializer_range, rngs=rngs, dtype=dtype, param_dtype=param_dtype
        )
        self.qkv = linear(config.embed_dim, 3 * config.embed_dim)
        self.proj = linear(config.embed_dim, config.embed_dim)

    def __call__(
        self, x: Float[Array, "n s e"], angles: Angles, mask: Bool[Array, "*n s s"] | None = None
    ) -> Float[Array, "n s e"]:
        """Attends.

        Args:
          x: the patches of n images.
          angles: cosine and sine, see `image_angles`.
          mask: which patch sees which, the same in every image or each its own; None = all.
        """
        images, patches, width = x.shape
        qkv = self.qkv(x).reshape(images, patches, 3, self.heads, width // self.heads)
        query, key, value = qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]  # [n, S, N, D]
        query, key = rotate(query, *angles), rotate(key, *angles)
        if mask is not None:
            mask = jnp.broadcast_to(mask, (images, patches, patches))
        out = attend(query, key.swapaxes(1, 2), value.swapaxes(1, 2), mask)
        return self.proj(out.reshape(images, patches, width))


class VisionBlock(nnx.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)); the families differ in norm and MLP."""

    def __init__(
        self,
        config: VisionConfig,
        norm: type[LayerNorm | RMSNorm],
        mlp: Callable[..., nnx.Module],
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike,
        param_dtype: DTypeLike,
    ):
        options = {"rngs": rngs, "dtype": dtype, "param_dtype": param_dtype}
        self.norm1 = norm(config.embed_dim, eps=EPSILON, param_dtype=param_dtype)
        self.norm2 = norm(config.embed_dim, eps=EPSILON, param_dtype=param_dtype)
        self.attn = VisionAttention(config, **options)
        self.mlp = mlp(config, **options)

    def __call__(
        self, x: Float[Array, "n s e"], angles: Angles, mask: Bool[Array, "*n s s"] | None = None
    ) -> Float[Array, "n s e"]:
        x = x + self.attn(self.norm1(x), angles, mask)
        return x + self.mlp(self.norm2(x))


class PatchMerger(nnx.Module):
    """The patches of a merge block, normalised one by one and put side by side -> one vector of the decoder.

    Qwen2-VL's and Qwen2.5-VL's, which differ in the norm.
    """

    def __init__(
        self,
        config: VisionConfig,
        out_features: int,
        norm: type[LayerNorm | RMSNorm],
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike,
        param_dtype: DTypeLike,
    ):
        self.width = config.merged_dim
        linear = partial(
            Linear, bias=True, std=config.initializer_range, rngs=rngs, dtype=dtype, param_dtype=param_dtype
        )
        self.ln_q = norm(config.embed_dim, eps=EPSILON, param_dtype=param_dtype)
        self.mlp_0 = linear(self.width, self.width)
        self.mlp_2 = linear(self.width, out_features)

    def __call__(self, x: Float[Array, "n s e"]) -> Float[Array, "n t d"]:
        blocks = self.ln_q(x).reshape(x.shape[0], -1, self.width)  # the patch order keeps a block together
        return self.mlp_2(jax.nn.gelu(self.mlp_0(blocks), approximate=False))


def image_angles(config: VisionConfig, grid: tuple[int, int]) -> Angles:
    """Cosine and sine of the rotary angles of an image's patches, whose grid is (down, across)."""
    head_dim = config.embed_dim // config.num_heads
    cos, sin = vision_angles(*grid, config.spatial_merge_size, head_dim, config.rope_theta)
    return jnp.asarray(cos), jnp.asarray(sin)
