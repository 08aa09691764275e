"""Kernels for one new token a lane (Pallas, Triton): between the products of a layer, four of them and not twenty.

* In decoding a layer's products run at the device's rate and everything else is small: what it costs is how many
  kernels it is. Each of these does all that lies between two products:

      x, h = add_norm(x, y)             the product before added to the residual, and normalised but for a
                                        division, which waits until the next product is read
      y = h [W_q; W_k; W_v; A]^T        cuBLAS
      q, cache = turn_heads(y, cache)   bias, adapter, rotary positions, keys and values into the cache
      a = decode_attend(q, cache)       the shared prefix, then each lane's own slots
      y = a [W_o; A]^T                  cuBLAS
      x, h = add_norm(x, y)
      y = h [W_gate; W_up; A]^T         cuBLAS
      g = gated(y)                      adapter, silu(gate) * up
      y = g [W_down; A]^T               cuBLAS

* An adapter's low-rank part comes with the layer's own product (`fused`); its B is applied where that is read.
* Sums are float32 and rounded once, where the ordinary path rounds after each addition.
* On a CUDA GPU of compute capability 8 or more, in bfloat16 (what waits for its division may be large), with
  whole layers. Elsewhere, and in families whose layers hold something else between these products, the decoder's
  ordinary path is taken.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import DTypeLike

from vldac.models.decode_kernels.attention import decode_attend
from vldac.models.decode_kernels.gate import gated
from vldac.models.decode_kernels.heads import turn_heads
from vldac.models.decode_kernels.norm import add_norm, inverse_rms

__all__ = ["add_norm", "decode_attend", "gated", "inverse_rms", "on_ampere", "takes", "turn_heads"]


def takes(dtype: DTypeLike, head_dim: int) -> bool:
    """Whether the kernels are for such a decoder here: bfloat16, usual heads."""
    return dtype == jnp.bfloat16 and head_dim in (64, 128) and on_ampere()


def on_ampere() -> bool:
    """Whether this is a CUDA GPU of compute capability 8 (Ampere) or more."""
    if jax.default_backend() != "gpu":
        return False
    device = jax.devices()[0]
    return "cuda" in device.client.platform_version.lower() and float(device.compute_capability) >= 8.0
