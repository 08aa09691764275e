"""Linear, embedding and normalisation layers, activations, and stacks of layers.

* A weight has the shape of its Hugging Face counterpart ([out, in]), so that loading is a rename. XLA contracts
  either axis equally fast.
* Parameters are kept in `param_dtype` and used in `dtype`; norms are computed in float32 whatever that is.
* A layer is written for itself; `stack` gives its parameters a leading layer axis, for `lax.scan`. A short stack
  is unrolled.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, DTypeLike, Float, Int

from vldac.mesh import batch_ways, cuts_weights, shard_batch
from vldac.models.products import times, times_adapted

Remat = Literal["none", "dots", "full"]
# Stacks of so few layers are unrolled: no intermediate is copied into a stacked buffer and out of it again, and
# the last layer may compute less. Compile time is no concern there.
UNROLLED = 4


class LoRAParam(nnx.Param):
    """A parameter of an adapter."""


class LoRAKey(nnx.Variable):
    """A random key of an adapter, for dropout; there only while an update is computed."""


class Linear(nnx.Module):
    """y = x W^T + b, with W [out, in] as torch keeps it, and what `lora.attach` adds to it."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        bias: bool,
        std: float,
        rngs: nnx.Rngs,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
    ):
        self.dtype = dtype
        self.weight = nnx.Param(_normal(rngs, (out_features, in_features), std, param_dtype))
        self.bias = nnx.Param(jnp.zeros(out_features, param_dtype)) if bias else None
        self.lora_A: LoRAParam | None = nnx.data(None)  # [rank, in]
        self.lora_B: LoRAParam | None = nnx.data(None)  # [out, rank]
        self.lora_key: LoRAKey | None = nnx.data(None)
        self.lora_scale = 1.0
        self.lora_dropout = 0.0

    def __call__(self, x: Float[Array, "*b i"]) -> Float[Array, "*b o"]:
        return project([self], x)[0]

    def joins(self, rows: int) -> bool:
        """Whether its adapter's products go into its own for an input of so many rows, see `times_adapted`."""
        # Not for few rows a device, which save less than it takes, other inputs, weights in parts.
        few = rows < min(self.weight.shape) * batch_ways()
        return self.lora_A is not None and not (few or self.lora_key is not None or cuts_weights())

    def factors(self) -> tuple[Float[Array, "o i"], Float[Array, "r i"], Float[Array, "o r"]]:
        """(W, A, scaled B) as they are computed with."""
        up = self.lora_B[...] * self.lora_scale
        return tuple(x.astype(self.dtype) for x in (self.weight[...], self.lora_A[...], up))

    def apart(self, x: Float[Array, "*b i"]) -> Float[Array, "*b o"]:
        """Without bias, and the adapter's products by themselves."""
        if self.lora_A is None:
            return times(x, self.weight[...].astype(self.dtype))
        weight, low, up = self.factors()
        return times(x, weight) + times(times(self._drop(x), low), up)

    def _drop(self, x: Float[Array, "*b i"]) -> Float[Array, "*b i"]:
        if self.lora_key is None:
            return x
        kept = jax.random.bernoulli(self.lora_key[...], 1.0 - self.lora_dropout, x.shape)
        return jnp.where(kept, x / (1.0 - self.lora_dropout), 0)


