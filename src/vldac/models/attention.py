"""Grouped-query attention over a lane's own slots and, if there is one, a prefix that all lanes share.

* Plain einsums, which XLA turns into batched products: one piece of code on every backend.
* Many queries a lane in half precision on a GPU (prefill and training there) go to a fused kernel instead, so that
  scores are never written to memory, nor are their derivatives: ours where there is a prefix that all queries see
  (`prefix_attention`), else cuDNN's by way of `jax.nn.dot_product_attention`.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, DTypeLike, Float, Int

from vldac.mesh import by_rows
from vldac.models import decode_kernels, prefix_attention

MASKED = -1e30  # finite, so that a row with nothing to attend to gives a finite mean and not NaN


def attend(
    query: Float[Array, "b s n d"],
    key: Float[Array, "b k t d"],
    value: Float[Array, "b k t d"],
    mask: Bool[Array, "b s t"] | None,
    prefix: tuple[Float[Array, "1 k p d"], Float[Array, "1 k p d"]] | None = None,
    prefix_mask: Bool[Array, "b s p"] | None = None,
    scale: float | None = None,
) -> Float[Array, "b s n d"]:
    """softmax(scale q k^T) v, the softmax in float32.

    The prefix's scores are a second block under one softmax, so that its keys and values are never copied for
    each lane: sum over both blocks of exp(score - largest of both), divided once at the end.

    Args:
      query: N heads; heads n * N/K ... (n + 1) * N/K - 1 share the key and value head n.
      key, value: K heads over T slots.
      mask: true where query slot s may see slot t; None = everywhere.
        Worked example, 3 slots of which the second is absent: rows [1 0 0], [1 0 0], [1 0 1].
      prefix: key and value of P slots that all lanes share.
      prefix_mask: true where query slot s may see prefix slot p; None = everywhere.
      scale: of the scores; None = D^-1/2.

    Returns:
      [B, S, N, D] in the query's dtype. A query that sees nothing gets a mean of values: finite, and meaningless.
    """
    slots, width = query.shape[1], query.shape[-1]
    if mask is not None and slots > 1 and has_kernel(query.dtype, width):
        if prefix is not None and prefix_mask is None and prefix_attention.fits(width):

            def on_device(prefix, rows):
                return prefix_attention.prefix_attend(*rows, prefix, scale)

            return by_rows(on_device, prefix, (query, key, value, mask))
        return _attend_by_kernel(query, key, value, mask, prefix, prefix_mask, scale)
    batch, slots, heads, width = query.shape
    kv_heads = key.shape[1]
    group = heads // kv_heads
    scale = width**-0.5 if scale is None else scale
    f32 = {"preferred_element_type": jnp.float32}

    # Heads that share a key are rows of one product: [B, K, G, S, D] -> [B, K, G * S, D].
    q = query.reshape(batch, slots, kv_heads, group, width).transpose(0, 2, 3, 1, 4)
    q = q.reshape(batch, kv_heads, group * slots, width)
    scores = jnp.einsum("bkxd,bktd->bkxt", q, key, **f32) * scale
    if mask is not None:
        scores = scores.reshape(batch, kv_heads, group, slots, -1)
        scores = jnp.where(mask[:, None, None], scores, MASKED)
        scores = scores.reshape(batch, kv_heads, group * slots, -1)
    peak = scores.max(axis=-1, keepdims=True)  # [B, K, X, 1]
    if prefix is not None:
        prefix_key, prefix_value = prefix[0][0], prefix[1][0]  # [K, P, D]
        # [K, B, X, P], the order in which a product over shared keys comes out: only small things are turned.
        prefix_scores = jnp.einsum("kbxd,kpd->kbxp", q.swapaxes(0, 1), prefix_key, **f32) * scale
        if prefix_mask is not None:
            seen = prefix_mask[None, :, None]  # [1, B, 1, S, P]
            by_slot = prefix_scores.reshape(kv_heads, batch, group, slots, -1)
            prefix_scores = jnp.where(seen, by_slot, MASKED).reshape(prefix_scores.shape)
        prefix_peak = prefix_scores.max(axis=-1, keepdims=True)
        peak = jnp.maximum(peak, prefix_peak.swapaxes(0, 1))
    peak = jax.lax.stop_gradient(peak)  # cancels in the quotient

    weights = jnp.exp(scores - peak)
    total = weights.sum(axis=-1, keepdims=True)
    out = jnp.einsum("bkxt,bktd->bkxd", weights.astype(value.dtype), value, **f32)
    if prefix is not None:
        weights = jnp.exp(prefix_scores - peak.swapaxes(0, 1))
        total += weights.sum(axis=-1, keepdims=True).swapaxes(0, 1)
        shared = jnp.einsum("kbxp,kpd->kbxd", weights.astype(prefix_value.dtype), prefix_value, **f32)
        out += shared.swapaxes(0, 1)
    out = (out / total).astype(query.dtype).reshape(batch, kv_heads, group, slots, width)
    return out.transpose(0, 3, 1, 2, 4).reshape(batch, slots, heads, width)


def has_kernel(dtype: DTypeLike, head_dim: int) -> bool:
    """Whether cuDNN's kernel takes such queries here, many of a lane at a time, forward and backward."""
    half = dtype in (jnp.bfloat16, jnp.float16)
    heads_cut = jax.sharding.get_abstract_mesh().shape.get("tensor", 1) > 1
    return decode_kernels.on_ampere() and half and head_dim % 8 == 0 and head_dim <= 128 and not heads_cut


