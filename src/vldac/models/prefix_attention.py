"""Attention of many queries a lane over a prefix that all lanes share, and over the lane's own slots: GPU kernels
(Pallas, Triton) with their derivatives, for the training pass and for reading a prompt.

* A general kernel is not told what is known here. Every query sees all of the prefix, so that nothing is masked
  there, its keys and values are read where they lie and not copied for each lane, and their derivatives are summed
  over the lanes where they arise. Of a lane's own slots only blocks of which something is seen are gone through.
* Heads that share a key are rows of one product: row r is slot r mod S of head r div S.
* Which own slots are seen is a bit each, 32 to a word: for any mask, at an eighth of its bytes.
* Scores are never written. The backward pass makes them again from the logarithm of each row's sum of weights:
  once for the queries' derivatives, once for a lane's own keys and values, once for the prefix's.
* Scores, and logarithms, are to the base of 2, as the hardware's exponential wants them.

After FlashAttention-2 (Dao, arXiv 2307.08691).
"""

from __future__ import annotations

import math
from functools import partial

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
from jaxtyping import Array, Bool, Float

BLOCK = 64  # queries, and slots, of a product; slots are two words of bits
_WORD = 32
_PROGRAMS = 132  # that share the prefix's derivatives, about: processors of a large device
_NEVER = 1e30  # logarithm of the sum of a row that is none: all its weights are 0
_MASKED = -1e30
_LOG2_E = math.log2(math.e)

Queries = Float[Array, "b s n d"]
Slots = Float[Array, "b k t d"]
Shared = Float[Array, "1 k p d"]


def fits(head_dim: int) -> bool:
    """Whether this GPU has the shared memory that blocks of such heads need: 160 KiB for 128, as an A100 has."""
    return head_dim in (64, 128) and jax.local_devices()[0].shared_memory_per_block_optin >= 1280 * head_dim


