"""silu(gate) * up, from the product that holds both and what their adapters add to it."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
from jaxtyping import Array, Float

from vldac.models.decode_kernels.norm import load_inverse_rms

_LANES, _UNITS = 32, 128  # of a program


def gated(
    product: Float[Array, "b p"],
    lora_B: Float[Array, "r f"] | None,
    squares: Float[Array, "b c"],
    units: int,
    width: int,
    eps: float,
    interpret: bool = False,
) -> Float[Array, "b u"]:
    """silu(g) * u, with [g | u] = product[:, :2U] + the adapters', over the root mean square of what it is of.

    Args:
      product: [gate | up | low-rank part of gate's adapter | of up's], as `fused.FusedLinear.product` gives it.
      lora_B: scaled and block-diagonal, [2 ranks, 2U]; None = no adapters.
      squares, width, eps: of the norm before the product, as `norm.inverse_rms` takes them.
      units: U.
      interpret: as for `attention.decode_attend`.
    """
    adapter = () if lora_B is None else (lora_B,)
    batch = len(product)
    return pl.pallas_call(
        partial(_kernel, width=width, eps=eps),
        grid=(pl.cdiv(batch, _LANES), pl.cdiv(units, _UNITS)),
        out_shape=jax.ShapeDtypeStruct((batch, units), product.dtype),
        compiler_params=triton.CompilerParams(num_warps=4, num_stages=2),
        interpret=interpret,
        name="decode_gate",
    )(product, squares, *adapter)


def _kernel(product_ref, squares_ref, *refs, width, eps):
    *adapter, out_ref = refs
    batch, units = out_ref.shape
    lane, unit = pl.program_id(0) * _LANES, pl.program_id(1) * _UNITS
    rows = pl.ds(lane, _LANES)
    there = (lane + jnp.arange(_LANES)) < batch
    inverse = load_inverse_rms(squares_ref, rows, there, width, eps)[:, None]
    there = there[:, None]
    wide = ((unit + jnp.arange(_UNITS)) < units)[None, :]

    def part(number):
        columns = pl.ds(number * units + unit, _UNITS)
        y = triton.load(product_ref.at[rows, columns], mask=there & wide, other=0.0).astype(jnp.float32)
        for ref in adapter:
            rank = ref.shape[0] // 2
            ranks = pl.ds(number * rank, rank)
            low = triton.load(product_ref.at[rows, pl.ds(2 * units + number * rank, rank)], mask=there, other=0.0)
            up = triton.load(ref.at[ranks, columns], mask=wide, other=0.0)
            y += triton.dot(low, up)
        return y * inverse

    gate, up = part(0), part(1)
    out = gate * jax.nn.sigmoid(gate) * up
    triton.store(out_ref.at[rows, pl.ds(unit, _UNITS)], out.astype(out_ref.dtype), mask=there & wide)
