"""The vision tower: patches -> transformer with two-axis rotary positions -> one token for every merge block.

* Images of one call have one static size, so they are a batch, attention within an image is plain full
  attention, and the rotary tables are constants. Images of another size are another call.
* The patch embedding, a 3-D convolution in the checkpoint, is a product: its stride is its kernel.

Reference: transformers' `Qwen2VisionTransformerPretrainedModel`.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, DTypeLike, Float

from vldac.models.attention import attend
from vldac.models.config import VisionConfig
from vldac.models.layers import LayerNorm, Linear, Remat, quick_gelu, scan_stack, stack
from vldac.models.rope import rotate, vision_angles

EPSILON = 1e-6  # of the tower's LayerNorms: fixed in the architecture, no checkpoint's config names it
Angles = tuple[Float[Array, "1 s h"], Float[Array, "1 s h"]]


class PatchEmbed(nnx.Module):
    """One vector a patch. The weight keeps the convolution's shape, [E, colour, time, row, column]."""

    def __init__(self, config: VisionConfig, *, rngs: nnx.Rngs, dtype: DTypeLike, param_dtype: DTypeLike):
        side = config.patch_size
        shape = (config.embed_dim, config.in_channels, config.temporal_patch_size, side, side)
        self.dtype = dtype
        self.proj = Convolution(shape, config.initializer_range, rngs, param_dtype)

    def __call__(self, patches: Float[Array, "n s f"]) -> Float[Array, "n s e"]:
        weight = self.proj.weight[...].astype(self.dtype)
        weight = weight.reshape(weight.shape[0], -1)  # [E, colour * time * row * column], a patch's own order
        return jnp.einsum("nsf,ef->nse", patches.astype(self.dtype), weight)


class Convolution(nnx.Module):
    """Holds a convolution's weight, so that its parameter path is the checkpoint's."""

    def __init__(self, shape: tuple[int, ...], std: float, rngs: nnx.Rngs, param_dtype: DTypeLike):
        weight = jax.random.normal(rngs.params(), shape, param_dtype)
        self.weight = nnx.Param(weight * jnp.asarray(std, param_dtype))


class VisionAttention(nnx.Module):
    """Full attention among the patches of an image; query, key and value from one product."""

    def __init__(self, config: VisionConfig, *, rngs: nnx.Rngs, dtype: DTypeLike, param_dtype: DTypeLike):
        self.heads = config.num_heads
        linear = partial(
            Linear, bias=True, std=config.initializer_range, rngs=rngs, dtype=dtype, param_dtype=param_dtype
        )
        self.qkv = linear(config.embed_dim, 3 * config.embed_dim)
        self.proj = linear(config.embed_dim, config.embed_dim)

    def __call__(self, x: Float[Array, "n s e"], angles: Angles) -> Float[Array, "n s e"]:
        images, patches, width = x.shape
        qkv = self.qkv(x).reshape(images, patches, 3, self.heads, width // self.heads)
        query, key, value = qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]  # [n, S, N, D]
        query, key = rotate(query, *angles), rotate(key, *angles)
        out = attend(query, key.swapaxes(1, 2), value.swapaxes(1, 2), mask=None)
        return self.proj(out.reshape(images, patches, width))


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


class VisionBlock(nnx.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, config: VisionConfig, *, rngs: nnx.Rngs, dtype: DTypeLike, param_dtype: DTypeLike):
        options = {"rngs": rngs, "dtype": dtype, "param_dtype": param_dtype}
        self.norm1 = LayerNorm(config.embed_dim, eps=EPSILON, param_dtype=param_dtype)
        self.norm2 = LayerNorm(config.embed_dim, eps=EPSILON, param_dtype=param_dtype)
        self.attn = VisionAttention(config, **options)
        self.mlp = VisionMLP(config, **options)

    def __call__(self, x: Float[Array, "n s e"], angles: Angles) -> Float[Array, "n s e"]:
        x = x + self.attn(self.norm1(x), angles)
        return x + self.mlp(self.norm2(x))


class PatchMerger(nnx.Module):
    """The patches of a merge block, normalised one by one and put side by side -> one vector of the decoder."""

    def __init__(
        self,
        config: VisionConfig,
        out_features: int,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike,
        param_dtype: DTypeLike,
    ):
        self.width = config.embed_dim * config.spatial_merge_size**2
        linear = partial(
            Linear, bias=True, std=config.initializer_range, rngs=rngs, dtype=dtype, param_dtype=param_dtype
        )
        self.ln_q = LayerNorm(config.embed_dim, eps=EPSILON, param_dtype=param_dtype)
        self.mlp_0 = linear(self.width, self.width)
        self.mlp_2 = linear(self.width, out_features)

    def __call__(self, x: Float[Array, "n s e"]) -> Float[Array, "n t d"]:
        blocks = self.ln_q(x).reshape(x.shape[0], -1, self.width)  # the patch order keeps a block together
        return self.mlp_2(jax.nn.gelu(self.mlp_0(blocks), approximate=False))


class VisionTower(nnx.Module):
    """Flattened patches of images of one size to visual tokens."""

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
        self.blocks = stack(lambda rngs: VisionBlock(config, rngs=rngs, **options), config.depth, rngs)
        self.merger = PatchMerger(config, out_features, rngs=rngs, **options)

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
        config = self.config
        head_dim = config.embed_dim // config.num_heads
        cos, sin = vision_angles(*grid, config.spatial_merge_size, head_dim, config.rope_theta)
        angles = jnp.asarray(cos), jnp.asarray(sin)

        def step(block, x, _):
            return block(x, angles), None

        x, _ = scan_stack(self.blocks, step, self.patch_embed(patches), remat=remat)
        return self.merger(x)
