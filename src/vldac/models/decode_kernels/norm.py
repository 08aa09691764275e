"""Adds a product, and what its adapter adds to it, to the residual, and prepares the norm of the sum."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
from jaxtyping import Array, Float

_LANES, _COLUMNS = 16, 128  # of a program: as many rows as tensor cores want


def add_norm(
    x: Float[Array, "b e"],
    product: Float[Array, "b p"],
    lora_B: Float[Array, "r e"] | None,
    weight: Float[Array, " e"],
    interpret: bool = False,
) -> tuple[Float[Array, "b e"], Float[Array, "b e"], Float[Array, "b c"]]:
    """The sum s = x + product[:, :E] + product[:, E:] B, and its RMSNorm but for the division.

    The root mean square is one number a lane. What comes next is a product, which is linear: so the division can
    wait until that is read, and no program has to see a whole row before it can go on.

    Args:
      x: the residual.
      product: [y without the adapter | the adapter's low-rank part], as `fused.FusedLinear.product` gives it.
      lora_B: scaled; None = no adapter.
      weight: of the norm, as `layers.RMSNorm` without offset has it.
      interpret: as for `attention.decode_attend`.

    Returns:
      (s, s * weight, squares), squares float32: sums over columns of s * s, a few of each lane, for `inverse_rms`.
    """
    batch, width = x.shape
    adapter = () if lora_B is None else (lora_B,)
    columns = pl.cdiv(width, _COLUMNS)
    total, normed = (jax.ShapeDtypeStruct(x.shape, dtype) for dtype in (x.dtype, product.dtype))
    return tuple(
        pl.pallas_call(
            _kernel,
            grid=(pl.cdiv(batch, _LANES), columns),
            out_shape=[total, normed, jax.ShapeDtypeStruct((batch, columns), jnp.float32)],
            compiler_params=triton.CompilerParams(num_warps=4, num_stages=2),
            interpret=interpret,
            name="decode_add_norm",
        )(x, product, weight, *adapter)
    )


def inverse_rms(squares: Float[Array, "b c"], width: int, eps: float) -> Float[Array, " b"]:
    """1 / sqrt(mean of squares + eps) of each lane."""
    return jax.lax.rsqrt(squares.sum(axis=1) / width + eps)


def load_inverse_rms(squares_ref, rows, there, width: int, eps: float) -> Float[Array, " l"]:
    """The same inside a kernel, of the lanes `rows`, of which `there` says which there are."""
    count = squares_ref.shape[1]
    block = pl.next_power_of_2(count)
    inside = there[:, None] & (jnp.arange(block) < count)[None, :]
    return inverse_rms(triton.load(squares_ref.at[rows, pl.ds(0, block)], mask=inside, other=0.0), width, eps)


def _kernel(x_ref, product_ref, weight_ref, *refs):
    *adapter, sum_ref, norm_ref, squares_ref = refs
    batch, width = x_ref.shape
    lane, column = pl.program_id(0) * _LANES, pl.program_id(1) * _COLUMNS
    rows, here = pl.ds(lane, _LANES), pl.ds(column, _COLUMNS)
    there, wide = lane + jnp.arange(_LANES) < batch, column + jnp.arange(_COLUMNS) < width
    inside = there[:, None] & wide[None, :]
    y = triton.load(product_ref.at[rows, here], mask=inside, other=0.0).astype(jnp.float32)
    for ref in adapter:
        rank = ref.shape[0]
        low = triton.load(product_ref.at[rows, pl.ds(width, rank)], mask=there[:, None], other=0.0)
        y += triton.dot(low, triton.load(ref.at[:, here], mask=wide[None, :], other=0.0))
    x = triton.load(x_ref.at[rows, here], mask=inside, other=0.0)
    x = (x.astype(jnp.float32) + y).astype(x.dtype)
    triton.store(sum_ref.at[rows, here], x, mask=inside)
    x32 = x.astype(jnp.float32)
    weight = triton.load(weight_ref.at[here], mask=wide, other=0.0).astype(jnp.float32)
    triton.store(norm_ref.at[rows, here], (x32 * weight[None, :]).astype(norm_ref.dtype), mask=inside)
    place = squares_ref.at[rows, pl.ds(pl.program_id(1), 1)]
    triton.store(place, (x32 * x32).sum(axis=1, keepdims=True), mask=there[:, None])
