"""Linear, embedding and normalisation layers, activations, and stacks of layers.

* A weight has the shape of its Hugging Face counterpart ([out, in]), so that loading is a rename. XLA contracts
  either axis equally fast.
* Parameters are kept in `param_dtype` and used in `dtype`; norms are computed in float32 whatever that is.
* A layer is written for itself; `stack` gives its parameters a leading layer axis, for `lax.scan`. A short stack
  is unrolled.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, DTypeLike, Float, Int

from vldac.mesh import batch_ways, cuts_weights, shard_batch

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
        x = x.astype(self.dtype)
        weight = self.weight[...].astype(self.dtype)
        if self.lora_A is None:
            y = times(x, weight)
        else:
            low = self.lora_A[...].astype(self.dtype)
            up = (self.lora_B[...] * self.lora_scale).astype(self.dtype)
            # Not joined: few rows a device, which save less than it takes; other inputs; weights in parts.
            few = x.size // x.shape[-1] < min(weight.shape) * batch_ways()
            if few or self.lora_key is not None or cuts_weights():
                y = times(x, weight) + times(times(self._drop(x), low), up)
            else:
                y = times_adapted(x, weight, low, up)
        return y if self.bias is None else y + self.bias[...].astype(self.dtype)

    def _drop(self, x: Float[Array, "*b i"]) -> Float[Array, "*b i"]:
        if self.lora_key is None:
            return x
        kept = jax.random.bernoulli(self.lora_key[...], 1.0 - self.lora_dropout, x.shape)
        return jnp.where(kept, x / (1.0 - self.lora_dropout), 0)


def times(
    x: Float[Array, "*b i"], weight: Float[Array, "o i"], dtype: DTypeLike | None = None
) -> Float[Array, "*b o"]:
    """x W^T, as a product of two matrices; the result in `dtype`, None = that of the factors.

    With more axes it is the same number; but its derivative by the weight would sum over several axes, for which a
    CPU first turns both factors around, which takes as long as the product.
    """
    y = jnp.einsum("ni,oi->no", x.reshape(-1, x.shape[-1]), weight, preferred_element_type=dtype)
    return y.reshape(*x.shape[:-1], -1)


def times_adapted(
    x: Float[Array, "*b i"], weight: Float[Array, "o i"], low: Float[Array, "r i"], up: Float[Array, "o r"]
) -> Float[Array, "*b o"]:
    """x W^T + (x A^T) B^T, with A = `low` and B = `up`, as few passes over what is wide as there can be.

    A product with B is narrow work and a wide result, which then has to be added: in a large model's update that
    takes a tenth of the time. So whichever of input and output is wider is written, or read, by one product:

        out > in:   y  = [x | x A^T] [W | B]^T           the sum is the product's own
        in >= out:  dx = [dy | dy B] [W above A]         and x A^T comes with x W^T
    """
    return _times_adapted(x.reshape(-1, x.shape[-1]), weight, low, up).reshape(*x.shape[:-1], -1)


@jax.custom_vjp
def _times_adapted(x, weight, low, up):
    return _adapted(x, weight, low, up)[0]


def _adapted(x, weight, low, up):
    """(y, x A^T)."""
    outputs, inputs = weight.shape
    if outputs > inputs:
        narrow = times(x, low)
        joined = jnp.concatenate([weight, up], axis=1)
        return times(jnp.concatenate([x, narrow], axis=1), joined), narrow
    both = times(x, jnp.concatenate([weight, low]))
    y, narrow = both[:, :outputs], both[:, outputs:]
    return y + times(narrow, up), narrow


def _adapted_forward(x, weight, low, up):
    learns_weight = weight.perturbed
    x, weight, low, up = (argument.value for argument in (x, weight, low, up))
    y, narrow = _adapted(x, weight, low, up)
    return y, (x, weight, low, up, narrow, (x,) if learns_weight else ())


def _adapted_backward(kept, gradient):
    x, weight, low, up, narrow, for_weight = kept
    outputs, inputs = weight.shape
    if outputs > inputs:
        both = gradient @ jnp.concatenate([weight, up], axis=1)
        into_x, into_narrow = both[:, :inputs], both[:, inputs:]
        into_x = into_x + into_narrow @ low
    else:
        into_narrow = gradient @ up
        into_x = jnp.concatenate([gradient, into_narrow], axis=1) @ jnp.concatenate([weight, low])

    def towards(y, x):
        return jnp.einsum("no,ni->oi", y, x)

    into_weight = towards(gradient, *for_weight) if for_weight else None  # frozen, as a rule
    return into_x, into_weight, towards(into_narrow, x), towards(gradient, narrow)


_times_adapted.defvjp(_adapted_forward, _adapted_backward, symbolic_zeros=True)


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
