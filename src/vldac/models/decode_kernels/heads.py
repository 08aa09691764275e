"""From the product that holds queries, keys and values: bias, adapters, rotary positions, and into the cache."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
from jaxtyping import Array, Float, Int

from vldac.models.decode_kernels.norm import load_inverse_rms

_LANES = 16  # rows of a program's product with B, as many as tensor cores want


def turn_heads(
    product: Float[Array, "b p"],
    squares: Float[Array, "b c"],
    bias: Float[Array, " w"] | None,
    lora_B: Float[Array, "r w"] | None,
    norms: Float[Array, "2 d"] | None,
    cos: Float[Array, "b h"],
    sin: Float[Array, "b h"],
    key: Float[Array, "b k s d"],
    value: Float[Array, "b k s d"],
    index: Int[Array, "..."],
    width: int,
    eps: float,
    interpret: bool = False,
) -> tuple[Float[Array, "k q d"], Float[Array, "b k s d"], Float[Array, "b k s d"]]:
    """Finishes a token's queries, keys and values, and writes the latter two into the cache, in place.

    Args:
      product: [q | k | v | the three adapters' low-rank parts], as `fused.FusedLinear.product` gives it.
      squares: of the norm before the product, see `norm.add_norm`.
      bias: of q, k, v; None = none.
      lora_B: scaled and block-diagonal, [3 ranks, W]; None = no adapters.
      norms: weights of the RMSNorms of every head's query and key; None = no such norms.
      cos, sin: float32, of each lane's position.
      key, value: the cache of this layer; donated.
      index: int32[], the slot to write, or int32[B], each lane's own.
      width: that the norm before the product is over.
      eps: of the norms.
      interpret: as for `attention.decode_attend`.

    Returns:
      (query [K, B * N/K, D], a lane's heads of one key beside each other; key; value).
    """
    batch, kv_heads, slots, head_dim = key.shape
    columns = product.shape[1] - (0 if lora_B is None else len(lora_B))
    heads = columns // head_dim - 2 * kv_heads
    index = jnp.broadcast_to(index, (batch,)).astype(jnp.int32)
    optional = {"bias": bias, "adapter": lora_B, "norms": norms}
    optional = {name: x for name, x in optional.items() if x is not None}
    flat = (batch * kv_heads * slots, head_dim)
    outputs = [
        jax.ShapeDtypeStruct((batch * heads, head_dim), product.dtype),
        jax.ShapeDtypeStruct(flat, key.dtype),
        jax.ShapeDtypeStruct(flat, value.dtype),
    ]
    query, key, value = pl.pallas_call(
        partial(
            _kernel, heads=heads, kv_heads=kv_heads, slots=slots, hidden=width, eps=eps, names=tuple(optional)
        ),
        grid=(pl.cdiv(batch, _LANES), heads + 2 * kv_heads),
        out_shape=outputs,
        input_output_aliases={5: 1, 6: 2},
        compiler_params=triton.CompilerParams(num_warps=4, num_stages=2),
        interpret=interpret,
        name="decode_turn_heads",
    )(product, squares, cos, sin, index, key.reshape(flat), value.reshape(flat), *optional.values())
    shape = (batch, kv_heads, slots, head_dim)
    return query.reshape(kv_heads, -1, head_dim), key.reshape(shape), value.reshape(shape)


def _kernel(
    product_ref, squares_ref, cos_ref, sin_ref, index_ref, *refs, heads, kv_heads, slots, hidden, eps, names
):
    _, _, *optional, query_ref, key_ref, value_ref = refs  # the cache is written where it is read
    optional = dict(zip(names, optional, strict=True))
    width = query_ref.shape[1]
    half, columns = width // 2, (heads + 2 * kv_heads) * width
    batch, group = cos_ref.shape[0], heads // kv_heads
    lane, head = pl.program_id(0) * _LANES, pl.program_id(1)
    rows, lanes = pl.ds(lane, _LANES), lane + jnp.arange(_LANES)
    inverse = load_inverse_rms(squares_ref, rows, lanes < batch, hidden, eps)[:, None]
    there = (lanes < batch)[:, None]
    # Worked example, 2 heads of 1 key: head 0 and 1 are of part 0 (q), 2 of part 1 (k), 3 of part 2 (v).
    part = (head >= heads).astype(jnp.int32) + (head >= heads + kv_heads)

    def load(number):
        """One half of this head, rounded as what it is about to be."""
        here = pl.ds(head * width + number * half, half)
        y = triton.load(product_ref.at[rows, here], mask=there, other=0.0).astype(jnp.float32)
        if "adapter" in optional:
            adapter = optional["adapter"]
            rank = adapter.shape[0] // 3
            low = triton.load(product_ref.at[rows, pl.ds(columns + part * rank, rank)], mask=there, other=0.0)
            y += triton.dot(low, adapter[pl.ds(part * rank, rank), here])
        y *= inverse
        if "bias" in optional:
            y += optional["bias"][here].astype(jnp.float32)[None, :]
        return y.astype(product_ref.dtype).astype(jnp.float32)

    first, second = load(0), load(1)
    halves = first, second
    if "norms" in optional:
        mean = ((first * first).sum(axis=1) + (second * second).sum(axis=1)) / width
        shrink = jax.lax.rsqrt(mean + eps)[:, None]
        halves = tuple(
            weight.astype(jnp.float32)[None, :] * (x * shrink).astype(product_ref.dtype).astype(jnp.float32)
            for number, x in enumerate(halves)
            for weight in [optional["norms"][jnp.minimum(part, 1), pl.ds(number * half, half)]]
        )
    a, b = halves
    cos = triton.load(cos_ref.at[rows, :], mask=there, other=0.0)
    sin = triton.load(sin_ref.at[rows, :], mask=there, other=0.0)
    turned = a * cos - b * sin, b * cos + a * sin

    def store(ref, at, halves):
        for number, values in enumerate(halves):
            place = ref.at[at[:, None], number * half + jnp.arange(half)[None, :]]
            triton.store(place, values.astype(ref.dtype), mask=there)

    slot = triton.load(index_ref.at[rows], mask=lanes < batch, other=0)

    @pl.when(head < heads)
    def _():
        store(query_ref, (head // group * batch + lanes) * group + head % group, turned)

    @pl.when((head >= heads) & (head < heads + kv_heads))
    def _():
        store(key_ref, (lanes * kv_heads + head - heads) * slots + slot, turned)

    @pl.when(head >= heads + kv_heads)
    def _():
        store(value_ref, (lanes * kv_heads + head - heads - kv_heads) * slots + slot, (first, second))
