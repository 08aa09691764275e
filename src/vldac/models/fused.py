"""Linear layers that read the same input, as one product: for decoding, where every kernel counts.

* Query, key and value (gate and up) lie row beside row in one matrix, and below them the A of their adapters:

      x [W_q; W_k; W_v; A_q; A_k; A_v]^T  ->  outputs | low          outputs + low B

  with B block-diagonal, scaled, and lying as it is read. An adapter costs one small product, not two a layer;
  ranks are filled up to the 16 that tensor cores multiply at a time.
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

from vldac.models.layers import Linear
from vldac.models.products import times

_LEAST_RANK = 16  # that an adapter is filled up to


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
        rank = max((layer.lora_A.shape[0] for layer in layers if layer.lora_A is not None), default=0)
        rank = rank and max(_LEAST_RANK, 2 ** (rank - 1).bit_length())
        rows = [self._cut(layer.weight[...].astype(dtype)) for layer in layers]
        if rank:  # every device needs all of A's outputs: it computes them itself
            rows += [jnp.broadcast_to(low, (ways, *low.shape)) for low in (self._low(x, rank) for x in layers)]
        weight = jnp.concatenate(rows, axis=1)  # [ways, rows of a device, in]
        self.weight = nnx.Param(weight.reshape(-1, weight.shape[-1]))
        biases = [self._cut(layer.bias[...].astype(dtype)) for layer in layers if layer.bias is not None]
        self.bias = nnx.Param(jnp.concatenate(biases, axis=1)) if biases else None  # [ways, outputs of a device]
        self.lora_B = nnx.Param(self._up(layers, rank)) if rank else None

    def product(self, x: Float[Array, "*b i"]) -> Float[Array, "*b p"]:
        """[outputs | low], without bias and without what the adapters add; for `ways` of 1."""
        return times(x.astype(self.dtype), self.weight[...])

    def __call__(self, x: Float[Array, "*b i"]) -> list[Float[Array, "*b o"]]:
        y = self.product(x)
        y = y.reshape(*x.shape[:-1], self.ways, -1)
        outputs = sum(self.sizes)
        low, y = y[..., outputs:], y[..., :outputs]
        if self.bias is not None:
            y = y + self.bias[...]
        if self.lora_B is not None:
            y = y + jnp.einsum("...wr,wro->...wo", low, self.lora_B[...])
        parts = jnp.split(y, np.cumsum(self.sizes)[:-1], axis=-1)
        return [part.reshape(*x.shape[:-1], -1) for part in parts]

    def _cut(self, rows: Float[Array, "o *i"]) -> Float[Array, "w p *i"]:
        return rows.reshape(self.ways, -1, *rows.shape[1:])

    def _low(self, layer: Linear, rank: int) -> Float[Array, "r i"]:
        """A of a layer's adapter, filled up with zeros."""
        if layer.lora_A is None:
            return jnp.zeros((rank, layer.weight.shape[1]), self.dtype)
        low = layer.lora_A[...].astype(self.dtype)
        return jnp.pad(low, ((0, rank - len(low)), (0, 0)))

    def _up(self, layers: Sequence[Linear], rank: int) -> Float[Array, "w r p"]:
        """[ways, all ranks, outputs of a device]: each layer's scaled B in its own rows and columns."""
        blocks = []
        for number, (layer, size) in enumerate(zip(layers, self.sizes, strict=True)):
            block = jnp.zeros((self.ways, rank, size), self.dtype)
            if layer.lora_B is not None:
                up = self._cut((layer.lora_B[...] * layer.lora_scale).astype(self.dtype)).swapaxes(1, 2)
                block = block.at[:, : up.shape[1]].set(up)
            blocks.append(jnp.pad(block, ((0, 0), (number * rank, (len(layers) - 1 - number) * rank), (0, 0))))
        return jnp.concatenate(blocks, axis=2)
