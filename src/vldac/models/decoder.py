"""The causal decoder of every family: grouped-query attention with rotary positions, a gated MLP, RMSNorm.

* One layer code for the whole sequence (training, prefill) and for one token (decode): the only difference is
  whether keys and values are attended as computed or written into a cache first.
* Over a whole sequence the layers are scanned, so that compile time does not grow with depth. In decode they are
  unrolled, because a scan would copy every layer's cache in and out.
* What differs between families is a field of `TextConfig`. Layers of two kinds (Gemma 3's local and global
  ones) have the same parameters and differ in what they see, so a scan only picks the layer's `View`.

References: transformers' `Qwen2VLTextModel`, `Qwen3VLTextModel`, `Gemma3TextModel`.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx, struct
from jaxtyping import Array, Bool, DTypeLike, Float, Int

from vldac.mesh import by_rows, cut_ways, cuts_weights, gather_fsdp
from vldac.models import decode_kernels
from vldac.models.attention import attend, causal_mask, within_window
from vldac.models.config import TextConfig
from vldac.models.fused import FusedLinear
from vldac.models.inputs import Inputs
from vldac.models.kv_cache import KVCache, write_slots
from vldac.models.layers import Embedding, Linear, Remat, RMSNorm, gated, project, scan_stack, stack, unstack
from vldac.models.rope import mrope_angles, rotate

# What layers add to is float32 whatever they compute in. Rounded to bfloat16 after each of 2 L additions, it makes
# acting and learning, which do not sum in the same order, differ by a quarter more; its bytes cost nothing.
RESIDUAL = jnp.float32

Prefix = tuple[Float[Array, "1 k p d"], Float[Array, "1 k p d"]]
KeyValue = tuple[Float[Array, "b k t d"], Float[Array, "b k t d"]]


@struct.dataclass
class View:
    """What a layer's queries see, and how they turn.

    Attributes:
      cos, sin: float32[B, S, D/2], of every query's own position.
      mask: bool[B, S, T], which of the lane's slots are seen.
      prefix_mask: bool[B, S, P], which of the shared prefix; None = all.
    """

    cos: Float[Array, "b s h"]
    sin: Float[Array, "b s h"]
    mask: Bool[Array, "b s t"]
    prefix_mask: Bool[Array, "b s p"] | None = None

    def ask(self, first: int) -> View:
        """Of the queries from number `first` on."""
        return jax.tree.map(lambda x: x[:, first:], self)


@struct.dataclass
class DecodeLayers:
    """A decoder's layers as decoding wants them.

    Attributes:
      graphdef: of one layer, all are alike.
      params: of each layer.
      gathered: whether every device has them whole along a mesh's fsdp axis.
    """

    graphdef: nnx.GraphDef = struct.field(pytree_node=False)
    params: tuple[nnx.State, ...]
    gathered: bool = struct.field(pytree_node=False, default=False)


class Attention(nnx.Module):
    """Grouped-query self-attention."""

    def __init__(self, config: TextConfig, *, rngs: nnx.Rngs, dtype: DTypeLike, param_dtype: DTypeLike):
        self.heads = config.num_attention_heads
        self.kv_heads = config.num_key_value_heads
        self.head_dim = config.head_dim
        self.scale = config.query_scale
        width, kv_width = self.heads * self.head_dim, self.kv_heads * self.head_dim
        linear = partial(Linear, std=config.initializer_range, rngs=rngs, dtype=dtype, param_dtype=param_dtype)
        self.q_proj = linear(config.hidden_size, width, bias=config.qkv_bias)
        self.k_proj = linear(config.hidden_size, kv_width, bias=config.qkv_bias)
        self.v_proj = linear(config.hidden_size, kv_width, bias=config.qkv_bias)
        self.o_proj = linear(width, config.hidden_size, bias=False)
        self.q_norm = norm(config, self.head_dim, param_dtype) if config.qk_norm else None
        self.k_norm = norm(config, self.head_dim, param_dtype) if config.qk_norm else None
        self.fused: FusedLinear | None = nnx.data(None)  # query, key and value at once

    def fuse(self) -> None:
        """Replaces the products with the input by one, see `FusedLinear`."""
        ways = cut_ways("tensor", self.kv_heads)
        self.fused = FusedLinear([self.q_proj, self.k_proj, self.v_proj], self.q_proj.dtype, ways)
        self.out = FusedLinear([self.o_proj], self.o_proj.dtype)
        del self.q_proj, self.k_proj, self.v_proj, self.o_proj

    def head_norms(self) -> Float[Array, "2 d"] | None:
        """Weights of the norms of every head's query and key, None = no such norms."""
        return None if self.q_norm is None else jnp.stack([self.q_norm.weight[...], self.k_norm.weight[...]])

    def __call__(
        self,
        x: Float[Array, "b s e"],
        view: View,
        prefix: Prefix | None = None,
        cache: KeyValue | None = None,
        index: Int[Array, "..."] | None = None,
        first: int = 0,
    ) -> tuple[Float[Array, "b q e"], KeyValue]:
        """Attends to x itself, or, given a cache, to the cache with x written into slots index, index + 1, ...; an
        index of shape [B] is each lane's own, for one slot. Only slots from `first` on ask.

        Returns:
          (output, (key, value)): the keys and values attended to, prefix apart.
        """
        batch = len(x)
        if self.fused is not None:
            products = self.fused(x)
        elif first:
            products = [self.q_proj(x[:, first:]), *project([self.k_proj, self.v_proj], x)]
        else:
            products = project([self.q_proj, self.k_proj, self.v_proj], x)
        query, key, value = (y.reshape(*y.shape[:2], -1, self.head_dim) for y in products)
        if self.q_norm is not None:
            query, key = self.q_norm(query), self.k_norm(key)
        asking = view.ask(first)
        query, key = rotate(query, asking.cos, asking.sin), rotate(key, view.cos, view.sin)
        key, value = key.swapaxes(1, 2), value.swapaxes(1, 2)  # [B, K, S, D]
        if cache is not None:
            key, value = write_slots(cache[0], key, index), write_slots(cache[1], value, index)
        out = attend(query, key, value, asking.mask, prefix, asking.prefix_mask, self.scale)
        out = out.reshape(batch, out.shape[1], -1)
        return self.o_proj(out) if self.fused is None else self.out(out)[0], (key, value)


