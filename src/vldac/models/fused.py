"""Linear layers that read the same input, as one product: for decoding, where every kernel counts.

* Query, key and value (gate and up) lie row beside row in one matrix, and below them the A of their adapters:

      x [W_q; W_k; W_v; A_q; A_k; A_v]^T  ->  outputs | low          outputs + low B^T

  with B block-diagonal and already scaled. An adapter costs one small product instead of two for each layer.
* Made once from the layers' own parameters, outside the loop over tokens; the sums that are rounded are the same.
* Where a mesh cuts the layers' outputs (heads, or MLP units) into `ways`, each device's rows of all of them lie
  together: cut as they stand one below the other, the cut would go across, and every token would pay for it.
  Worked example, q of 4 rows and k of 2, two ways: [q0 q1 k0 A | q2 q3 k1 A].
"""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, DTypeLike, Float

from vldac.models.layers import Linear, times


class FusedLinear(nnx.Module):
    """The outputs of several linear layers of one input."""

    def __init__(self, layers: Sequence[Linear], dtype: DTypeLike, ways: int = 1):
        """Joins layers.

        Args:
          layers: each with weight [out, in] and any adapter or none; biases on all of them or on none.
          dtype: of the computation.
          ways: that a mesh cuts every layer's outputs into; divides each. 1 = not at all.
        """
        self.dtype = dtype
        self.ways = ways
        self.sizes = tuple(layer.weight.shape[0] // ways for layer in layers)  # of each device's
        adapted = [layer for layer in layers if layer.lora_A is not None]
        rows = [self._cut(layer.weight[...].astype(dtype)) for layer in layers]
        for layer in adapted:  # every device needs all of A's outputs: it computes them itself
            rows.append(jnp.broadcast_to(layer.lora_A[...].astype(dtype), (ways, *layer.lora_A.shape)))
        weight = jnp.concatenate(rows, axis=1)  # [ways, rows of a device, in]
        self.weight = nnx.Param(weight.reshape(-1, weight.shape[-1]))
        biases = [self._cut(layer.bias[...].astype(dtype)) for layer in layers if layer.bias is not None]
        self.bias = nnx.Param(jnp.concatenate(biases, axis=1)) if biases else None  # [ways, outputs of a device]
        self.lora_B = nnx.Param(self._cut_B(layers, adapted)) if adapted else None

    def __call__(self, x: Float[Array, "*b i"]) -> list[Float[Array, "*b o"]]:
        y = times(x.astype(self.dtype), self.weight[...])
        y = y.reshape(*x.shape[:-1], self.ways, -1)
        outputs = sum(self.sizes)
        low, y = y[..., outputs:], y[..., :outputs]
        if self.bias is not None:
            y = y + self.bias[...]
        if self.lora_B is not None:
            y = y + jnp.einsum("...wr,wor->...wo", low, self.lora_B[...])
        parts = jnp.split(y, np.cumsum(self.sizes)[:-1], axis=-1)
        return [part.reshape(*x.shape[:-1], -1) for part in parts]

    def _cut(self, rows: Float[Array, "o *i"]) -> Float[Array, "w p *i"]:
        return rows.reshape(self.ways, -1, *rows.shape[1:])

    def _cut_B(self, layers: Sequence[Linear], adapted: Sequence[Linear]) -> Float[Array, "w p r"]:
        """[ways, outputs of a device, sum of ranks]: each scaled B in its own rows and columns."""
        ranks = [layer.lora_A.shape[0] for layer in adapted]
        ends = dict(zip(map(id, adapted), np.cumsum(ranks), strict=True))
        blocks = []
        for layer, size in zip(layers, self.sizes, strict=True):
            if layer.lora_B is None:
                blocks.append(jnp.zeros((self.ways, size, sum(ranks)), self.dtype))
                continue
            rank, end = layer.lora_A.shape[0], int(ends[id(layer)])
            block = self._cut((layer.lora_B[...] * layer.lora_scale).astype(self.dtype))
            blocks.append(jnp.pad(block, ((0, 0), (0, 0), (end - rank, sum(ranks) - end))))
        return jnp.concatenate(blocks, axis=1)
