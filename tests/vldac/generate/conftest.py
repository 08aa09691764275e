"""Tiny models to be asked, and the slow way to answer: one request alone, everything anew for each token."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from vldac.generate import Engine, Message, Reply, Request
from vldac.generate.conversation import ConversationEncoder
from vldac.models import VLM, Inputs, VLMConfig, create
from vldac.text.tokenizer import vocabulary

SLOTS = 160  # of an engine's lane in the tests


@dataclass(frozen=True, eq=False)
class Model:
    """A model with its tokenizer."""

    graphdef: nnx.GraphDef
    params: nnx.State
    tokenizer: Any
    config: VLMConfig

    def engine(self, **options: Any) -> Engine:
        options = {"lanes": 3, "max_length": SLOTS, "tokens_at_once": 4, **options}
        return Engine(self.graphdef, (self.params,), self.tokenizer, self.config, **options)

    @functools.cached_property
    def vocabulary(self):
        return vocabulary(self.tokenizer, self.config.vocab_size, self.config.special_ids)

    @functools.cached_property
    def encoder(self) -> ConversationEncoder:
        return ConversationEncoder(self.tokenizer, self.vocabulary, self.config)

    @functools.cached_property
    def _forward(self):
        @jax.jit
        def forward(params, embeddings, positions, length, images, deepstack):
            model: VLM = nnx.merge(self.graphdef, params)
            valid = jnp.arange(SLOTS)[None] < length
            hidden, _ = model.forward(Inputs(embeddings, positions, valid, images, deepstack))
            return model.logits(hidden[0, length - 1])

        return forward

    def slowly(self, request: Request) -> list[int]:
        """The ids of a greedy answer: all slots from the beginning for every token."""
        model: VLM = nnx.merge(self.graphdef, self.params)
        encoded = self.encoder.encode(request.messages)
        writable = {i for i, text in enumerate(self.vocabulary.bytes_of) if text is not None}
        ends = {self.vocabulary.eos_id, self.tokenizer.eos_token_id}
        banned = np.array([i not in writable | ends for i in range(self.config.vocab_size)])
        deepstack, answer = None, []
        looks = [(look, encode(self.graphdef, self.params, look.frames)) for look in encoded.looks]
        while len(answer) < request.max_tokens:
            n = len(encoded.tokens) + len(answer)
            embeddings = np.zeros((1, SLOTS, self.config.hidden_size), np.float32)
            embeddings[0, :n] = model.embed(jnp.asarray([*encoded.tokens, *answer]))
            positions = np.zeros((1, 3, SLOTS), np.int32)
            positions[0, :, : len(encoded.tokens)] = encoded.positions
            positions[0, :, len(encoded.tokens) : n] = encoded.next_position + np.arange(len(answer))
            images = np.full((1, SLOTS), -1, np.int32)
            images[0, : len(encoded.images)] = encoded.images
            for look, (features, levels) in looks:
                embeddings[0, look.slots] = features
                if levels is not None:
                    deepstack = np.zeros((len(levels), 1, SLOTS, features.shape[-1]), np.float32)
                    deepstack[:, 0, look.slots] = levels
            logits = np.array(self._forward(self.params, embeddings, positions, n, images, deepstack))
            logits[banned] = -np.inf
            answer.append(int(logits.argmax()))
            if answer[-1] in ends:
                break
        return answer


def encode(graphdef, params, frames):
    """(features [n * T, d], deepstack [K, n * T, d] or None), picture by picture."""
    seen = [jax.jit(lambda p, x: nnx.merge(graphdef, p).encode_images(x))(params, frame[:1]) for frame in frames]
    features = np.concatenate([np.asarray(visual.features[0]) for visual in seen])
    if seen[0].deepstack is None:
        return features, None
    return features, np.concatenate([np.asarray(visual.deepstack[:, 0]) for visual in seen], axis=1)


def make(config: VLMConfig, tokenizer: Any, seed: int = 0) -> Model:
    model = create(config, rngs=nnx.Rngs(seed))
    graphdef, params = nnx.split(model)
    return Model(graphdef, params, tokenizer, config)


@pytest.fixture(scope="session")
def model(tiny, tokenizer) -> Model:
    return make(tiny, tokenizer)


@pytest.fixture(scope="session")
def gemma(tiny_gemma, gemma_tokenizer) -> Model:
    return make(tiny_gemma, gemma_tokenizer(False))


@pytest.fixture(scope="module")
def engine(model):
    with model.engine() as engine:
        yield engine


def picture(seed: int, height: int = 16, width: int = 16) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@pytest.fixture(scope="session")
def requests() -> list[Request]:
    """Conversations of different lengths, with pictures and without, answers of different lengths."""

    def user(*parts):
        return Message("user", parts)

    turns = [
        (user("Which colour?"),),
        (user("Look: ", picture(0), " at this."),),
        (Message("system", ("Be brief.",)), user(picture(1), picture(2, 16, 24), "Which?")),
        (user("A"), Message("assistant", ("b",)), user(picture(3, 24, 16), "and now")),
        (user("é" * 20),),
        (user("x", picture(4)), Message("assistant", ("y",)), user("z", picture(5))),
        (user("The last."),),
    ]
    return [Request(messages, max_tokens=3 + 4 * (n % 4)) for n, messages in enumerate(turns)]


def text_of(model: Model, ids: list[int]) -> str:
    return b"".join(model.vocabulary.bytes_of[i] or b"" for i in ids).decode("utf-8", errors="replace")


def reply_of(model: Model, request: Request, ids: list[int]) -> Reply:
    reason = "stop" if model.vocabulary.bytes_of[ids[-1]] is None else "length"
    return Reply(text_of(model, ids), reason, len(model.encoder.encode(request.messages).tokens), len(ids))
