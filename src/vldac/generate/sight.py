"""Pictures into the slots that their visual tokens have in a conversation.

The vision tower is compiled once for every size of a picture (after that, all pictures of that size are free).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, DTypeLike, Float, Int, UInt8

from vldac.generate.conversation import Look
from vldac.generate.lanes import Params
from vldac.models import Visual, VLMConfig


class Sight:
    """Encodes the pictures of conversations.

    Args:
      graphdef: of the model.
      config: the model's.
      dtype: of the features.
    """

    def __init__(self, graphdef: nnx.GraphDef, config: VLMConfig, dtype: DTypeLike):
        self._graphdef, self._config, self._dtype = graphdef, config, dtype
        self._encode = jax.jit(self._encode_images)
        self._put = jax.jit(_put, donate_argnums=0)

    def levels(self, params: Params, looks: tuple[Look, ...], slots: int) -> Float[Array, "k s d"]:
        """Visual tokens in their places among `slots` slots: features, then deepstack's levels."""
        levels = None
        for look in looks:
            seen = self._encode(params, jnp.asarray(look.frames[:, 0]))
            if levels is None:
                levels = jnp.zeros((len(seen), slots, seen.shape[-1]), self._dtype)
            levels = self._put(levels, seen, jnp.asarray(look.slots))
        return levels

    def _encode_images(self, params: Params, images: UInt8[Array, "n h w 3"]) -> Float[Array, "k t d"]:
        visual: Visual = nnx.merge(self._graphdef, *params).encode_images(images)
        levels = visual.features[None]
        if visual.deepstack is not None:
            levels = jnp.concatenate([levels, visual.deepstack])
        return levels.reshape(len(levels), -1, levels.shape[-1])


def _put(
    levels: Float[Array, "k s d"], seen: Float[Array, "k t d"], slots: Int[Array, " t"]
) -> Float[Array, "k s d"]:
    return levels.at[:, slots].set(seen.astype(levels.dtype))
