"""Keys and values of earlier tokens.

* One array a layer, never one stacked array: a loop that carries and slices a stacked cache copies all of it
  every step, which makes decoding two to three times slower.
* [B, K, S, D]: the slots lie next to the head dimension, so that a head's keys are one contiguous block.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, DTypeLike, Float, Int, Num


@struct.dataclass
class KVCache:
    """Keys and values, one array a layer.

    Attributes:
      k: per layer float[B, K, S, D], rotated keys.
      v: per layer float[B, K, S, D], values.
      positions: int32[B, S], the (temporal) position of what lies in each slot, for layers that see only a
        window of them.
    """

    k: tuple[Float[Array, "b k s d"], ...]
    v: tuple[Float[Array, "b k s d"], ...]
    positions: Int[Array, "b s"]

    @classmethod
    def zeros(
        cls, num_layers: int, batch: int, kv_heads: int, slots: int, head_dim: int, dtype: DTypeLike
    ) -> KVCache:
        """Empty slots for `num_layers` layers; each array is its own buffer, so that it can be donated."""

        def arrays():
            return tuple(jnp.zeros((batch, kv_heads, slots, head_dim), dtype) for _ in range(num_layers))

        return cls(k=arrays(), v=arrays(), positions=jnp.zeros((batch, slots), jnp.int32))

    @classmethod
    def from_stacked(
        cls, k: Float[Array, "l b k s d"], v: Float[Array, "l b k s d"], positions: Int[Array, "b s"]
    ) -> KVCache:
        """Takes apart what a scan over layers gives."""
        return cls(k=tuple(k), v=tuple(v), positions=positions)

    def stacked(self) -> tuple[Float[Array, "l b k s d"], Float[Array, "l b k s d"]]:
        """Layers along a new first axis, as a scan over layers wants them."""
        return jnp.stack(self.k), jnp.stack(self.v)

    @property
    def slots(self) -> int:
        return self.k[0].shape[2]

    @property
    def batch(self) -> int:
        return self.k[0].shape[0]

    def grow(self, extra: int) -> KVCache:
        """The same cache with `extra` empty slots behind the present ones."""
        widths = ((0, 0), (0, 0), (0, extra), (0, 0))
        return KVCache(
            k=tuple(jnp.pad(k, widths) for k in self.k),
            v=tuple(jnp.pad(v, widths) for v in self.v),
            positions=jnp.pad(self.positions, ((0, 0), (0, extra))),
        )


def write_slots(
    cache: Num[Array, "b k s d"], new: Num[Array, "b k n d"], index: Int[Array, "..."]
) -> Num[Array, "b k s d"]:
    """Puts keys or values into slots index, index + 1, ... of every lane, or a single one into each lane's own."""
    new = new.astype(cache.dtype)
    if index.ndim == 0:
        return jax.lax.dynamic_update_slice_in_dim(cache, new, index, axis=2)
    # vmap says that a lane's slot is its own device's: numbered lanes would be sent to all devices of a mesh.
    options = {"unique_indices": True, "indices_are_sorted": True, "mode": "promise_in_bounds"}
    return jax.vmap(lambda lane, new, at: lane.at[:, at].set(new[:, 0], **options))(cache, new, index)
