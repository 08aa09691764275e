"""The critic: a small MLP on the hidden state of the last prompt token.

Float32 whatever the model computes in. Its last layer starts at zero, so that every value starts at 0 instead of
at noise which the first advantages would be made of. Stopping the gradient before it is its caller's part.
"""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

REFERENCE_SIZES = (3072, 2048)  # of the published runs


class ValueHead(nnx.Module):
    """Linear, ReLU, ..., Linear to one number."""

    def __init__(self, in_features: int, sizes: tuple[int, ...] = REFERENCE_SIZES, *, rngs: nnx.Rngs):
        """Draws the parameters.

        Args:
          in_features: width of the hidden state.
          sizes: widths of the hidden layers.
          rngs: He-normal weights (Linear, ReLU), zero biases; all zero in the last layer.
        """
        initializer = nnx.initializers.he_normal()
        widths = (in_features, *sizes)
        self.layers = nnx.List(
            [nnx.Linear(a, b, kernel_init=initializer, rngs=rngs) for a, b in itertools.pairwise(widths)]
        )
        self.out = nnx.Linear(widths[-1], 1, kernel_init=nnx.initializers.zeros, rngs=rngs)

    def __call__(self, hidden: Float[Array, "*b d"]) -> Float[Array, "*b"]:
        """Value of the state that the hidden state [..., d] sums up, float32[...]."""
        x = hidden.astype(jnp.float32)
        for layer in self.layers:
            x = jax.nn.relu(layer(x))
        return self.out(x)[..., 0]
