"""One vision-language model, one value head, one codec: what acts, and what is trained.

* `act` writes an answer token by token; `log_probs` scores the same tokens in the training pass. With
  unchanged parameters the two agree, so the importance ratio starts at 1.
* Slots of a sequence are static: [prefix | context | answer]. The prefix (the static text of the prompt) is
  the same for every lane, so its keys and values are computed once for a policy and shared.
* Absent slots (a frame not seen yet, unused dynamic text) are masked and take no position; nothing is
  packed, so the last context slot, whose hidden state gives the value and the first token, is static.
* Sampled ids are never decoded and encoded again; special, image and padding ids can not be sampled.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, DTypeLike, Float, Int, Key, PRNGKeyArray, UInt8

from envs_jax import World
from envs_jax.world import slots_of
from vldac import scoring
from vldac.answers import Answers, Prepared, Response, Scores, Sight
from vldac.lanes import Observation
from vldac.mesh import gather_fsdp
from vldac.models import VLM, Inputs, KVCache, TowerWork, ValueHead, Visual, VLMConfig, create, lora
from vldac.models.lora import LoRAConfig
from vldac.models.value_head import REFERENCE_SIZES
from vldac.params import with_adapter
from vldac.parts import in_parts, part_size
from vldac.sampling import draw
from vldac.text.grammar import ActionGrammar
from vldac.text.prompt import Prompt
from vldac.text.tokenizer import Vocabulary, vocabulary

VISION_BYTES = 2**32  # of a vision tower's intermediates that are held at a time
# Of layers that are written out once more for the static text, in the training pass. Its kernels are short, and
# what a loop adds to them is 4 % of an update of Qwen2-VL-2B; of 7B it is 1 %, not worth 10 GiB.
PREFIX_BYTES = 2**32


@dataclass(frozen=True)
class PolicyConfig:
    """How the model is shown a world and how it answers."""

    history: int = 1
    """Frames of the episode that the model sees, the present one included."""
    max_tokens: int = 32
    """Tokens of an answer at most, its end-of-sequence token included."""
    decoding: Literal["free", "grammar"] = "free"
    """"free" samples anything and looks for an answer in it; "grammar" can only write answers."""
    temperature: float = 1.0
    """Of sampling, and of every log-probability: the policy that is trained is the one that acts."""
    text_observation: bool = False
    """Put the world's own text (`describe`) into the prompt."""
    text_tokens: int = 0
    """Tokens of that text that there is room for; what is longer loses its end. 0 = as many as it could ever have,
    which for a world of many phrases is far more than it has."""
    remat: Literal["none", "dots", "full"] = "none"
    """What the training pass recomputes instead of storing, layer by layer."""
    unroll: bool = False
    """Write the decoder's layers out in the training pass: faster on large models, minutes more to compile."""

    def __post_init__(self):
        for field in ("history", "max_tokens"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field} is {getattr(self, field)}; accepted: 1 or more")
        if self.text_tokens < 0:
            raise ValueError(f"text_tokens is {self.text_tokens}; accepted: 0 or more")
        if not 0 < self.temperature < math.inf:
            raise ValueError(f"temperature is {self.temperature}; accepted: above 0, finite")


