"""Attention of one new token a lane, as two GPU kernels (Pallas, Triton): what decoding spends its time on.

* A lane's keys and values are read once, and only as far as they are filled; scores stay in registers.
* The prefix that all lanes share is gone through first, many lanes at a time, so that it is read a few times and
  not once a lane. What it leaves (weighted sum, largest score, sum of weights) is where a lane's own part begins.
* Heads that share a key are rows of one product, padded to the 16 rows that tensor cores want.

After FlashAttention-2 (Dao, arXiv 2307.08691): one pass, with a running maximum.
"""

from __future__ import annotations

import math
from functools import partial

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
from jaxtyping import Array, Bool, Float

BLOCK = 64  # slots gone through at a time
_ROWS = 16  # of a product of tensor cores, at least
_LANES = 4  # that go through the prefix together, at most
_MASKED = -1e30


def takes(query: Float[Array, "b s n d"]) -> bool:
    """Whether the kernels are for such queries here: one a lane, half precision, no mesh to be cut for."""
    _, slots, _, width = query.shape
    usual = query.dtype in (jnp.bfloat16, jnp.float16) and slots == 1 and width in (64, 128)
    return usual and on_ampere() and jax.sharding.get_abstract_mesh().size <= 1


def on_ampere() -> bool:
    """Whether this is a CUDA GPU of compute capability 8 (Ampere) or more."""
    if jax.default_backend() != "gpu":
        return False
    device = jax.devices()[0]
    return "cuda" in device.client.platform_version.lower() and float(device.compute_capability) >= 8.0


def decode_attend(
    query: Float[Array, "b 1 n d"],
    key: Float[Array, "b k t d"],
    value: Float[Array, "b k t d"],
    mask: Bool[Array, "b 1 t"],
    prefix: tuple[Float[Array, "1 k p d"], Float[Array, "1 k p d"]] | None = None,
    scale: float | None = None,
    interpret: bool = False,
) -> Float[Array, "b 1 n d"]:
    """As `attention.attend` for a single query slot whose lane has at least one slot to see.

    Args:
      interpret: runs the kernels' bodies as ordinary operations, on any device, slowly.
    """
    batch, _, heads, width = query.shape
    kv_heads, slots = key.shape[1:3]
    group = heads // kv_heads
    rows = max(_ROWS, pl.next_power_of_2(group))
    scale = width**-0.5 if scale is None else scale
    call = partial(pl.pallas_call, interpret=interpret)
    shapes = (kv_heads, batch * rows)
    sums = jax.ShapeDtypeStruct(shapes, jnp.float32)

    # [K, B * rows, D]: rows g of each lane are its heads of this key. Worked example, 7 heads: [7 heads, 9 empty].
    q = query.reshape(batch, kv_heads, group, width)
    q = jnp.pad(q, ((0, 0), (0, 0), (0, rows - group), (0, 0)))
    q = q.swapaxes(0, 1).reshape(kv_heads, batch * rows, width)

    state = ()
    if prefix is not None:
        together = rows * math.gcd(batch, _LANES)
        block = partial(pl.BlockSpec, index_map=lambda k, lanes: (k, lanes))
        whole = pl.BlockSpec((None, None, prefix[0].shape[2], width), lambda k, lanes: (0, k, 0, 0))
        state = call(
            partial(_prefix_kernel, scale=scale),
            grid=(kv_heads, batch * rows // together),
            in_specs=[pl.BlockSpec((None, together, width), lambda k, lanes: (k, lanes, 0)), whole, whole],
            out_specs=[
                pl.BlockSpec((None, together, width), lambda k, lanes: (k, lanes, 0)),
                block((None, together)),
                block((None, together)),
            ],
            out_shape=[jax.ShapeDtypeStruct(q.shape, jnp.float32), sums, sums],
            compiler_params=triton.CompilerParams(num_warps=4, num_stages=3),
            name="decode_attention_prefix",
        )(q, *prefix)

    of_lane = pl.BlockSpec((None, rows, width), lambda lane, k: (k, lane, 0))
    of_row = pl.BlockSpec((None, rows), lambda lane, k: (k, lane))
    own = pl.BlockSpec((None, None, slots, width), lambda lane, k: (lane, k, 0, 0))
    seen = mask[:, 0]
    filled = slots - jnp.argmax(seen[:, ::-1], axis=1)  # slots behind the last that is seen are never read
    out = call(
        partial(_own_kernel, scale=scale),
        grid=(batch, kv_heads),
        in_specs=[
            of_lane,
            own,
            own,
            pl.BlockSpec((None, slots), lambda lane, k: (lane, 0)),
            pl.BlockSpec((None,), lambda lane, k: (lane,)),
            *[of_lane, of_row, of_row][: len(state)],
        ],
        out_specs=of_lane,
        out_shape=jax.ShapeDtypeStruct(q.shape, query.dtype),
        compiler_params=triton.CompilerParams(num_warps=4, num_stages=3),
        name="decode_attention_own",
    )(q, key, value, seen.astype(jnp.int32), filled.astype(jnp.int32), *state)
    out = out.reshape(kv_heads, batch, rows, width)[:, :, :group]
    return out.swapaxes(0, 1).reshape(batch, 1, heads, width)


def _prefix_kernel(q_ref, key_ref, value_ref, sum_ref, peak_ref, total_ref, *, scale):
    rows, width = q_ref.shape
    slots = key_ref.shape[0]
    state = _through(q_ref[...], key_ref, value_ref, None, slots, _nothing(rows, width), scale)
    sum_ref[...], peak_ref[...], total_ref[...] = state


def _own_kernel(q_ref, key_ref, value_ref, seen_ref, filled_ref, *refs, scale):
    *state_refs, out_ref = refs
    rows, width = q_ref.shape
    state = tuple(ref[...] for ref in state_refs) if state_refs else _nothing(rows, width)
    sums, _, total = _through(q_ref[...], key_ref, value_ref, seen_ref, filled_ref[...], state, scale)
    out_ref[...] = (sums / total[:, None]).astype(out_ref.dtype)


def _nothing(rows: int, width: int):
    """(weighted sum of values, largest score, sum of weights) before any slot."""
    return (
        jnp.zeros((rows, width), jnp.float32),
        jnp.full((rows,), _MASKED, jnp.float32),
        jnp.zeros((rows,), jnp.float32),
    )


def _through(q, key_ref, value_ref, seen_ref, filled, state, scale):
    """The state after slots 0 ... filled - 1, a block of them at a time."""
    slots = key_ref.shape[0]

    def block(number, state):
        sums, peak, total = state
        at = number * BLOCK + jnp.arange(BLOCK)
        here, there = pl.ds(number * BLOCK, BLOCK), at < slots
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

    blocks = jax.lax.div(filled + (BLOCK - 1), BLOCK) if seen_ref is not None else pl.cdiv(slots, BLOCK)
    return jax.lax.fori_loop(0, blocks, block, state)
