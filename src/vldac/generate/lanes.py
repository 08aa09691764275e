"""What decoding needs of every lane, and the two programs that change it: admit a conversation, write on.

* A lane is a row of static arrays with keys and values in slots 0, 1, 2, ...: what lies beyond `filled` is left
  over from an earlier answer, is never seen, and is written over. Lanes are free or live; all go on together.
* A conversation is read alone, at a length from a short list (`bucket`), padded behind: few programs are compiled.
* Token i of an answer is drawn with fold_in(key of the answer, i): what else is being answered changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx, struct
from jaxtyping import Array, Bool, DTypeLike, Float, Int, Key, UInt32

from vldac.models import VLM, Inputs, KVCache
from vldac.models.config import TextConfig
from vldac.models.decoder import DecodeLayers
from vldac.sampling import draw
from vldac.scoring import BANNED

# What the model's definition is merged with: weights, and an adapter if there is one.
Params = tuple[nnx.State, ...]
COLDEST = 1e-5  # below it sampling is no different from taking the likeliest, and logits would overflow


@struct.dataclass
class Lanes:
    """B answers that are being written, leaves [B, ...].

    Attributes:
      cache: keys and values, S slots a lane.
      filled: int32[B], slots that hold something.
      position: int32[B], of the token that is read next.
      token: int32[B], that token: the one written last.
      written: int32[B], tokens of the answer so far.
      limit: int32[B], how many it may have.
      live: bool[B], its answer goes on.
      temperature, top_p: float32[B].
      keys: of each answer.
    """

    cache: KVCache
    filled: Int[Array, " b"]
    position: Int[Array, " b"]
    token: Int[Array, " b"]
    written: Int[Array, " b"]
    limit: Int[Array, " b"]
    live: Bool[Array, " b"]
    temperature: Float[Array, " b"]
    top_p: Float[Array, " b"]
    keys: Key[Array, " b"]

    @classmethod
    def free(cls, text: TextConfig, lanes: int, slots: int, dtype: DTypeLike) -> Lanes:
        """None of them live."""

        def zeros(dtype):
            return jnp.zeros(lanes, dtype)  # a buffer of its own each, so that all can be donated

        return cls(
            cache=KVCache.zeros(
                text.num_hidden_layers, lanes, text.num_key_value_heads, slots, text.head_dim, dtype
            ),
            filled=zeros(jnp.int32),
            position=zeros(jnp.int32),
            token=zeros(jnp.int32),
            written=zeros(jnp.int32),
            limit=zeros(jnp.int32),
            live=zeros(bool),
            temperature=zeros(jnp.float32),
            top_p=zeros(jnp.float32),
            keys=jax.random.split(jax.random.key(0), lanes),
        )


@struct.dataclass
class Reading:
    """A conversation to be read, in L slots of which the first n hold something.

    Attributes:
      tokens: int32[L].
      positions: int32[3, L].
      length: int32[], n.
      next_position: int32[], of the answer's first token.
      images: int32[L], see `Inputs.images`; None without pictures, like the next.
      levels: float[1 + K, L, d], visual tokens in their slots: features, then deepstack.
    """

    tokens: Int[Array, " s"]
    positions: Int[Array, "3 s"]
    length: Int[Array, ""]
    next_position: Int[Array, ""]
    images: Int[Array, " s"] | None = None
    levels: Float[Array, "k s d"] | None = None


@struct.dataclass
class Wish:
    """How an answer is to be written.

    Attributes:
      limit: int32[], its tokens at most.
      temperature, top_p: float32[].
      seed: uint32[2], low and high half.
    """

    limit: Int[Array, ""]
    temperature: Float[Array, ""]
    top_p: Float[Array, ""]
    seed: UInt32[Array, "2"]


@dataclass(frozen=True, eq=False)
class Programs:
    """Pure functions of parameters and lanes, to be jitted.

    Attributes:
      graphdef: of the model, with the adapter's layers if there is one.
      writable: bool[V], which tokens may be written.
      ending: bool[V], which of them end an answer.
    """

    graphdef: nnx.GraphDef
    writable: np.ndarray
    ending: np.ndarray

    def decode_layers(self, params: Params) -> DecodeLayers:
        """See `VLM.decode_layers`."""
        return self._model(params).decode_layers()

    def admit(
        self, params: Params, lanes: Lanes, lane: Int[Array, ""], reading: Reading, wish: Wish
    ) -> tuple[Lanes, Int[Array, ""]]:
        """Reads a conversation into a free lane and writes the first token of its answer.

        Returns:
          (lanes, the token).
        """
        model = self._model(params)
        embeddings, deepstack = model.embed(reading.tokens), None
        if reading.levels is not None:
            levels = reading.levels.astype(embeddings.dtype)
            embeddings = jnp.where(reading.images[:, None] >= 0, levels[0], embeddings)
            deepstack = levels[1:, None] if len(levels) > 1 else None
        inputs = Inputs(
            embeddings=embeddings[None],
            positions=reading.positions[None],
            valid=jnp.arange(len(reading.tokens))[None] < reading.length,
            images=None if reading.images is None else reading.images[None],
            deepstack=deepstack,
        )
        hidden, cache = model.forward(inputs)
        hidden = jax.lax.dynamic_index_in_dim(hidden, reading.length - 1, axis=1, keepdims=False)  # [1, d]
        key = jax.random.fold_in(jax.random.key(wish.seed[0]), wish.seed[1])
        token = self._choose(
            model, hidden, key[None], jnp.zeros(1, jnp.int32), wish.temperature[None], wish.top_p[None]
        )[0]

        def put(rows, row):
            return jax.lax.dynamic_update_slice(rows, row[None].astype(rows.dtype), (lane,) + (0,) * row.ndim)

        lanes = lanes.replace(
            cache=jax.tree.map(lambda all_, one: put(all_, one[0]), lanes.cache, cache),
            filled=put(lanes.filled, reading.length),
            position=put(lanes.position, reading.next_position),
            token=put(lanes.token, token),
            written=put(lanes.written, jnp.int32(1)),
            limit=put(lanes.limit, wish.limit),
            live=put(lanes.live, ~jnp.asarray(self.ending)[token] & (wish.limit > 1)),
            temperature=put(lanes.temperature, wish.temperature),
            top_p=put(lanes.top_p, wish.top_p),
            keys=lanes.keys.at[lane].set(key),
        )
        return lanes, token

    def write(
        self,
        params: Params,
        layers: DecodeLayers,
        lanes: Lanes,
        dropped: Bool[Array, " b"],
        waiting: Bool[Array, ""],
        tokens: int,
    ) -> tuple[Lanes, Int[Array, "b n"]]:
        """Up to n tokens more in every live lane.

        Args:
          params, layers: of the model.
          lanes: to be donated: keys and values are written in place.
          dropped: lanes whose answer is not wanted any more.
          waiting: somebody waits for a lane: stops as soon as one has ended.
          tokens: n.

        Returns:
          (lanes, the tokens, -1 where none was written).
        """
        model = self._model(params)
        slots = lanes.cache.slots
        lanes = lanes.replace(live=lanes.live & ~dropped)
        begun = lanes.live

        def goes_on(carry):
            step, lanes, _ = carry
            ended = (lanes.live != begun).any()
            return (step < tokens) & lanes.live.any() & ~(waiting & ended)

        def one_more(carry):
            step, lanes, out = carry
            live = lanes.live
            hidden, cache = model.decode_step(
                layers,
                model.embed(lanes.token),
                jnp.broadcast_to(lanes.position[:, None], (len(live), 3)),
                lanes.cache,
                lanes.filled,
                jnp.arange(slots) <= lanes.filled[:, None],
            )
            token = self._choose(model, hidden, lanes.keys, lanes.written, lanes.temperature, lanes.top_p)
            token = jnp.where(live, token, lanes.token)
            written = lanes.written + live
            lanes = lanes.replace(
                cache=cache,
                filled=lanes.filled + live,
                position=lanes.position + live,
                token=token,
                written=written,
                live=live & ~jnp.asarray(self.ending)[token] & (written < lanes.limit),
            )
            return step + 1, lanes, out.at[:, step].set(jnp.where(live, token, -1))

        out = jnp.full((len(begun), tokens), -1, jnp.int32)
        _, lanes, out = jax.lax.while_loop(goes_on, one_more, (jnp.int32(0), lanes, out))
        return lanes, out

    def _choose(
        self,
        model: VLM,
        hidden: Float[Array, "b d"],
        keys: Key[Array, " b"],
        number: Int[Array, " b"],
        temperature: Float[Array, " b"],
        top_p: Float[Array, " b"],
    ) -> Int[Array, " b"]:
        """The next token of every lane; `number` says which of its answer it is."""
        logits = jnp.where(jnp.asarray(self.writable), model.logits(hidden), BANNED)
        likeliest = jnp.argmax(logits, axis=-1).astype(jnp.int32)

        def sampled():
            scaled = logits / jnp.maximum(temperature, COLDEST)[:, None]
            scaled = jax.lax.cond((top_p < 1).any(), lambda: nucleus(scaled, top_p), lambda: scaled)
            tokens, _ = jax.vmap(draw)(jax.vmap(jax.random.fold_in)(keys, number), scaled)
            return tokens

        tokens = jax.lax.cond((temperature > 0).any(), sampled, lambda: likeliest)
        return jnp.where(temperature > 0, tokens, likeliest)

    def _model(self, params: Params) -> VLM:
        return nnx.merge(self.graphdef, *params)


def nucleus(logits: Float[Array, "b v"], top_p: Float[Array, " b"]) -> Float[Array, "b v"]:
    """Logits of the likeliest tokens that have probability `top_p` together, `BANNED` elsewhere.

    Nucleus sampling (Holtzman et al., arXiv 1904.09751, section 3.1); of equally likely tokens all stay or none.
    Without sorting the vocabulary: the least probability that stays is found bit by bit, as float32 numbers above
    0 are ordered like their bits. Worked example, probabilities .5 .3 .2 and top_p .6: the largest bound above
    which there is at least .6 is .3, so .5 and .3 stay.
    """
    probabilities = jax.nn.softmax(logits, axis=-1)
    bits = jax.lax.bitcast_convert_type(probabilities, jnp.int32)

    def enough(bound):
        total = jnp.where(bits >= bound[:, None], probabilities, 0).sum(axis=-1)
        return total >= top_p

    def next_bit(number, bound):
        higher = bound | (1 << (30 - number))
        return jnp.where(enough(higher), higher, bound)

    bound = jax.lax.fori_loop(0, 31, next_bit, jnp.zeros(len(logits), jnp.int32))
    return jnp.where((bits >= bound[:, None]) | (top_p >= 1)[:, None], logits, BANNED)


def bucket(length: int, most: int) -> int:
    """The slots that a conversation of `length` is read in: 64, 96, 128, 192, 256, ..., at most `most`."""
    size = 64
    while size < length:
        size = size * 3 // 2 if size & (size - 1) == 0 else size * 4 // 3
    return min(size, most)
