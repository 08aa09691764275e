"""The causal decoder: grouped-query attention with M-RoPE, SwiGLU, RMSNorm before each.

* One layer code for the whole sequence (training, prefill) and for one token (decode): the only difference is
  whether keys and values are attended as computed or written into a cache first.
* Over a whole sequence the layers are scanned, so that compile time does not grow with depth. In decode they are
  unrolled, because a scan would copy every layer's cache in and out.

Reference: transformers' `Qwen2VLTextModel`.
"""

from __future__ import annotations

from functools import partial

import jax
from flax import nnx
from jaxtyping import Array, Bool, DTypeLike, Float, Int

from vldac.models.attention import attend, causal_mask
from vldac.models.config import TextConfig
from vldac.models.kv_cache import KVCache
from vldac.models.layers import Embedding, Linear, Remat, RMSNorm, scan_stack, stack, unstack
from vldac.models.rope import mrope_angles, rotate

Prefix = tuple[Float[Array, "1 k p d"], Float[Array, "1 k p d"]]
KeyValue = tuple[Float[Array, "b k t d"], Float[Array, "b k t d"]]
Angles = tuple[Float[Array, "b s h"], Float[Array, "b s h"]]


class Attention(nnx.Module):
    """Grouped-query self-attention; biases on query, key and value, none on the output."""

    def __init__(self, config: TextConfig, *, rngs: nnx.Rngs, dtype: DTypeLike, param_dtype: DTypeLike):
        self.heads = config.num_attention_heads
        self.kv_heads = config.num_key_value_heads
        self.head_dim = config.head_dim
        width, kv_width = self.heads * self.head_dim, self.kv_heads * self.head_dim
        linear = partial(Linear, std=config.initializer_range, rngs=rngs, dtype=dtype, param_dtype=param_dtype)
        self.q_proj = linear(config.hidden_size, width, bias=True)
        self.k_proj = linear(config.hidden_size, kv_width, bias=True)
        self.v_proj = linear(config.hidden_size, kv_width, bias=True)
        self.o_proj = linear(width, config.hidden_size, bias=False)

    def __call__(
        self,
        x: Float[Array, "b s e"],
        angles: Angles,
        mask: Bool[Array, "b s t"],
        prefix: Prefix | None = None,
        cache: KeyValue | None = None,
        index: Int[Array, ""] | None = None,
    ) -> tuple[Float[Array, "b s e"], KeyValue]:
        """Attends to x itself, or, given a cache, to the cache with x written into slots index, index + 1, ...

        Returns:
          (output, (key, value)): the keys and values attended to, prefix apart.
        """
        batch, slots, _ = x.shape
        query = rotate(self.q_proj(x).reshape(batch, slots, self.heads, self.head_dim), *angles)
        key = rotate(self.k_proj(x).reshape(batch, slots, self.kv_heads, self.head_dim), *angles)
        value = self.v_proj(x).reshape(batch, slots, self.kv_heads, self.head_dim)
        key, value = key.swapaxes(1, 2), value.swapaxes(1, 2)  # [B, K, S, D]
        if cache is not None:
            key = jax.lax.dynamic_update_slice_in_dim(cache[0], key.astype(cache[0].dtype), index, axis=2)
            value = jax.lax.dynamic_update_slice_in_dim(cache[1], value.astype(cache[1].dtype), index, axis=2)
        out = attend(query, key, value, mask, prefix)
        return self.o_proj(out.reshape(batch, slots, -1)), (key, value)


class MLP(nnx.Module):
    """SwiGLU: down(silu(gate(x)) * up(x))."""

    def __init__(self, config: TextConfig, *, rngs: nnx.Rngs, dtype: DTypeLike, param_dtype: DTypeLike):
        linear = partial(
            Linear, bias=False, std=config.initializer_range, rngs=rngs, dtype=dtype, param_dtype=param_dtype
        )
        self.gate_proj = linear(config.hidden_size, config.intermediate_size)
        self.up_proj = linear(config.hidden_size, config.intermediate_size)
        self.down_proj = linear(config.intermediate_size, config.hidden_size)

    def __call__(self, x: Float[Array, "b s e"]) -> Float[Array, "b s e"]:
        return self.down_proj(jax.nn.silu(self.gate_proj(x)) * self.up_proj(x))