class MLP(nnx.Module):
    """down(activation(gate(x)) * up(x))."""

    def __init__(self, config: TextConfig, *, rngs: nnx.Rngs, dtype: DTypeLike, param_dtype: DTypeLike):
        linear = partial(
            Linear, bias=False, std=config.initializer_range, rngs=rngs, dtype=dtype, param_dtype=param_dtype
        )
        self.activation = config.activation
        self.units = config.intermediate_size
        self.gate_proj = linear(config.hidden_size, config.intermediate_size)
        self.up_proj = linear(config.hidden_size, config.intermediate_size)
        self.down_proj = linear(config.intermediate_size, config.hidden_size)
        self.fused: FusedLinear | None = nnx.data(None)  # gate and up at once

    def fuse(self) -> None:
        """As `Attention.fuse`."""
        ways = cut_ways("tensor", self.gate_proj.weight.shape[0])
        self.fused = FusedLinear([self.gate_proj, self.up_proj], self.gate_proj.dtype, ways)
        self.down = FusedLinear([self.down_proj], self.down_proj.dtype)
        del self.gate_proj, self.up_proj, self.down_proj

    def __call__(self, x: Float[Array, "b s e"]) -> Float[Array, "b s e"]:
        gate, up = self.fused(x) if self.fused else project([self.gate_proj, self.up_proj], x)
        hidden = gated(jax.nn.silu if self.activation == "silu" else jax.nn.gelu, gate, up)  # gelu: by tanh
        return self.down_proj(hidden) if self.fused is None else self.down(hidden)[0]