def project(layers: Sequence[Linear], x: Float[Array, "*b i"]) -> list[Float[Array, "*b o"]]:
    """What several layers make of one input, adapters of those that widen it together, and those of the others."""
    x = x.astype(layers[0].dtype)
    made: dict[int, Array] = {}
    alike: dict[bool, list[int]] = {True: [], False: []}
    for number, layer in enumerate(layers):
        if layer.joins(x.size // x.shape[-1]):
            outputs, inputs = layer.weight.shape
            alike[outputs > inputs].append(number)
        else:
            made[number] = layer.apart(x)
    for numbers in filter(None, alike.values()):
        factors = zip(*(layers[number].factors() for number in numbers), strict=True)
        made |= zip(numbers, times_adapted(x, *factors), strict=True)
    biases = [None if layer.bias is None else layer.bias[...].astype(layer.dtype) for layer in layers]
    return [made[i] if bias is None else made[i] + bias for i, bias in enumerate(biases)]


class Embedding(nnx.Module):
    """A row per token, and the same rows as unembedding where they are tied."""

    def __init__(
        self,
        vocab_size: int,
        hidden_size: int,
        *,
        std: float,
        rngs: nnx.Rngs,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
    ):
        self.dtype = dtype
        self.weight = nnx.Param(_normal(rngs, (vocab_size, hidden_size), std, param_dtype))

    def __call__(self, tokens: Int[Array, "*b"]) -> Float[Array, "*b d"]:
        return jnp.take(self.weight[...], tokens, axis=0).astype(self.dtype)

    def attend(self, hidden: Float[Array, "*b d"]) -> Float[Array, "*b v"]:
        """Logits in float32: the products' own accumulator, never rounded to `dtype`."""
        return times(hidden.astype(self.dtype), self.weight[...].astype(self.dtype), jnp.float32)


class RMSNorm(nnx.Module):
    """x / rms(x) in float32, rounded to the input's dtype before it is scaled (as `Qwen2VLRMSNorm`).

    With `unit_offset` it is scaled by 1 + weight, and rounded after that (as `Gemma3RMSNorm`).
    """

    def __init__(self, size: int, *, eps: float, unit_offset: bool = False, param_dtype: DTypeLike = jnp.float32):
        self.eps = eps
        self.unit_offset = unit_offset
        self.weight = nnx.Param(jnp.zeros(size, param_dtype) if unit_offset else jnp.ones(size, param_dtype))

    def __call__(self, x: Float[Array, "*b d"]) -> Float[Array, "*b d"]:
        x32 = x.astype(jnp.float32)
        x32 = x32 * jax.lax.rsqrt(jnp.mean(jnp.square(x32), axis=-1, keepdims=True) + self.eps)
        if self.unit_offset:
            return (x32 * (1.0 + self.weight[...].astype(jnp.float32))).astype(x.dtype)
        return self.weight[...].astype(x.dtype) * x32.astype(x.dtype)


class LayerNorm(nnx.Module):
    """LayerNorm computed in float32, the result in the input's dtype (as torch's)."""

    def __init__(self, size: int, *, eps: float, param_dtype: DTypeLike = jnp.float32):
        self.eps = eps
        self.weight = nnx.Param(jnp.ones(size, param_dtype))
        self.bias = nnx.Param(jnp.zeros(size, param_dtype))

    def __call__(self, x: Float[Array, "*b d"]) -> Float[Array, "*b d"]:
        x32 = x.astype(jnp.float32)
        x32 = x32 - jnp.mean(x32, axis=-1, keepdims=True)
        x32 = x32 * jax.lax.rsqrt(jnp.mean(jnp.square(x32), axis=-1, keepdims=True) + self.eps)
        y = x32 * self.weight[...].astype(jnp.float32) + self.bias[...].astype(jnp.float32)
        return y.astype(x.dtype)


def quick_gelu(x: Float[Array, "*b"]) -> Float[Array, "*b"]:
    """x sigmoid(1.702 x), the approximation of CLIP and of Qwen2-VL's vision tower."""
    return x * jax.nn.sigmoid(1.702 * x)


def gated(
    activation: Callable[[Float[Array, "*b f"]], Float[Array, "*b f"]],
    gate: Float[Array, "*b f"],
    up: Float[Array, "*b f"],
) -> Float[Array, "*b f"]:
    """activation(gate) * up, in float32 and rounded once. Only the two factors are kept for the backward pass."""
    return _gated(activation, gate, up)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _gated(activation, gate, up):
    return (activation(gate.astype(jnp.float32)) * up.astype(jnp.float32)).astype(gate.dtype)


def _gated_forward(activation, gate, up):
    return _gated(activation, gate, up), (gate, up)


def _gated_backward(activation, kept, gradient):
    # The barrier is for a GPU: both derivatives come out of one kernel, which reads each factor once, only where
    # the compiler does not see the products before it.
    gate, up, gradient = jax.lax.optimization_barrier((*kept, gradient))
    _, pull_back = jax.vjp(partial(_gated.fun, activation), gate, up)
    return pull_back(gradient)


_gated.defvjp(_gated_forward, _gated_backward)


def stack(make: Callable[[nnx.Rngs], nnx.Module], count: int, rngs: nnx.Rngs) -> nnx.Module:
    """`count` layers as one module whose parameters have a leading layer axis, each drawn with its own key."""

    @nnx.split_rngs(splits=count)
    @nnx.vmap(in_axes=(0,), out_axes=0)
    def build(rngs):
        return make(rngs)

    return build(rngs)


def unstack(stacked: nnx.Module, dtype: DTypeLike | None = None) -> tuple[nnx.State, ...]:
    """The layers of a stack apart, their parameters cast to `dtype` (None = as they are)."""
    state = nnx.state(stacked)
    count = jax.tree.leaves(state)[0].shape[0]
    state = jax.tree.map(lambda x: x if dtype is None else x.astype(dtype), state)
    return tuple(jax.tree.map(partial(_row, number), state) for number in range(count))


def scan_stack(
    stacked: nnx.Module,
    step: Callable[[Any, Any, Any], tuple[Any, Any]],
    carry: Any,
    xs: Any = None,
    *,
    remat: Remat = "none",
    unroll: bool = False,
    last: Callable[[Any, Any, Any], tuple[Any, Any]] | None = None,
) -> tuple[Any, Any]:
    """Runs a stack of layers one after another, scanned, or unrolled if there are no more than `UNROLLED`.

    On a mesh the carry's rows stay on their devices and a layer's weights come to them. (Left to the compiler,
    rows are on all devices of the fsdp axis, and sums over each device's part of a weight go round.)

    Args:
      stacked: a module made by `stack`.
      step: (layer, carry, x) -> (carry, y), for one layer.
      carry: what goes from layer to layer, leaves [B, ...].
      xs: per-layer inputs, leaves [L, ...].
      remat: what the backward pass recomputes: "none" stores every intermediate, "dots" only the results
        of products with weights, "full" only the carry.
      unroll: writes the layers out instead of looping over them. A loop copies each layer's weights out of the
        stack, and what is kept for the backward pass in and out of another; but it compiles once for all.
      last: takes the place of `step` in the last layer of a stack that is unrolled; what it gives may be a part
        of what `step` would. None = `step`.

    Returns:
      (carry, ys), leaves of ys [L, ...].

    Raises:
      ValueError: an unknown `remat`.
    """
    graphdef, params = nnx.split(stacked)
    count = jax.tree.leaves(params)[0].shape[0]
    unroll |= count <= UNROLLED and remat == "none"  # in a loop, recomputing is sure to save memory
    # Outside a loop the compiler would find the first computation again and keep its results.
    options = {"prevent_cse": unroll}
    if remat == "dots":
        # "no batch dims": attention scores are products too, but of size S^2, and cheap to compute again
        options["policy"] = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
    elif remat not in ("none", "full"):
        raise ValueError(f"remat is {remat!r}; accepted: 'none', 'dots', 'full'")

    def body(step):
        def run(carry, inputs):
            params, x = inputs
            return step(nnx.merge(graphdef, params), shard_batch(carry), x)

        return run if remat == "none" else jax.checkpoint(run, **options)

    if not unroll:
        return jax.lax.scan(body(step), carry, (params, xs))
    # Inside jit, layers that are alike are traced and differentiated once; the compiler writes them out.
    each, ys = jax.jit(body(step)), []
    for number in range(count):
        inputs = jax.tree.map(partial(_row, number), (params, xs))
        carry, y = (body(last) if last and number == count - 1 else each)(carry, inputs)
        ys.append(y)
    return carry, jax.tree.map(lambda *leaves: jnp.stack(leaves), *ys)


def _row(number: int, x: Array) -> Array:
    """x[number], traced in a fraction of the time."""
    return jax.lax.index_in_dim(x, number, keepdims=False)


def _normal(rngs: nnx.Rngs, shape: tuple[int, ...], std: float, dtype: DTypeLike) -> Array:
    return jax.random.normal(rngs.params(), shape, dtype) * jnp.asarray(std, dtype)