def _attend_by_kernel(query, key, value, mask, prefix, prefix_mask, scale):
    """As `attend`: the prefix's keys stand in front of every lane's own."""
    batch, slots, _, _ = query.shape
    if prefix is not None:
        shared = prefix[0].shape[2]
        key, value = (
            jnp.concatenate([jnp.broadcast_to(common, (batch, *common.shape[1:])), own], axis=2)
            for common, own in zip(prefix, (key, value), strict=True)
        )
        if prefix_mask is None:
            prefix_mask = jnp.ones((1, 1, shared), bool)
        mask = jnp.concatenate([jnp.broadcast_to(prefix_mask, (batch, slots, shared)), mask], axis=2)
    odd, odd_key = slots % 2, key.shape[2] % 2  # it wants even numbers of both; the slot added is seen by none
    query = jnp.pad(query, ((0, 0), (0, odd), (0, 0), (0, 0)))
    key, value = (jnp.pad(x.swapaxes(1, 2), ((0, 0), (0, odd_key), (0, 0), (0, 0))) for x in (key, value))
    mask = jnp.pad(mask, ((0, 0), (0, odd), (0, odd_key)))
    out = jax.nn.dot_product_attention(query, key, value, mask=mask[:, None], scale=scale, implementation="cudnn")
    return out[:, :slots]


def causal_mask(
    valid: Bool[Array, "b s"],
    positions: Int[Array, "b s"] | None = None,
    window: int | None = None,
    images: Int[Array, "b s"] | None = None,
) -> Bool[Array, "b s s"]:
    """Which slot sees which: those before it and itself, if they hold something.

    Worked example: valid [1 0 1] -> rows [1 0 0], [1 0 0], [1 0 1].

    Args:
      valid: which slots hold something.
      positions: of the slots; needed with a window.
      window: only slots less than so many positions back are seen, those of the own image included; None = all.
        Worked example, all valid, positions [0 1 2], window 2 -> rows [1 0 0], [1 1 0], [0 1 1].
      images: the slots of one image (same number, not -1) see each other whatever their order; None = no such
        slots. Worked example, images [-1 0 0] -> rows [1 0 0], [1 1 1], [1 1 1].
    """
    slots = valid.shape[1]
    mask = jnp.broadcast_to(jnp.tril(jnp.ones((slots, slots), bool)), (valid.shape[0], slots, slots))
    if images is not None:
        mask |= (images[:, :, None] == images[:, None, :]) & (images >= 0)[:, None, :]
    if window is not None:
        mask &= within_window(positions, positions, window)
    return mask & valid[:, None, :]


def within_window(
    query_positions: Int[Array, "b s"], key_positions: Int[Array, "#b t"], window: int
) -> Bool[Array, "b s t"]:
    """Which keys lie less than `window` positions behind a query. Worked example, window 2: 5 sees 4 and 5."""
    return query_positions[:, :, None] - key_positions[:, None, :] < window