class DecoderLayer(nnx.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)); with sandwich norms both results are normalised, too."""

    def __init__(self, config: TextConfig, *, rngs: nnx.Rngs, dtype: DTypeLike, param_dtype: DTypeLike):
        options = {"rngs": rngs, "dtype": dtype, "param_dtype": param_dtype}
        self.sandwich = config.sandwich_norms
        self.input_layernorm = norm(config, config.hidden_size, param_dtype)
        self.self_attn = Attention(config, **options)
        # Hugging Face's names: with sandwich norms this one is behind the attention, else before the MLP.
        self.post_attention_layernorm = norm(config, config.hidden_size, param_dtype)
        self.mlp = MLP(config, **options)
        if self.sandwich:
            self.pre_feedforward_layernorm = norm(config, config.hidden_size, param_dtype)
            self.post_feedforward_layernorm = norm(config, config.hidden_size, param_dtype)

    def __call__(
        self,
        x: Float[Array, "b s e"],
        view: View,
        prefix: Prefix | None = None,
        cache: KeyValue | None = None,
        index: Int[Array, "..."] | None = None,
        first: int = 0,
    ) -> tuple[Float[Array, "b q e"], KeyValue]:
        """As `Attention.__call__`."""
        attended, key_value = self.self_attn(self.input_layernorm(x), view, prefix, cache, index, first)
        x = x[:, first:]
        if self.sandwich:
            x = x + self.post_attention_layernorm(attended)
            x = x + self.post_feedforward_layernorm(self.mlp(self.pre_feedforward_layernorm(x)))
        else:
            x = x + attended
            x = x + self.mlp(self.post_attention_layernorm(x))
        return x, key_value


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
        self.norm = norm(config, config.hidden_size, param_dtype)

    def embed(self, tokens: Int[Array, "*b"]) -> Float[Array, "*b e"]:
        """Token embeddings, scaled where the family scales them."""
        embedded = self.embed_tokens(tokens)
        if self.config.embedding_scale == 1.0:
            return embedded
        return embedded * jnp.asarray(self.config.embedding_scale, embedded.dtype)

    def forward(
        self,
        inputs: Inputs,
        prefix: KVCache | None = None,
        remat: Remat = "none",
        unroll: bool = False,
        first: int = 0,
    ) -> tuple[Float[Array, "b q e"], KVCache]:
        """All slots at once: see `VLM.forward`."""
        at = inputs.positions[:, 0]
        images = inputs.images if self.config.bidirectional_images else None
        mask = causal_mask(inputs.valid, images=images)
        views = [self._view(inputs.positions, mask, self.config.rope_theta, self.config.rope_factor)]
        if local := self.config.local:
            mask = causal_mask(inputs.valid, at, local.window, images)
            views.append(self._view(inputs.positions, mask, local.rope_theta))
            if prefix is not None:
                seen = within_window(at, prefix.positions, local.window)
                views = [
                    views[0].replace(prefix_mask=jnp.ones_like(seen)),
                    views[1].replace(prefix_mask=seen),
                ]
        levels = 0 if inputs.deepstack is None else len(inputs.deepstack)

        def step(layer, x, per_layer, first=0):
            number, is_local, shared = per_layer
            view = views[0]
            if len(views) == 2:
                view = jax.tree.map(partial(jnp.where, is_local), views[1], views[0])
            x, key_value = layer(x, view, shared, first=first)
            if levels:
                level = inputs.deepstack[jnp.minimum(number, levels - 1), :, first:].astype(x.dtype)
                x = x + jnp.where(number < levels, level, 0)
            return x, key_value

        x = inputs.embeddings.astype(RESIDUAL)
        count = self.config.num_hidden_layers
        which = jnp.asarray(self.config.local.layers if self.config.local else [False] * count)
        per_layer = jnp.arange(count), which, None if prefix is None else prefix.stacked()
        slots = x.shape[1]
        # What the last layer makes of earlier slots, nobody looks at: only their keys and values count.
        last = partial(step, first=first)
        x, (k, v) = scan_stack(self.layers, step, x, per_layer, remat=remat, unroll=unroll, last=last)
        return self.norm(x[:, first - slots :]), KVCache.from_stacked(k, v, at)

    def decode_layers(self, gather: bool = False) -> DecodeLayers:
        """See `VLM.decode_layers`."""
        graphdef, _ = nnx.split(self.layers)
        states = []
        for params in unstack(self.layers):
            layer = nnx.merge(graphdef, gather_fsdp(params) if gather else params)
            layer.self_attn.fuse()
            layer.mlp.fuse()
            fused, state = nnx.split(layer)
            states.append(jax.tree.map(lambda x: x.astype(self.dtype), state))
        return DecodeLayers(fused, tuple(states), gather)

    def decode_step(
        self,
        layers: DecodeLayers,
        embedding: Float[Array, "b e"],
        positions: Int[Array, "b 3"],
        cache: KVCache,
        index: Int[Array, "..."],
        valid: Bool[Array, "b s"],
        prefix: KVCache | None = None,
    ) -> tuple[Float[Array, "b e"], KVCache]:
        """One token a lane: see `VLM.decode_step`.

        On a mesh each device does this for its own lanes. On the fsdp axis, unless layers are gathered, weights
        stay where they are, and the tokens' states, which are smaller, go round.
        """
        at = positions[:, :1]
        slots_at = write_slots(cache.positions[:, None, :, None], at[:, None, :, None], index)[:, 0, :, 0]
        local = self.config.local
        positions = positions[:, :, None]
        views = [self._view(positions, valid[:, None], self.config.rope_theta, self.config.rope_factor)]
        if local:
            seen = valid[:, None] & within_window(at, slots_at, local.window)
            view = self._view(positions, seen, local.rope_theta)
            if prefix is not None:
                view = view.replace(prefix_mask=within_window(at, prefix.positions, local.window))
            views.append(view)
        x = embedding.astype(RESIDUAL)
        if self._decodes_by_kernels(layers):

            def step(whole, rows):
                layers, prefix = whole
                return self._step_by_kernels(layers, *rows, prefix)

            x, keys, values = by_rows(step, (layers, prefix), (x, views[0], cache, index))
        else:
            x, keys, values = self._step(layers, x, views, cache, index, prefix)
        return x, KVCache(k=tuple(keys), v=tuple(values), positions=slots_at)

    def _step(self, layers, x, views, cache, index, prefix):
        """The layers and the last norm: (hidden [B, E], keys, values)."""
        x, keys, values = x[:, None], [], []
        local = self.config.local
        for number, params in enumerate(layers.params):
            layer = nnx.merge(layers.graphdef, params)
            shared = None if prefix is None else (prefix.k[number], prefix.v[number])
            view = views[1 if local and local.layers[number] else 0]
            x, (k, v) = layer(x, view, shared, (cache.k[number], cache.v[number]), index)
            keys.append(k)
            values.append(v)
        return self.norm(x)[:, 0], keys, values

    def _decodes_by_kernels(self, layers: DecodeLayers) -> bool:
        config = self.config
        plain = not (config.sandwich_norms or config.unit_offset_norms or config.local)
        plain &= config.activation == "silu" and not cuts_weights(layers.gathered)  # kernels want whole layers
        return plain and decode_kernels.takes(self.dtype, config.head_dim)

    def _step_by_kernels(self, layers, x, view, cache, index, prefix, interpret=False):
        """As `_step`, see `decode_kernels`."""
        config = self.config
        norm = {"width": config.hidden_size, "eps": config.rms_norm_eps}
        add_norm = partial(decode_kernels.add_norm, interpret=interpret)
        cos, sin, seen = view.cos[:, 0], view.sin[:, 0], view.mask[:, 0]
        stack, keys, values = [nnx.merge(layers.graphdef, params) for params in layers.params], [], []
        following = [layer.input_layernorm for layer in stack[1:]] + [self.norm]
        h = (x * stack[0].input_layernorm.weight[...].astype(x.dtype)).astype(self.dtype)
        squares = jnp.square(x.astype(jnp.float32)).sum(axis=1, keepdims=True)
        for number, layer in enumerate(stack):
            attention, mlp = layer.self_attn, layer.mlp
            query, key, value = decode_kernels.turn_heads(
                attention.fused.product(h),
                squares,
                _only(attention.fused.bias),
                _only(attention.fused.lora_B),
                attention.head_norms(),
                cos,
                sin,
                cache.k[number],
                cache.v[number],
                index,
                **norm,
                interpret=interpret,
            )
            shared = None if prefix is None else (prefix.k[number], prefix.v[number])
            attended = decode_kernels.decode_attend(query, key, value, seen, shared, attention.scale, interpret)
            y = attention.out.product(attended.reshape(len(x), -1))
            post = layer.post_attention_layernorm.weight[...]
            x, h, squares = add_norm(x, y, _only(attention.out.lora_B), post)
            y = mlp.fused.product(h)
            y = decode_kernels.gated(y, _only(mlp.fused.lora_B), squares, mlp.units, **norm, interpret=interpret)
            weight = following[number].weight[...]
            x, h, squares = add_norm(x, mlp.down.product(y), _only(mlp.down.lora_B), weight)
            keys.append(key)
            values.append(value)
        h = h.astype(jnp.float32) * decode_kernels.inverse_rms(squares, **norm)[:, None]
        return h.astype(x.dtype), keys, values

    def _view(
        self, positions: Int[Array, "b 3 s"], mask: Bool[Array, "b s t"], theta: float, factor: float = 1.0
    ) -> View:
        config = self.config
        cos, sin = mrope_angles(positions, theta, config.mrope_section, config.mrope_interleaved, factor)
        return View(cos=cos, sin=sin, mask=mask)


def _only(param: nnx.Param | None) -> Array | None:
    """The one device's part of a joined layer's parameter."""
    return None if param is None else param[0]


def norm(config: TextConfig, size: int, param_dtype: DTypeLike) -> RMSNorm:
    """The family's RMSNorm."""
    return RMSNorm(size, eps=config.rms_norm_eps, unit_offset=config.unit_offset_norms, param_dtype=param_dtype)
