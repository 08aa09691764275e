"""Linear layers that read the same input, as one product: for decoding, where every kernel counts.

* Query, key and value (gate and up) lie row beside row in one matrix, and below them the A of their adapters:

      x [W_q; W_k; W_v; A_q; A_k; A_v]^T  ->  outputs | low          outputs + low B^T

  with B block-diagonal and already scaled. An adapter costs one small product instead of two for each layer.
* Made once from the layers' own parameters, outside the loop over tokens; the sums that are rounded are the same.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, DTypeLike, Float

from vldac.models.layers import Linear


class FusedLinear(nnx.Module):
    """The outputs of several linear layers of one input."""

    def __init__(self, layers: Sequence[Linear], dtype: DTypeLike):
        """Joins layers.

        Args:
          layers: each with weight [out, in] and any adapter or none; biases on all of them or on none.
          dtype: of the computation.
        """
        self.dtype = dtype
        self.sizes = tuple(layer.weight.shape[0] for layer in layers)
        rows = [layer.weight[...].astype(dtype) for layer in layers]
        adapted = [layer for layer in layers if layer.lora_A is not None]
        rows += [layer.lora_A[...].astype(dtype) for layer in adapted]
        self.weight = nnx.Param(jnp.concatenate(rows) if len(rows) > 1 else rows[0])
        biases = [layer.bias for layer in layers if layer.bias is not None]
        self.bias = nnx.Param(jnp.concatenate([b[...].astype(dtype) for b in biases])) if biases else None
        self.lora_B = nnx.Param(_block_diagonal(layers, adapted, dtype)) if adapted else None

    def __call__(self, x: Float[Array, "*b i"]) -> list[Float[Array, "*b o"]]:
        y = jnp.einsum("...i,oi->...o", x.astype(self.dtype), self.weight[...])
        outputs = sum(self.sizes)
        low, y = y[..., outputs:], y[..., :outputs]
        if self.bias is not None:
            y = y + self.bias[...]
        if self.lora_B is not None:
            y = y + jnp.einsum("...r,or->...o", low, self.lora_B[...])
        return jnp.split(y, np.cumsum(self.sizes)[:-1], axis=-1)


def _block_diagonal(layers: Sequence[Linear], adapted: Sequence[Linear], dtype: DTypeLike) -> Float[Array, "o r"]:
    """[sum of out, sum of ranks]: the scaled B of each adapter in its own rows and columns."""
    ranks = [layer.lora_A.shape[0] for layer in adapted]
    ends = dict(zip(map(id, adapted), np.cumsum(ranks), strict=True))
    blocks = []
    for layer in layers:
        out = layer.weight.shape[0]
        if layer.lora_B is None:
            blocks.append(jnp.zeros((out, sum(ranks)), dtype))
            continue
        rank, end = layer.lora_A.shape[0], int(ends[id(layer)])
        block = (layer.lora_B[...] * layer.lora_scale).astype(dtype)
        blocks.append(jnp.pad(block, ((0, 0), (end - rank, sum(ranks) - end))))
    return jnp.concatenate(blocks)
