"""SigLIP's vision tower: square images -> patches -> transformer with learned positions -> one vector a patch.

* All images are scaled to the one size that the positions were learned for, so images of a call are a batch and
  attention within an image is plain full attention.
* Attention scores of a large image are large (Gemma 3: 4096 patches and 16 heads, a gigabyte), so no more than
  `SCORES_AT_ONCE` of them exist at a time: images take turns, and the backward pass computes them again.
* The patch embedding, a convolution in the checkpoint, is a product: its stride is its kernel.

Reference: transformers' `SiglipVisionModel`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, DTypeLike, Float

from vldac.models.attention import attend
from vldac.models.config import positive
from vldac.models.layers import Embedding, LayerNorm, Linear, Remat, scan_stack, stack

SCORES_AT_ONCE = 2**28  # float32 attention scores that may exist at a time: 1 GiB, one image of Gemma 3


@dataclass(frozen=True)
class SiglipConfig:
    """The vision tower.

    Attributes:
      image_size: pixels of an image's side; a multiple of `patch_size`.
      patch_size: pixels of a patch's side.
      hidden_size: width E of the tower; a multiple of `num_attention_heads`.
      intermediate_size: width of the blocks' MLP.
      num_hidden_layers: transformer blocks.
      num_attention_heads: attention heads.
      layer_norm_eps: added to the variance.
      initializer_range: standard deviation of freshly drawn weights.
    """

    image_size: int
    patch_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    layer_norm_eps: float = 1e-6
    initializer_range: float = 0.02

    def __post_init__(self):
        positive(self, "image_size", "patch_size", "hidden_size", "intermediate_size")
        positive(self, "num_hidden_layers", "num_attention_heads")
        if self.image_size % self.patch_size:
            raise ValueError(
                f"image_size is {self.image_size}; accepted: a multiple of patch_size, which is {self.patch_size}"
            )
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size is {self.hidden_size}; accepted: a multiple of num_attention_heads, which is "
                f"{self.num_attention_heads}"
            )

    @property
    def patches_per_side(self) -> int:
        """Patches down, and across: 64 for Gemma 3."""
        return self.image_size // self.patch_size


class PatchEmbedding(nnx.Module):
    """One vector a patch. The weight keeps the convolution's shape, [E, colour, row, column]."""

    def __init__(self, config: SiglipConfig, *, rngs: nnx.Rngs, dtype: DTypeLike, param_dtype: DTypeLike):
        shape = (config.hidden_size, 3, config.patch_size, config.patch_size)
        std = jnp.asarray(config.initializer_range, param_dtype)
        self.dtype = dtype
        self.weight = nnx.Param(jax.random.normal(rngs.params(), shape, param_dtype) * std)
        self.bias = nnx.Param(jnp.zeros(config.hidden_size, param_dtype))

    def __call__(self, pixels: Float[Array, "n h w 3"]) -> Float[Array, "n s e"]:
        images, height, width, colours = pixels.shape
        side = self.weight.shape[-1]
        patches = pixels.astype(self.dtype).reshape(images, height // side, side, width // side, side, colours)
        x = jnp.einsum("nypxqc,ecpq->nyxe", patches, self.weight[...].astype(self.dtype))
        return x.reshape(images, -1, x.shape[-1]) + self.bias[...].astype(self.dtype)


class Embeddings(nnx.Module):
    """Patches, each with the vector of its place."""

    def __init__(self, config: SiglipConfig, *, rngs: nnx.Rngs, dtype: DTypeLike, param_dtype: DTypeLike):
        options = {"rngs": rngs, "dtype": dtype, "param_dtype": param_dtype}
        self.patch_embedding = PatchEmbedding(config, **options)
        self.position_embedding = Embedding(
            config.patches_per_side**2, config.hidden_size, std=config.initializer_range, **options
        )

    def __call__(self, pixels: Float[Array, "n h w 3"]) -> Float[Array, "n s e"]:
        patches = self.patch_embedding(pixels)
        return patches + self.position_embedding(jnp.arange(patches.shape[1]))


class SiglipAttention(nnx.Module):
    """Full attention among the patches of an image."""

    def __init__(self, config: SiglipConfig, *, rngs: nnx.Rngs, dtype: DTypeLike, param_dtype: DTypeLike):
        self.heads = config.num_attention_heads
        linear = partial(
            Linear, bias=True, std=config.initializer_range, rngs=rngs, dtype=dtype, param_dtype=param_dtype
        )
        self.q_proj = linear(config.hidden_size, config.hidden_size)
        self.k_proj = linear(config.hidden_size, config.hidden_size)
        self.v_proj = linear(config.hidden_size, config.hidden_size)
        self.out_proj = linear(config.hidden_size, config.hidden_size)

    def __call__(self, x: Float[Array, "n s e"]) -> Float[Array, "n s e"]:
        heads = (*x.shape[:2], self.heads, -1)
        query, key, value = (proj(x).reshape(heads) for proj in (self.q_proj, self.k_proj, self.v_proj))
        out = attend_in_turns(query, key.swapaxes(1, 2), value.swapaxes(1, 2))
        return self.out_proj(out.reshape(x.shape))


def attend_in_turns(
    query: Float[Array, "n s h d"], key: Float[Array, "n h s d"], value: Float[Array, "n h s d"]
) -> Float[Array, "n s h d"]:
    """`attend` without a mask, as many images at a time as `SCORES_AT_ONCE` allows, at least one."""
    images, patches, heads, _ = query.shape
    at_once = max(SCORES_AT_ONCE // (heads * patches**2), 1)
    if at_once >= images:
        return attend(query, key, value, mask=None)

    @partial(jax.checkpoint, prevent_cse=False)
    def one(image):
        return attend(*(x[None] for x in image), mask=None)[0]

    return jax.lax.map(one, (query, key, value), batch_size=at_once)


class SiglipMLP(nnx.Module):
    """fc2(gelu(fc1(x))), gelu by its tanh approximation."""

    def __init__(self, config: SiglipConfig, *, rngs: nnx.Rngs, dtype: DTypeLike, param_dtype: DTypeLike):
        linear = partial(
            Linear, bias=True, std=config.initializer_range, rngs=rngs, dtype=dtype, param_dtype=param_dtype
        )
        self.fc1 = linear(config.hidden_size, config.intermediate_size)
        self.fc2 = linear(config.intermediate_size, config.hidden_size)

    def __call__(self, x: Float[Array, "n s e"]) -> Float[Array, "n s e"]:
        return self.fc2(jax.nn.gelu(self.fc1(x), approximate=True))


class SiglipLayer(nnx.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, config: SiglipConfig, *, rngs: nnx.Rngs, dtype: DTypeLike, param_dtype: DTypeLike):
        options = {"rngs": rngs, "dtype": dtype, "param_dtype": param_dtype}
        self.layer_norm1 = LayerNorm(config.hidden_size, eps=config.layer_norm_eps, param_dtype=param_dtype)
        self.layer_norm2 = LayerNorm(config.hidden_size, eps=config.layer_norm_eps, param_dtype=param_dtype)
        self.self_attn = SiglipAttention(config, **options)
        self.mlp = SiglipMLP(config, **options)

    def __call__(self, x: Float[Array, "n s e"]) -> Float[Array, "n s e"]:
        x = x + self.self_attn(self.layer_norm1(x))
        return x + self.mlp(self.layer_norm2(x))


class Encoder(nnx.Module):
    """The stack of blocks, under the name that checkpoints give it."""

    def __init__(self, config: SiglipConfig, *, rngs: nnx.Rngs, dtype: DTypeLike, param_dtype: DTypeLike):
        options = {"dtype": dtype, "param_dtype": param_dtype}
        self.layers = stack(lambda rngs: SiglipLayer(config, rngs=rngs, **options), config.num_hidden_layers, rngs)

    def __call__(self, x: Float[Array, "n s e"], remat: Remat) -> Float[Array, "n s e"]:
        return scan_stack(self.layers, lambda layer, x, _: (layer(x), None), x, remat=remat)[0]


class SiglipTower(nnx.Module):
    """Normalised square images to one vector a patch."""

    def __init__(self, config: SiglipConfig, *, rngs: nnx.Rngs, dtype: DTypeLike, param_dtype: DTypeLike):
        options = {"rngs": rngs, "dtype": dtype, "param_dtype": param_dtype}
        self.embeddings = Embeddings(config, **options)
        self.encoder = Encoder(config, **options)
        self.post_layernorm = LayerNorm(config.hidden_size, eps=config.layer_norm_eps, param_dtype=param_dtype)

    def __call__(self, pixels: Float[Array, "n h w 3"], remat: Remat = "none") -> Float[Array, "n s e"]:
        """Encodes images.

        Args:
          pixels: sides of `image_size`.
          remat: what the backward pass recomputes, see `scan_stack`.

        Returns:
          [n, S, E], patches row by row.
        """
        return self.post_layernorm(self.encoder(self.embeddings(pixels), remat))