class DecoderLayer(nnx.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, config: TextConfig, *, rngs: nnx.Rngs, dtype: DTypeLike, param_dtype: DTypeLike):
        options = {"rngs": rngs, "dtype": dtype, "param_dtype": param_dtype}
        norm = {"eps": config.rms_norm_eps, "param_dtype": param_dtype}
        self.input_layernorm = RMSNorm(config.hidden_size, **norm)
        self.self_attn = Attention(config, **options)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, **norm)
        self.mlp = MLP(config, **options)

    def __call__(
        self,
        x: Float[Array, "b s e"],
        angles: Angles,
        mask: Bool[Array, "b s t"],
        prefix: Prefix | None = None,
        cache: KeyValue | None = None,
        index: Int[Array, ""] | None = None,
    ) -> tuple[Float[Array, "b s e"], KeyValue]:
        """As `Attention.__call__`."""
        attended, key_value = self.self_attn(self.input_layernorm(x), angles, mask, prefix, cache, index)
        x = x + attended
        return x + self.mlp(self.post_attention_layernorm(x)), key_value


class Decoder(nnx.Module):
    """Embedding, a stack of decoder layers, final norm."""

    def __init__(self, config: TextConfig, *, rngs: nnx.Rngs, dtype: DTypeLike, param_dtype: DTypeLike):
        options = {"dtype": dtype, "param_dtype": param_dtype}
        self.config = config
        self.dtype = dtype
        self.embed_tokens = Embedding(
            config.vocab_size, config.hidden_size, std=config.initializer_range, rngs=rngs, **options
        )
        self.layers = stack(
            lambda rngs: DecoderLayer(config, rngs=rngs, **options), config.num_hidden_layers, rngs
        )
        self.norm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps, param_dtype=param_dtype)

    def forward(
        self,
        embeddings: Float[Array, "b s e"],
        positions: Int[Array, "b 3 s"],
        valid: Bool[Array, "b s"],
        prefix: KVCache | None = None,
        remat: Remat = "none",
    ) -> tuple[Float[Array, "b s e"], KVCache]:
        """All slots at once: see `Qwen2VL.forward`."""
        angles = mrope_angles(positions, self.config.rope_theta, self.config.mrope_section)
        mask = causal_mask(valid)

        def step(layer, x, prefix):
            return layer(x, angles, mask, prefix)

        stacked_prefix = None if prefix is None else prefix.stacked()
        x, (k, v) = scan_stack(self.layers, step, embeddings.astype(self.dtype), stacked_prefix, remat=remat)
        return self.norm(x), KVCache.from_stacked(k, v)

    def decode_layers(self) -> tuple[nnx.State, ...]:
        """The layers' parameters apart and in the dtype of the computation."""
        return unstack(self.layers, self.dtype)

    def decode_step(
        self,
        layers: tuple[nnx.State, ...],
        embedding: Float[Array, "b e"],
        positions: Int[Array, "b 3"],
        cache: KVCache,
        index: Int[Array, ""],
        valid: Bool[Array, "b s"],
        prefix: KVCache | None = None,
    ) -> tuple[Float[Array, "b e"], KVCache]:
        """One token a lane: see `Qwen2VL.decode_step`."""
        graphdef, _ = nnx.split(self.layers)
        angles = mrope_angles(positions[:, :, None], self.config.rope_theta, self.config.mrope_section)
        mask = valid[:, None]  # [B, 1, S]
        x = embedding.astype(self.dtype)[:, None]  # [B, 1, d]
        keys, values = [], []
        for number, params in enumerate(layers):
            layer = nnx.merge(graphdef, params)
            shared = None if prefix is None else (prefix.k[number], prefix.v[number])
            x, (k, v) = layer(x, angles, mask, shared, (cache.k[number], cache.v[number]), index)
            keys.append(k)
            values.append(v)
        return self.norm(x)[:, 0], KVCache(k=tuple(keys), v=tuple(values))
