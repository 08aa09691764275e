"""Adds a product, and what its adapter adds to it, to the residual, and normalises the sum."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
from jaxtyping import Array, Float

_LANES = 2  # rows of a program: enough programs for every multiprocessor, B read half as often


def add_norm(
    x: Float[Array, "b e"],
    product: Float[Array, "b p"],
    lora_B: Float[Array, "r e"] | None,
    weight: Float[Array, " e"],
    eps: float,
    interpret: bool = False,
) -> tuple[Float[Array, "b e"], Float[Array, "b e"]]:
    """(x + y, RMSNorm of it), y = product[:, :E] + product[:, E:] B.

    Args:
      x: the residual.
      product: [y without the adapter | the adapter's low-rank part], as `fused.FusedLinear.product` gives it.
      lora_B: scaled; None = no adapter.
      weight: of the norm, as `layers.RMSNorm` without offset has it.
      eps: of the norm.
      interpret: as for `attention.decode_attend`.
    """
    batch, width = x.shape
    adapter = () if lora_B is None else (lora_B,)
    return pl.pallas_call(
        partial(_kernel, width=width, eps=eps),
        grid=(pl.cdiv(batch, _LANES),),
        out_shape=[jax.ShapeDtypeStruct(x.shape, x.dtype)] * 2,
        compiler_params=triton.CompilerParams(num_warps=8, num_stages=2),
        interpret=interpret,
        name="decode_add_norm",
    )(x, product, weight.astype(x.dtype), *adapter)


def _kernel(x_ref, product_ref, weight_ref, *refs, width, eps):
    *adapter, sum_ref, norm_ref = refs
    block = pl.next_power_of_2(width)
    lane = pl.program_id(0) * _LANES
    rows, columns = pl.ds(lane, _LANES), pl.ds(0, block)
    wide = jnp.arange(block) < width
    there = ((lane + jnp.arange(_LANES)) < x_ref.shape[0])[:, None]
    inside = there & wide[None, :]
    y = triton.load(product_ref.at[rows, columns], mask=inside, other=0.0).astype(jnp.float32)
    for ref in adapter:
        for rank in range(ref.shape[0]):
            low = triton.load(product_ref.at[rows, pl.ds(width + rank, 1)], mask=there, other=0.0)
            up = triton.load(ref.at[pl.ds(rank, 1), columns], mask=wide[None, :], other=0.0)
            y += low.astype(jnp.float32) * up.astype(jnp.float32)
    x = triton.load(x_ref.at[rows, columns], mask=inside, other=0.0)
    x = (x.astype(jnp.float32) + y).astype(x.dtype)
    triton.store(sum_ref.at[rows, columns], x, mask=inside)
    x32 = x.astype(jnp.float32)
    mean = (x32 * x32).sum(axis=1, keepdims=True) / width
    normed = (x32 * jax.lax.rsqrt(mean + eps)).astype(x.dtype)
    weight = triton.load(weight_ref.at[columns], mask=wide, other=0.0)
    triton.store(norm_ref.at[rows, columns], normed * weight[None, :], mask=inside)