@dataclass(frozen=True, eq=False)
class Policy:
    """How a model acts in one world. Holds no parameters: every method is a pure function of them.

    Parameters are a dictionary: "model", the vision-language model's weights; "adapter", LoRA's, if there is one;
    "value", the critic's. Left out, "adapter" is off: that is the reference policy.

    Attributes:
      config: see there.
      model: the vision-language model's definition.
      adapted: the same with LoRA's layers, None without LoRA.
      head: the critic's definition.
      prompt: how observations become slots.
      grammar: how answers become actions.
      vocabulary: the tokens.
      dtype: what the model computes in.
      dropout: of LoRA's inputs, while an update is computed.
      gather: what each token reads lies whole along a mesh's fsdp axis while answers are written.
    """

    config: PolicyConfig
    model: nnx.GraphDef
    adapted: nnx.GraphDef | None
    head: nnx.GraphDef
    prompt: Prompt
    grammar: ActionGrammar
    vocabulary: Vocabulary
    dtype: DTypeLike
    dropout: float
    gather: bool

    @classmethod
    def build(
        cls,
        world: World,
        tokenizer: Any,
        model_config: VLMConfig,
        config: PolicyConfig,
        value_head: tuple[int, ...] = REFERENCE_SIZES,
        dtype: DTypeLike = jnp.float32,
        adapter: LoRAConfig | None = None,
        gather: bool = False,
    ) -> Policy:
        """A policy for `world`. Parameters fit every policy of the same model and head, whatever its world.

        Args:
          world: gives the prompt's words, the frame's size and the actions.
          tokenizer: a Hugging Face tokenizer.
          model_config: the vision-language model.
          config: how it is shown a world and how it answers.
          value_head: widths of the critic's hidden layers.
          dtype: what the model computes in.
          adapter: LoRA; None or rank 0 = none.
          gather: see the class.

        Raises:
          ValueError: the tokenizer does not fit the model, `max_tokens` can not hold an answer, or the adapter
            names layers that the model does not have.
        """
        tokens = vocabulary(tokenizer, model_config.vocab_size, model_config.special_ids)
        model = nnx.eval_shape(lambda: create(model_config, rngs=nnx.Rngs(0), dtype=dtype))
        head = nnx.eval_shape(lambda: ValueHead(model_config.hidden_size, value_head, rngs=nnx.Rngs(0)))
        plain, adapted = nnx.graphdef(model), None
        if adapter is not None and adapter.rank:
            adapted = nnx.graphdef(nnx.eval_shape(lambda: with_adapter(model_config, adapter, dtype)))
        height, width, _ = world.image_shape
        grammar = ActionGrammar.build(world.actions, tokens, config.decoding, slots_of(world))
        grammar.check_budget(config.max_tokens)
        return cls(
            config=config,
            model=plain,
            adapted=adapted,
            head=nnx.graphdef(head),
            prompt=Prompt.build(
                world,
                tokenizer,
                tokens,
                model_config.image_span(height, width),
                config.history,
                config.text_observation,
                config.text_tokens,
            ),
            grammar=grammar,
            vocabulary=tokens,
            dtype=dtype,
            dropout=0.0 if adapted is None else adapter.dropout,
            gather=gather,
        )

    def prepare(self, params: Any) -> Prepared:
        """Computes what stays the same while the parameters do."""
        model = self._model(params)
        prefix, layers = self._prefix(model), model.decode_layers(self.gather)
        if self.gather:
            params = {**params, "model": gather_fsdp(params["model"], "(embed_tokens|lm_head)/")}
        return Prepared(params=params, prefix=prefix, layers=layers)

    def look(self, prepared: Prepared, frames: UInt8[Array, "b n h w 3"]) -> Float[Array, "b n levels t d"]:
        """Visual tokens of frames, for `act` and `value`, so that a frame that stays in view is encoded once.

        They are the parameters' own: to be computed anew when those change.
        """
        return self._look(self._model(prepared.params), frames)

    def look_on(self, prepared: Prepared, observation: Observation, sight: Sight) -> Sight:
        """The sight of observations that have moved on by one frame since `sight`: only that one is encoded.

        In a fresh episode older frames are absent, and what is left of the episode before is never looked at.
        """
        return jnp.concatenate([sight[:, 1:], self.look(prepared, observation.frames[:, -1:])], axis=1)

    @staticmethod
    def keeps_sight(params: Any) -> bool:
        """Whether frames look the same whatever is learnt, as nothing of the vision tower is trained.

        Args:
          params: of the policy, or what is trained of them.
        """
        return not lora.trains_vision(params)

    def value(
        self, prepared: Prepared, observation: Observation, sight: Sight | None = None
    ) -> Float[Array, " b"]:
        """The critic's value of each observation, float32[B]. For `sight` see `act`."""
        model = self._model(prepared.params)
        inputs, _ = self._context(model, observation, sight)
        hidden, _ = model.forward(inputs, prepared.prefix, first=inputs.valid.shape[1] - 1)
        return self._value(prepared.params, hidden[:, -1])

    def act(
        self,
        prepared: Prepared,
        observation: Observation,
        key: Key[Array, "..."],
        silent: Bool[Array, " b"] | None = None,
        sight: Sight | None = None,
    ) -> Response:
        """Answers each observation, token by token, until every answer has ended.

        Args:
          prepared: from `prepare`.
          observation: of B worlds.
          key: of this call, or [B], of each answer.
          silent: lanes that need no answer, only a value: theirs is empty, with action -1.
          sight: the observation's frames as `look` encoded them, those not seen yet with anything finite;
            None = they are encoded here.

        Returns:
          The answers and the critic's values.
        """
        keys = key if key.ndim else jax.random.split(key, len(observation.frames_seen))
        answers = self.begin(prepared, observation, keys, silent, sight)
        answers = jax.lax.while_loop(
            lambda answers: ~answers.done.all(), lambda answers: self.go_on(prepared, answers), answers
        )
        return self.response(answers)

    def begin(
        self,
        prepared: Prepared,
        observation: Observation,
        keys: Key[Array, " b"],
        silent: Bool[Array, " b"] | None = None,
        sight: Sight | None = None,
    ) -> Answers:
        """Reads each observation and writes the first token of its answer. For the arguments see `act`."""
        model = self._model(prepared.params)
        inputs, next_position = self._context(model, observation, sight)
        hidden, cache = model.forward(inputs, prepared.prefix, first=inputs.valid.shape[1] - 1)
        hidden = hidden[:, -1]
        batch, length = len(hidden), self.config.max_tokens
        nothing = Answers(
            keys=keys,
            index=jnp.int32(0),
            token=jnp.zeros(batch, jnp.int32),
            state=self.grammar.initial(batch),
            done=jnp.zeros(batch, bool) if silent is None else silent,
            tokens=jnp.full((batch, length), self.vocabulary.pad_id, jnp.int32),
            log_probs=jnp.zeros((batch, length), jnp.float32),
            mask=jnp.zeros((batch, length), bool),
            value=self._value(prepared.params, hidden),
            context=jnp.pad(inputs.valid, ((0, 0), (0, length))),
            next_position=next_position,
            cache=cache.grow(length),
        )
        return self._write(model, nothing, hidden)

    def go_on(self, prepared: Prepared, answers: Answers) -> Answers:
        """One more token in every lane whose answer has not ended."""
        model = self._model(prepared.params)
        # The slots of the answer follow those of the context; token i lies in slot C + i.
        # Worked example, context valid = [0 1], 3 answer tokens, the second being written: [0 1 1 1 0].
        slots = answers.context.shape[1]
        first = slots - self.config.max_tokens
        number, at = answers.index - 1, jnp.arange(slots)  # of the token written last, which is read now
        position = jnp.broadcast_to((answers.next_position + number)[:, None], (len(answers.token), 3))
        valid = answers.context | ((at >= first) & (at <= (first + number)[..., None]))
        hidden, cache = model.decode_step(
            prepared.layers,
            model.embed(answers.token),
            position,
            answers.cache,
            first + number,
            valid,
            prepared.prefix,
        )
        return self._write(model, answers.replace(cache=cache), hidden)

    def response(self, answers: Answers) -> Response:
        """What has been written."""
        return Response(
            tokens=answers.tokens,
            log_probs=answers.log_probs,
            mask=answers.mask,
            grammar_state=answers.state,
            action=self._action(answers),
            value=answers.value,
        )

    def _action(self, answers: Answers) -> Int[Array, "b ..."]:
        grammar = self.grammar
        if grammar.reader is None:
            return grammar.action(answers.state)
        return grammar.record(answers.tokens, answers.mask)

    def _write(self, model: VLM, answers: Answers, hidden: Float[Array, "b d"]) -> Answers:
        """Draws the token that follows, where an answer has not ended."""
        index, live, length = answers.index, ~answers.done, self.config.max_tokens
        logits = self._mask_logits(model.logits(hidden), answers.state, length - index)
        keys = jax.vmap(jax.random.fold_in)(answers.keys, jnp.broadcast_to(index, live.shape))
        token, log_prob = jax.vmap(draw)(keys, logits)
        token = jnp.where(live, token, self.vocabulary.pad_id)
        here = live[:, None] & (jnp.arange(length) == index[..., None])  # [B, N]
        return answers.replace(
            index=index + (live if index.ndim else 1),
            token=token,
            state=jnp.where(live, self.grammar.advance(answers.state, token), answers.state),
            done=answers.done | self._ends(answers.keys, token, index + 1),
            tokens=jnp.where(here, token[:, None], answers.tokens),
            log_probs=jnp.where(here, log_prob[:, None], answers.log_probs),
            mask=answers.mask | here,
        )

    def _ends(
        self, keys: Key[Array, " b"], token: Int[Array, " b"], written: Int[Array, "..."]
    ) -> Bool[Array, " b"]:
        """Whether answers end with `token`, their token number `written`. (A benchmark has other rules.)"""
        return (token == self.vocabulary.eos_id) | (written >= self.config.max_tokens)

    def prefix(self, params: Any, key: PRNGKeyArray | None = None) -> KVCache:
        """Keys and values of the static text, for all lanes; differentiable in `params`.

        Args:
          params: see the class.
          key: of LoRA's dropout; None = no dropout.
        """
        return self._prefix(self._model(params, key), self.unrolls_prefix(params))

    def log_probs(
        self,
        params: Any,
        observation: Observation,
        tokens: Int[Array, "b n"],
        mask: Bool[Array, "b n"],
        key: PRNGKeyArray | None = None,
        sight: Sight | None = None,
        prefix: KVCache | None = None,
    ) -> Scores:
        """Scores given answers: the training pass, differentiable in `params`.

        The critic reads a stopped hidden state, so its gradient ends before the model.

        Args:
          params: see the class.
          observation: what was answered, B of them.
          tokens, mask: the answers, as in `Response`.
          key: of LoRA's dropout; None = no dropout.
          sight: as for `act`; only where `keeps_sight`, as no gradient flows into what it came from.
          prefix: from `prefix`, for several calls with the same parameters; None = it is computed here.
        """
        model = self._model(params, key)
        inputs, next_position = self._context(model, observation, sight)
        context, length = inputs.valid.shape[1], tokens.shape[1]
        # The last token of an answer is predicted but never read, so the answer takes one slot fewer.
        answer = jnp.broadcast_to(
            next_position[:, None, None] + jnp.arange(length - 1), (len(tokens), 3, length - 1)
        )
        inputs = inputs.append_text(model.embed(tokens[:, :-1]), answer, mask[:, :-1])
        if prefix is None:
            prefix = self._prefix(model, self.unrolls_prefix(params))
        # [B, N, d]: the last prompt token predicts the first answer token
        answered, _ = model.forward(inputs, prefix, self.config.remat, self.config.unroll, first=context - 1)
        states = self.grammar.states(tokens, mask)
        left = jnp.broadcast_to(length - jnp.arange(length), tokens.shape)
        # [B, N] -> [B * N]
        hidden, chosen, states, left = (
            x.reshape(-1, *x.shape[2:]) for x in (answered.astype(self.dtype), tokens, states, left)
        )
        scored = scoring.score(
            hidden, model.unembedding(), chosen, self.grammar.allowed, (states, left), self.config.temperature
        )
        log_probs, entropy = (x.reshape(tokens.shape) for x in scored)
        return Scores(
            log_probs=jnp.where(mask, log_probs, 0.0),
            entropy=jnp.where(mask, entropy, 0.0),
            value=self._value(params, jax.lax.stop_gradient(answered[:, 0])),
        )

    def _model(self, params: Any, dropout_key: PRNGKeyArray | None = None) -> VLM:
        if "adapter" not in params:
            return nnx.merge(self.model, params["model"])
        model = nnx.merge(self.adapted, params["model"], params["adapter"])
        if dropout_key is not None:
            lora.attach_keys(model, dropout_key)
        return model

    def _value(self, params: Any, hidden: Float[Array, "b d"]) -> Float[Array, " b"]:
        return nnx.merge(self.head, params["value"])(hidden)

    def _mask_logits(
        self, logits: Float[Array, "*b v"], states: Array, tokens_left: Array
    ) -> Float[Array, "*b v"]:
        """Logits at the policy's temperature, `scoring.BANNED` where a token can not be sampled."""
        allowed = self.grammar.allowed(states, tokens_left)
        return jnp.where(allowed, logits / self.config.temperature, scoring.BANNED)

    def unrolls_prefix(self, params: Any) -> bool:
        """Whether the training pass over the static text writes its layers out, too: see `PREFIX_BYTES`."""
        layers = jax.tree.leaves(params["model"]["language_model"]["layers"])
        size = sum(math.prod(leaf.shape) for leaf in layers) * jnp.dtype(self.dtype).itemsize
        return self.config.unroll and size <= PREFIX_BYTES

    def _prefix(self, model: VLM, unroll: bool = False) -> KVCache:
        """Keys and values of the static text, for all lanes."""
        tokens = jnp.asarray(self.prompt.prefix)[None]  # [1, P]
        positions = jnp.broadcast_to(jnp.arange(tokens.shape[1], dtype=jnp.int32), (1, 3, tokens.shape[1]))
        inputs = Inputs(model.embed(tokens), positions, jnp.ones(tokens.shape, bool))
        return model.forward(inputs, remat=self.config.remat, unroll=unroll)[1]

    def _context(
        self, model: VLM, observation: Observation, sight: Sight | None = None
    ) -> tuple[Inputs, Int[Array, " b"]]:
        """What lies in the context slots, text and frames, and the position of the first answer token."""
        if sight is None:
            sight = self._look(model, observation.frames)
        levels = jnp.moveaxis(sight.reshape(-1, *sight.shape[2:]), 1, 0)  # [1 + K, B * h, T, d]
        visual = Visual(levels[0], levels[1:] if len(levels) > 1 else None)
        slots = jax.vmap(self.prompt.context)(observation.frames_seen, observation.text)
        inputs = Inputs(model.embed(slots.tokens), slots.positions, slots.valid)
        return inputs.place(visual, self.prompt.image_slots, self.prompt.image_numbers), slots.next_position

    def _look(self, model: VLM, frames: UInt8[Array, "b n h w 3"]) -> Float[Array, "b n levels t d"]:
        """See `look`. No more frames are encoded at a time than `VISION_BYTES` has room for."""
        images = frames.reshape(-1, *frames.shape[2:])

        def encode(images):
            visual = model.encode_images(images, remat=self.config.remat)
            levels = visual.features[:, None]
            if visual.deepstack is None:
                return levels
            return jnp.concatenate([levels, jnp.moveaxis(visual.deepstack, 0, 1)], axis=1)

        most = images_at_once(model.config.tower_work(*images.shape[1:3]), len(images), self.dtype)
        if most < len(images):  # what is not held at a time is not kept for the backward pass either
            encode = jax.checkpoint(encode)
        levels = in_parts(encode, images, most)
        return levels.reshape(*frames.shape[:2], *levels.shape[1:])


def images_at_once(work: TowerWork, images: int, dtype: DTypeLike) -> int:
    """The largest divisor of `images` that a vision tower can take within `VISION_BYTES`; at least 1."""
    return part_size(images, VISION_BYTES // work.image_bytes(jnp.dtype(dtype).itemsize))