def prefix_attend(
    query: Queries,
    key: Slots,
    value: Slots,
    mask: Bool[Array, "b s t"],
    prefix: tuple[Shared, Shared],
    scale: float | None = None,
    interpret: bool = False,
) -> Queries:
    """As `attention.attend` with a prefix all of which is seen, for a D that is a power of two. Differentiable.

    Args:
      interpret: runs the kernels' bodies as ordinary operations, on any device, slowly.
    """
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    key, value = key.swapaxes(1, 2), value.swapaxes(1, 2)  # as a layer's products make them: [B, T, K, D]
    plan = _plan(mask, query.shape[2] // key.shape[2])
    return _attend(query, key, value, prefix[0][0], prefix[1][0], plan, scale, interpret)


def _plan(mask, group):
    """What the kernels are told of the mask; worked example: causal, one head, S = T = 2 BLOCK.

    Args:
      mask: bool[B, S, T].
      group: heads that share a key.

    Returns:
      bits: int32[B, W, S], which of the slots 32 w ... 32 w + 31 each query sees; W even.
        Of the first query 1, 0, 0, 0; of the third 7, 0, 0, 0.
      last: int32[B, blocks of rows], how many blocks of slots there are up to the last that one of these rows
        sees: [1 2].
      first: int32[B, blocks of slots], the first block of queries one of which sees one of these slots: [0 1].
    """
    batch, slots, keys = mask.shape
    mask = jnp.pad(mask, ((0, 0), (0, 0), (0, -keys % BLOCK)))
    words = mask.reshape(batch, slots, -1, _WORD).astype(jnp.uint32) << jnp.arange(_WORD, dtype=jnp.uint32)
    bits = jax.lax.bitcast_convert_type(words.sum(axis=-1, dtype=jnp.uint32), jnp.int32).swapaxes(1, 2)

    seen = mask.reshape(batch, slots, -1, BLOCK).any(axis=-1)  # [B, S, blocks of slots]
    up_to = jnp.where(seen, jnp.arange(1, seen.shape[2] + 1), 0).max(axis=2)
    up_to = jnp.tile(up_to, (1, group))
    up_to = jnp.pad(up_to, ((0, 0), (0, -up_to.shape[1] % BLOCK)))
    last = up_to.reshape(batch, -1, BLOCK).max(axis=2)
    first = jnp.where(seen.any(axis=1), jnp.argmax(seen, axis=1) // BLOCK, pl.cdiv(slots, BLOCK))
    return bits, last.astype(jnp.int32), first.astype(jnp.int32)


@partial(jax.custom_vjp, nondiff_argnums=(6, 7))
def _attend(query, key, value, shared_key, shared_value, plan, scale, interpret):
    return _forward(query, key, value, shared_key, shared_value, plan, scale, interpret)[0]


def _forward(query, key, value, shared_key, shared_value, plan, scale, interpret):
    by_rows = _ByRows(query, key, shared_key, plan)
    arrays = query, key, value, shared_key, shared_value
    out, log_sum = pl.pallas_call(
        partial(_out_kernel, **_numbers(scale, interpret)),
        grid=by_rows.grid,
        in_specs=by_rows.inputs,
        out_specs=[by_rows.queries, by_rows.sums],
        out_shape=[jax.ShapeDtypeStruct(query.shape, query.dtype), by_rows.sums_shape],
        compiler_params=triton.CompilerParams(num_warps=4, num_stages=2),
        interpret=interpret,
        name="prefix_attention",
    )(*arrays, *plan[:2])
    return out, (*arrays, plan, out, log_sum)


def _backward(scale, interpret, kept, d_out):
    query, key, value, shared_key, shared_value, plan, out, log_sum = kept
    bits, last, first = plan
    batch, slots, heads, width = query.shape
    kv_heads, group = key.shape[2], heads // key.shape[2]
    call = partial(pl.pallas_call, interpret=interpret)
    numbers = _numbers(scale, interpret)

    by_rows = _ByRows(query, key, shared_key, plan)
    d_query, delta = call(
        partial(_query_kernel, **numbers),
        grid=by_rows.grid,
        in_specs=[*by_rows.inputs, by_rows.queries, by_rows.queries, by_rows.sums],
        out_specs=[by_rows.queries, by_rows.sums],
        out_shape=[jax.ShapeDtypeStruct(query.shape, query.dtype), by_rows.sums_shape],
        compiler_params=triton.CompilerParams(num_warps=4, num_stages=2),
        name="prefix_attention_query",
    )(query, key, value, shared_key, shared_value, bits, last, out, d_out, log_sum)

    queries, sums, own = by_rows.queries, by_rows.sums, by_rows.own
    d_key, d_value = call(
        partial(_own_kernel, **numbers),
        grid=(first.shape[1], kv_heads, batch),
        in_specs=[
            own,
            own,
            *(queries, queries, sums, sums),
            by_rows.bits,
            by_rows.of_block,
        ],
        out_specs=[own, own],
        out_shape=[jax.ShapeDtypeStruct(x.shape, x.dtype) for x in (key, value)],
        compiler_params=triton.CompilerParams(num_warps=4, num_stages=2),
        name="prefix_attention_own",
    )(key, value, query, d_out, log_sum, delta, bits, first)

    # The queries of all lanes after one another, shared out to as many programs as the device has room for.
    blocks = pl.cdiv(shared_key.shape[1], BLOCK)
    parts = max(1, _PROGRAMS // (kv_heads * blocks))
    queries = pl.BlockSpec((batch * slots, group, width), lambda part, block, k: (0, k, 0))
    sums = pl.BlockSpec((group, batch * slots), lambda part, block, k: (k, 0))
    shared = pl.BlockSpec((None, *shared_key.shape[1:]), lambda part, block, k: (k, 0, 0))
    part = pl.BlockSpec((None, None, *shared_key.shape[1:]), lambda part, block, k: (part, k, 0, 0))
    part_shape = jax.ShapeDtypeStruct((parts, *shared_key.shape), jnp.float32)
    d_shared = call(
        partial(_shared_kernel, **numbers),
        grid=(parts, blocks, kv_heads),
        in_specs=[shared, shared, queries, queries, sums, sums],
        out_specs=[part, part],
        out_shape=[part_shape, part_shape],
        compiler_params=triton.CompilerParams(num_warps=4, num_stages=3),
        name="prefix_attention_shared",
    )(
        shared_key,
        shared_value,
        *(x.reshape(batch * slots, heads, width) for x in (query, d_out)),
        *(x.reshape(heads, batch * slots) for x in (log_sum, delta)),
    )
    d_shared = (x.sum(axis=0).astype(shared_key.dtype) for x in d_shared)
    return d_query, d_key, d_value, *d_shared, None


_attend.defvjp(_forward, _backward)


class _ByRows:
    """Grid and blocks of a kernel each program of which takes BLOCK rows of a lane and a key's head.

    Attributes:
      inputs: of query, key, value, the prefix's keys and values, `bits` and `last`.
      queries, own, bits: of [B, S, N, D], [B, T, K, D] and [B, W, S], what is a lane's and a key's.
      of_block: of [B, blocks], the block's number.
      sums, sums_shape: of float32[N, B, S], a number for each row.
    """

    def __init__(self, query, key, shared_key, plan):
        batch, slots, heads, width = query.shape
        keys, kv_heads = key.shape[1:3]
        bits, last, _ = plan
        group = heads // kv_heads
        self.grid = (last.shape[1], kv_heads, batch)
        self.queries = pl.BlockSpec((None, slots, group, width), lambda block, k, b: (b, 0, k, 0))
        self.sums = pl.BlockSpec((group, None, slots), lambda block, k, b: (k, b, 0))
        self.sums_shape = jax.ShapeDtypeStruct((heads, batch, slots), jnp.float32)
        self.own = pl.BlockSpec((None, keys, None, width), lambda block, k, b: (b, 0, k, 0))
        self.bits = pl.BlockSpec((None, *bits.shape[1:]), lambda block, k, b: (b, 0, 0))
        self.of_block = pl.BlockSpec((None, None), lambda block, k, b: (b, block))
        shared = pl.BlockSpec((None, *shared_key.shape[1:]), lambda block, k, b: (k, 0, 0))
        self.inputs = [self.queries, self.own, self.own, shared, shared, self.bits, self.of_block]


def _numbers(scale, interpret):
    return {"scale": scale, "exp2": jnp.exp2 if interpret else _exp2}


def _exp2(x):
    """The hardware's own instruction: JAX's takes three more for results below 1e-38, which are 0 here."""
    (result,) = triton.elementwise_inline_asm(
        "ex2.approx.ftz.f32 $0, $1;",
        args=[x],
        constraints="=f,f",
        pack=1,
        result_shape_dtypes=[jax.ShapeDtypeStruct(x.shape, x.dtype)],
    )
    return result


def _out_kernel(q_ref, key_ref, value_ref, shared_key_ref, shared_value_ref, *refs, scale, exp2):
    bits_ref, last_ref, out_ref, log_sum_ref = refs
    rows = _rows(q_ref)
    q = _load(q_ref, rows)

    def step(key, value, visible, state):
        sums, peak, total = state
        scores = triton.dot(q, key.T)
        if visible is not None:
            scores = jnp.where(visible, scores, _MASKED)
        new_peak = jnp.maximum(peak, scores.max(axis=1) * (scale * _LOG2_E))
        shrink = exp2(peak - new_peak)
        weights = exp2(scores * (scale * _LOG2_E) - new_peak[:, None])
        weighted = triton.dot(weights.astype(value.dtype), value)
        return sums * shrink[:, None] + weighted, new_peak, total * shrink + weights.sum(axis=1)

    nothing = jnp.zeros(q.shape, jnp.float32), jnp.full(BLOCK, _MASKED), jnp.zeros(BLOCK, jnp.float32)
    state = _through_shared(step, shared_key_ref, shared_value_ref, nothing)
    sums, peak, total = _through_own(step, key_ref, value_ref, bits_ref, last_ref, rows, state)
    _store(out_ref, rows, sums / total[:, None])
    _store(log_sum_ref, rows, peak + jnp.log2(total))


def _query_kernel(q_ref, key_ref, value_ref, shared_key_ref, shared_value_ref, *refs, scale, exp2):
    bits_ref, last_ref, out_ref, d_out_ref, log_sum_ref, d_query_ref, delta_ref = refs
    rows = _rows(q_ref)
    q, d_out, log_sum = _load(q_ref, rows), _load(d_out_ref, rows), _load(log_sum_ref, rows, _NEVER)
    delta = (_load(out_ref, rows).astype(jnp.float32) * d_out.astype(jnp.float32)).sum(axis=1)
    _store(delta_ref, rows, delta)

    def step(key, value, visible, d_query):
        weights = exp2(triton.dot(q, key.T) * (scale * _LOG2_E) - log_sum[:, None])
        if visible is not None:
            weights = jnp.where(visible, weights, 0.0)
        d_scores = weights * (triton.dot(d_out, value.T) - delta[:, None])
        return d_query + triton.dot(d_scores.astype(key.dtype), key)

    d_query = _through_shared(step, shared_key_ref, shared_value_ref, jnp.zeros(q.shape, jnp.float32))
    d_query = _through_own(step, key_ref, value_ref, bits_ref, last_ref, rows, d_query)
    _store(d_query_ref, rows, d_query * scale)


def _rows(ref):
    """(slot, head, whether there is one) of this program's rows.

    Worked example, 3 slots and 2 heads: row 4 is slot 1 of head 1, and rows from 6 on are none.
    """
    slots, group, _ = ref.shape
    row = pl.program_id(0) * BLOCK + jnp.arange(BLOCK)
    return jax.lax.rem(row, slots), jax.lax.div(row, slots), row < slots * group


def _load(ref, rows, other=0.0):
    """Of a ref [S, G, D] or [G, S] what belongs to the rows."""
    place, there = _place(ref, rows)
    return triton.load(place, mask=there, other=other)


def _store(ref, rows, values):
    place, there = _place(ref, rows)
    triton.store(place, values.astype(ref.dtype), mask=there)


def _place(ref, rows):
    slot, head, there = rows
    if len(ref.shape) == 2:
        return ref.at[head, slot], there
    return ref.at[slot[:, None], head[:, None], jnp.arange(ref.shape[2])[None, :]], there[:, None]


def _through_shared(step, key_ref, value_ref, state):
    """The state after the prefix; only its last block may have slots that are none, and be masked for them."""

    def block(number, state, whole):
        (key, there), (value, _) = _block(key_ref, number), _block(value_ref, number)
        return step(key, value, None if whole else there[None, :], state)

    whole, rest = divmod(key_ref.shape[0], BLOCK)
    state = jax.lax.fori_loop(0, whole, partial(block, whole=True), state)
    return jax.lax.fori_loop(whole, whole + 1, partial(block, whole=False), state) if rest else state


def _through_own(step, key_ref, value_ref, bits_ref, last_ref, rows, state):
    """The state after a lane's own slots, as far as one of the rows sees them."""
    slot, _, there = rows

    def block(number, state):
        (key, _), (value, _) = _block(key_ref, number), _block(value_ref, number)
        low, high = (triton.load(bits_ref.at[2 * number + half, slot], mask=there, other=0) for half in (0, 1))
        return step(key, value, _bits(low[:, None], high[:, None], jnp.arange(BLOCK)[None, :]), state)

    return jax.lax.fori_loop(0, last_ref[...], block, state)


def _own_kernel(key_ref, value_ref, *refs, scale, exp2):
    """A block of a lane's own slots, over the queries of every head from the first block on that sees it."""
    *query_refs, bits_ref, first_ref, d_key_ref, d_value_ref = refs
    slots, group, _ = query_refs[0].shape
    number, first = pl.program_id(0), first_ref[...]
    blocks = pl.cdiv(slots, BLOCK) - first
    (key, there), (value, _) = _block(key_ref, number), _block(value_ref, number)

    def step(turn, sums):
        head, at = jax.lax.div(turn, blocks), (first + jax.lax.rem(turn, blocks)) * BLOCK
        here, present = pl.ds(at, BLOCK), at + jnp.arange(BLOCK) < slots
        low, high = (triton.load(bits_ref.at[2 * number + half, here], mask=present, other=0) for half in (0, 1))
        visible = _bits(low[None, :], high[None, :], jnp.arange(BLOCK)[:, None])
        return _collect(sums, key, value, query_refs, head, at, visible, scale, exp2)

    d_key, d_value = jax.lax.fori_loop(0, group * blocks, step, _no_sums(key))
    _put(d_key_ref, number, there, d_key * scale)
    _put(d_value_ref, number, there, d_value)


def _shared_kernel(key_ref, value_ref, *refs, scale, exp2):
    """A block of the prefix, over this program's part of all lanes' queries, of every head."""
    *query_refs, d_key_ref, d_value_ref = refs
    queries, group, _ = query_refs[0].shape
    part, number = pl.program_id(0), pl.program_id(1)
    blocks = pl.cdiv(pl.cdiv(queries, BLOCK), pl.num_programs(0))
    (key, there), (value, _) = _block(key_ref, number), _block(value_ref, number)

    def step(turn, sums):
        head, at = jax.lax.div(turn, blocks), (part * blocks + jax.lax.rem(turn, blocks)) * BLOCK
        return _collect(sums, key, value, query_refs, head, at, None, scale, exp2)

    d_key, d_value = jax.lax.fori_loop(0, group * blocks, step, _no_sums(key))
    _put(d_key_ref, number, there, d_key * scale)
    _put(d_value_ref, number, there, d_value)


def _collect(sums, key, value, query_refs, head, at, visible, scale, exp2):
    """Derivatives of a block of keys and values, with what the queries at ... at + BLOCK - 1 of a head bring.

    Scores are [slots, queries] here, so that what goes into a product has not to be turned.
    """
    d_key, d_value = sums
    q_ref, d_out_ref, log_sum_ref, delta_ref = query_refs
    here, there = pl.ds(at, BLOCK), at + jnp.arange(BLOCK) < q_ref.shape[0]
    q, d_out = (triton.load(ref.at[here, head, :], mask=there[:, None], other=0.0) for ref in (q_ref, d_out_ref))
    log_sum = triton.load(log_sum_ref.at[head, here], mask=there, other=_NEVER)
    delta = triton.load(delta_ref.at[head, here], mask=there, other=0.0)
    weights = exp2(triton.dot(key, q.T) * (scale * _LOG2_E) - log_sum[None, :])
    if visible is not None:
        weights = jnp.where(visible, weights, 0.0)
    d_scores = weights * (triton.dot(value, d_out.T) - delta[None, :])
    d_key += triton.dot(d_scores.astype(q.dtype), q)
    d_value += triton.dot(weights.astype(d_out.dtype), d_out)
    return d_key, d_value


def _no_sums(key):
    return jnp.zeros(key.shape, jnp.float32), jnp.zeros(key.shape, jnp.float32)


def _put(ref, number, there, values):
    triton.store(ref.at[pl.ds(number * BLOCK, BLOCK), :], values.astype(ref.dtype), mask=there[:, None])


def _block(ref, number):
    """(values, which there are) of one block of slots of a ref [T, D]; what is not there is 0."""
    there = number * BLOCK + jnp.arange(BLOCK) < ref.shape[0]
    return triton.load(ref.at[pl.ds(number * BLOCK, BLOCK), :], mask=there[:, None], other=0.0), there


def _bits(low, high, slot):
    """Whether the slots of a block are seen, by its two words; all three of one shape, or broadcast to it."""
    word = jnp.where(slot < _WORD, low, high)
    shift = jnp.broadcast_to(slot & (_WORD - 1), word.shape)
    return jax.lax.shift_right_logical(word, shift) & 1 != 0
