"""Attention of one new token a lane, as two GPU kernels (Pallas, Triton): what decoding spends its time on.

* A lane's keys and values are read once, and only as far as they are filled; scores stay in registers.
* The prefix that all lanes share is gone through first, many queries at a time, so that it is read a few times and
  not once a lane. What it leaves (weighted sum, largest score, sum of weights) is where a lane's own part begins.
* Heads that share a key are rows of one product, padded to the 16 rows that tensor cores want.

After FlashAttention-2 (Dao, arXiv 2307.08691): one pass, with a running maximum.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
from jaxtyping import Array, Bool, Float

BLOCK = 64  # slots gone through at a time
_ROWS = 16  # of a product of tensor cores, at least
_TOGETHER = 64  # queries that go through the prefix together
_MASKED = -1e30


def decode_attend(
    query: Float[Array, "k q d"],
    key: Float[Array, "b k t d"],
    value: Float[Array, "b k t d"],
    seen: Bool[Array, "b t"],
    prefix: tuple[Float[Array, "1 k p d"], Float[Array, "1 k p d"]] | None = None,
    scale: float | None = None,
    interpret: bool = False,
) -> Float[Array, "b n d"]:
    """As `attention.attend` for a single query slot whose lane has at least one slot to see.

    Args:
      query: of N heads, as `heads.turn_heads` gives it: [K, B * N/K, D].
      seen: which of a lane's slots it sees.
      interpret: runs the kernels' bodies as ordinary operations, on any device, slowly.
    """
    batch, kv_heads, slots, width = key.shape
    queries = query.shape[1]
    group = queries // batch
    scale = width**-0.5 if scale is None else scale
    call = partial(pl.pallas_call, interpret=interpret)
    options = triton.CompilerParams(num_warps=4, num_stages=3)

    state = ()
    if prefix is not None:
        sums = jax.ShapeDtypeStruct((kv_heads, queries), jnp.float32)
        whole = pl.BlockSpec((None, *query.shape[1:]), lambda k, _: (k, 0, 0))
        of_row = pl.BlockSpec((None, queries), lambda k, _: (k, 0))
        shared = pl.BlockSpec((None, None, *prefix[0].shape[2:]), lambda k, _: (0, k, 0, 0))
        state = call(
            partial(_prefix_kernel, scale=scale),
            grid=(kv_heads, pl.cdiv(queries, _TOGETHER)),
            in_specs=[whole, shared, shared],
            out_specs=[whole, of_row, of_row],
            out_shape=[jax.ShapeDtypeStruct(query.shape, jnp.float32), sums, sums],
            compiler_params=options,
            name="decode_attention_prefix",
        )(query, *prefix)

    of_key = pl.BlockSpec((None, *query.shape[1:]), lambda lane, k: (k, 0, 0))
    of_row = pl.BlockSpec((None, queries), lambda lane, k: (k, 0))
    own = pl.BlockSpec((None, None, slots, width), lambda lane, k: (lane, k, 0, 0))
    filled = slots - jnp.argmax(seen[:, ::-1], axis=1)  # slots behind the last that is seen are never read
    return call(
        partial(_own_kernel, scale=scale, group=group),
        grid=(batch, kv_heads),
        in_specs=[
            of_key,
            own,
            own,
            pl.BlockSpec((None, slots), lambda lane, k: (lane, 0)),
            pl.BlockSpec((None,), lambda lane, k: (lane,)),
            *[of_key, of_row, of_row][: len(state)],
        ],
        out_shape=jax.ShapeDtypeStruct((batch * kv_heads * group, width), query.dtype),
        compiler_params=options,
        name="decode_attention_own",
    )(query, key, value, seen.astype(jnp.int32), filled.astype(jnp.int32), *state).reshape(batch, -1, width)


def _prefix_kernel(q_ref, key_ref, value_ref, *state_refs, scale):
    queries, width = q_ref.shape
    at = pl.program_id(1) * _TOGETHER
    here, there = pl.ds(at, _TOGETHER), at + jnp.arange(_TOGETHER) < queries
    q = triton.load(q_ref.at[here, :], mask=there[:, None], other=0.0)
    slots = key_ref.shape[0]
    state = _through(q, key_ref, value_ref, None, slots, _nothing(_TOGETHER, width), scale)
    for ref, part in zip(state_refs, state, strict=True):
        place, mask = (ref.at[here, :], there[:, None]) if part.ndim == 2 else (ref.at[here], there)
        triton.store(place, part, mask=mask)


def _own_kernel(q_ref, key_ref, value_ref, seen_ref, filled_ref, *refs, scale, group):
    *state_refs, out_ref = refs
    width = q_ref.shape[1]
    rows = max(_ROWS, pl.next_power_of_2(group))
    # Worked example, 7 heads of a key: rows 7 to 15 are none.
    here, there = pl.ds(pl.program_id(0) * group, rows), jnp.arange(rows) < group
    q = triton.load(q_ref.at[here, :], mask=there[:, None], other=0.0)
    state = _nothing(rows, width)
    if state_refs:
        sums_ref, peak_ref, total_ref = state_refs
        sums = triton.load(sums_ref.at[here, :], mask=there[:, None], other=0.0)
        state = (sums, *(triton.load(ref.at[here], mask=there, other=1.0) for ref in (peak_ref, total_ref)))
    sums, _, total = _through(q, key_ref, value_ref, seen_ref, filled_ref[...], state, scale)
    out = (sums / total[:, None]).astype(out_ref.dtype)
    at = pl.program_id(0) * pl.num_programs(1) + pl.program_id(1)
    triton.store(out_ref.at[pl.ds(at * group, rows), :], out, mask=there[:, None])


def _nothing(rows: int, width: int):
    """(weighted sum of values, largest score, sum of weights) before any slot."""
    return (
        jnp.zeros((rows, width), jnp.float32),
        jnp.full((rows,), _MASKED, jnp.float32),
        jnp.zeros((rows,), jnp.float32),
    )


def _through(q, key_ref, value_ref, seen_ref, filled, state, scale):
    """The state after slots 0 ... filled - 1, a block of them at a time; none behind them is loaded."""

    def block(number, state):
        sums, peak, total = state
        at = number * BLOCK + jnp.arange(BLOCK)
        here, there = pl.ds(number * BLOCK, BLOCK), at < filled
        key = triton.load(key_ref.at[here, :], mask=there[:, None], other=0.0)
        value = triton.load(value_ref.at[here, :], mask=there[:, None], other=0.0)
        visible = there
        if seen_ref is not None:
            visible &= triton.load(seen_ref.at[here], mask=there, other=0) != 0
        scores = jnp.where(visible[None, :], triton.dot(q, key.T) * scale, _MASKED)
        new_peak = jnp.maximum(peak, scores.max(axis=1))
        shrink = jnp.exp(peak - new_peak)
        weights = jnp.exp(scores - new_peak[:, None])
        weighted = triton.dot(weights.astype(value.dtype), value)
        return sums * shrink[:, None] + weighted, new_peak, total * shrink + weights.sum(axis=1)

    blocks = pl.cdiv(filled, BLOCK) if seen_ref is None else jax.lax.div(filled + (BLOCK - 1), BLOCK)
    return jax.lax.fori_loop(0, blocks, block, state)
