"""Answers many conversations at once on one device: continuous batching.

    engine = Engine(graphdef, params, tokenizer, config, lanes=8, max_length=4096)
    replies = engine.answer(requests)               # all of them, however many
    stream = engine.submit(request)                 # one, from any thread
    for piece in stream: ...                        # text as it is written
    reply = stream.result()

* A thread of the engine's own has the device: it reads waiting conversations into free lanes, one after another,
  lets all lanes write a few tokens (`Programs.write`), hands out what they wrote, and so on. A lane whose answer
  has ended is given to the next conversation while the others go on.
* Whoever asks prepares: texts are tokenised and pictures scaled in the caller's thread, and hold up nobody else.
* What is written is the same whatever else is being answered: a lane sees only its own slots, and its random
  numbers are its own. (In float32; bfloat16 rounds as the batch's size has it.)
"""

from __future__ import annotations

import collections
import queue
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import DTypeLike

from vldac.generate.conversation import ConversationEncoder, Encoded, TooLong
from vldac.generate.lanes import Lanes, Params, Programs, Reading, Wish, bucket
from vldac.generate.request import Message, Reply, Request
from vldac.generate.sight import Picture, Sight
from vldac.generate.writing import Writing
from vldac.models import VLMConfig
from vldac.text.tokenizer import Tokenizer, Vocabulary, vocabulary

TOKENS_AT_ONCE = 8  # written between two looks of the host: few enough to stream, enough not to wait for it
Event = str | Reply | BaseException


class Closed(RuntimeError):
    """The engine was closed while, or before, a request was answered."""


@dataclass(eq=False)
class Stream:
    """An answer that is being written. Iterating gives its text piece by piece; `result` all of it.

    Attributes:
      prompt_tokens: of the conversation, visual ones included.
    """

    prompt_tokens: int
    _encoded: Encoded
    _pictures: list[Picture]
    _wish: Wish
    _writing: Writing
    _listener: Callable[[Event], None] | None
    _events: queue.SimpleQueue = field(default_factory=queue.SimpleQueue)
    _outcome: Reply | BaseException | None = None
    _tokens: int = 0
    _cancelled: bool = False

    def __iter__(self) -> Iterator[str]:
        """Pieces of text, whole characters each; their sum is the reply's text.

        Raises:
          Closed: the engine was closed.
          Exception: whatever went wrong on the device.
        """
        while self._outcome is None:
            event = self._events.get()
            if isinstance(event, str):
                yield event
            else:
                self._outcome = event
        if isinstance(self._outcome, BaseException):
            raise self._outcome

    def result(self) -> Reply:
        """Waits for the answer's end. Raises as iterating does."""
        for _ in self:
            pass
        return self._outcome

    def cancel(self) -> None:
        """The answer is not wanted any more: its lane is given to another, what is written so far is the reply."""
        self._cancelled = True

    def _tell(self, event: Event) -> None:
        if event == "":
            return
        if self._listener is None:
            self._events.put(event)
            return
        try:
            self._listener(event)
        except Exception:  # whoever listened is gone: not the others' affair
            self._cancelled = True


class Engine:
    """Answers requests with a vision-language model; an `Answerer`. Its methods may be called by any thread.

    Args:
      graphdef: the model's definition, with the layers of an adapter if there is one.
      params: states that it is merged with: (weights,), or (weights, adapter).
      tokenizer: a Hugging Face tokenizer.
      config: the model's.
      lanes: answers that are written at once; memory for keys and values is lanes x max_length tokens.
      max_length: tokens of a conversation and its answer together.
      dtype: what the model computes in.
      tokens_at_once: tokens that are written between two looks of the host.
      ends: ids that end an answer, beside the template's end of a turn and the tokenizer's end of text.

    Attributes:
      max_length, lanes: as given.
      vocabulary: the model's tokens. What can be written is what has bytes, and what ends an answer.

    Raises:
      ValueError: an option out of range, keys and values that the device has no room for, or a tokenizer that does
        not fit the model.
    """

    def __init__(
        self,
        graphdef: nnx.GraphDef,
        params: Params,
        tokenizer: Tokenizer,
        config: VLMConfig,
        *,
        lanes: int = 8,
        max_length: int = 4096,
        dtype: DTypeLike = jnp.float32,
        tokens_at_once: int = TOKENS_AT_ONCE,
        ends: Collection[int] = (),
    ):
        for name, value in (("lanes", lanes), ("max_length", max_length), ("tokens_at_once", tokens_at_once)):
            if value < 1:
                raise ValueError(f"{name} is {value}; accepted: 1 or more")
        self.max_length, self.lanes = max_length, lanes
        self.vocabulary: Vocabulary = vocabulary(tokenizer, config.vocab_size, config.special_ids)
        self._config, self._dtype, self._params = config, dtype, params
        self._tokens_at_once = tokens_at_once
        self._encoder = ConversationEncoder(tokenizer, self.vocabulary, config)
        if wrong := sorted(token for token in ends if not 0 <= token < self.vocabulary.size):
            raise ValueError(f"ends holds {wrong}; accepted: ids from 0 to {self.vocabulary.size - 1}")
        all_ends = {self.vocabulary.eos_id, tokenizer.eos_token_id, *ends} - {None, *config.special_ids}
        self._ends = frozenset(all_ends)
        writable = np.array([text is not None for text in self.vocabulary.bytes_of])
        ending = np.zeros_like(writable)
        ending[sorted(all_ends)] = True
        programs = Programs(graphdef, writable | ending, ending)
        self._sight = Sight(graphdef, config, dtype)
        self._admit = jax.jit(programs.admit, donate_argnames="lanes")
        self._write = jax.jit(programs.write, static_argnames="tokens", donate_argnames="lanes")
        self._layers = jax.jit(programs.decode_layers)(params)
        self._state: Lanes | None = self._lanes_that_fit()
        self._streams: list[Stream | None] = [None] * lanes
        self._waiting: collections.deque[Stream] = collections.deque()
        self._changed = threading.Condition()
        self._closed = False
        self._error: Exception | None = None  # after which it could not go on
        self._thread: threading.Thread | None = None

    @property
    def waiting(self) -> int:
        """Requests that no lane is free for yet."""
        return len(self._waiting)

    @property
    def closed(self) -> bool:
        """Whether nothing is answered any more."""
        return self._closed

    @property
    def active(self) -> int:
        """Answers that are being written."""
        return sum(stream is not None for stream in self._streams)

    def answer(self, requests: Sequence[Request]) -> list[Reply]:
        """See `Answerer.answer`. Every request is looked at before the first is answered."""
        encoded = [self._fitting(request) for request in requests]
        streams = []
        try:
            for pair in zip(requests, encoded, strict=True):
                with self._changed:  # pictures of many requests would take more memory than there is
                    self._changed.wait_for(lambda: len(self._waiting) < 2 * self.lanes or self._closed)
                streams.append(self._submit(*pair, None))
            return [stream.result() for stream in streams]
        except BaseException:  # also a Ctrl-C: nobody waits for the others
            for stream in streams:
                stream.cancel()
            raise

    def submit(
        self,
        request: Request,
        listener: Callable[[Event], None] | None = None,
        encoded: Encoded | None = None,
    ) -> Stream:
        """Begins to answer one request.

        Args:
          request: to be answered.
          listener: is told the pieces of text and at last the reply, or what went wrong, in the engine's thread:
            it must not block. None = they are kept for whoever iterates over the stream.
          encoded: of the request's conversation, by `encode`; None = not encoded yet.

        Raises:
          TooLong: there is no room for it.
          ValueError: it does not fit the model in another way.
          Closed: the engine is closed.
        """
        return self._submit(request, self._fitting(request, encoded), listener)

    def encode(self, messages: Sequence[Message]) -> Encoded:
        """A conversation as the model reads it, for `submit`; what it leaves of `max_length` is the answer's.

        Raises:
          TooLong: it is so long that it was not even tokenised.
          ValueError: it can not be read.
        """
        return self._encoder.encode(messages, self.max_length)

    def close(self) -> None:
        """Ends the engine's thread; requests not answered yet raise `Closed`."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def _fitting(self, request: Request, encoded: Encoded | None = None) -> Encoded:
        """A request's conversation, encoded; raises as `submit` does."""
        if "" in request.stop:
            raise ValueError("stop holds an empty text; accepted: texts of at least one character")
        encoded = self.encode(request.messages) if encoded is None else encoded
        length = len(encoded.tokens)
        if length + request.max_tokens > self.max_length:
            raise TooLong(
                f"the conversation has {length} tokens and max_tokens is {request.max_tokens}; accepted: "
                f"max_length, which is {self.max_length}, for both together"
            )
        return encoded

    def _submit(self, request: Request, encoded: Encoded, listener: Callable[[Event], None] | None) -> Stream:
        # No more than the engine needs: pictures as they came may be a hundred times as large as what is read.
        wish = Wish(
            limit=np.int32(request.max_tokens),
            temperature=np.float32(request.temperature),
            top_p=np.float32(request.top_p),
            seed=np.array([request.seed & 0xFFFFFFFF, request.seed >> 32 & 0xFFFFFFFF], np.uint32),
        )
        writing = Writing(self.vocabulary, request.stop)
        pictures = self._sight.prepare(encoded.looks)
        encoded = replace(encoded, looks=())
        stream = Stream(len(encoded.tokens), encoded, pictures, wish, writing, listener)
        with self._changed:
            if self._closed:
                raise Closed("the engine is closed") from self._error
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
                self._thread.start()
            self._waiting.append(stream)
            self._changed.notify_all()
        return stream

    def _run(self) -> None:
        while True:
            with self._changed:
                while not (self._closed or self._waiting or self.active):
                    self._changed.wait()
                if self._closed:
                    unanswered = [*filter(None, self._streams), *self._waiting]
                    self._waiting.clear()
                    self._streams = [None] * self.lanes
                    break
            try:
                # What computes in float32 is not to be rounded to less.
                with jax.default_matmul_precision("highest" if self._dtype == jnp.float32 else "default"):
                    self._step()
            except Exception as error:  # of the device: the lanes' arrays may be gone with it
                self._begin_anew(error)
        for stream in unanswered:
            stream._tell(Closed("the engine was closed"))

    def _begin_anew(self, error: Exception) -> None:
        """After an error all lanes are free; the engine closes if the device does not give them again."""
        lost, self._streams, self._state = list(filter(None, self._streams)), [None] * self.lanes, None
        try:
            self._state = self._free_lanes()
        except Exception:  # nor will it later, and whoever waits would wait for ever
            with self._changed:
                self._closed, self._error = True, error
                lost += self._waiting
                self._waiting.clear()
                self._changed.notify_all()
        for stream in lost:
            stream._tell(error)

    def _free_lanes(self) -> Lanes:
        lanes = Lanes.free(self._config.text, self.lanes, self.max_length, self._dtype)
        return jax.block_until_ready(lanes)  # or there might be no room for them after all

    def _lanes_that_fit(self) -> Lanes:
        """Free lanes; raises a ValueError if the device has no room for them."""
        try:
            return self._free_lanes()
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            text = self._config.text
            heads = 2 * text.num_hidden_layers * text.num_key_value_heads  # keys and values
            size = self.lanes * self.max_length * heads * text.head_dim * jnp.dtype(self._dtype).itemsize
            raise ValueError(
                f"lanes, max_length are {self.lanes}, {self.max_length}, whose keys and values take "
                f"{size / 2**30:.1f} GiB; accepted: what the device has room for"
            ) from error

    def _step(self) -> None:
        """Fills the free lanes, writes a few tokens in all of them, hands them out."""
        self._dismiss()
        first = []
        for lane, stream in enumerate(self._streams):
            if stream is None and (stream := self._next()) is not None:
                try:
                    token = self._read(lane, stream)
                except Exception as error:
                    stream._tell(error)
                    if self._state.token.is_deleted():  # the lanes went with it
                        raise
                else:
                    self._streams[lane] = stream
                    first.append((lane, token))
        with self._changed:
            self._changed.notify_all()  # there is room for more to wait
        for lane, token in first:  # all have been started before the first is waited for
            self._hand_out(lane, [int(token)])
        for lane, stream in enumerate(self._streams):
            if stream is not None and stream._cancelled:
                self._end(lane, "stop")
        # Some answers end here and not on the device: at a text of `stop`, or as they are cancelled.
        dropped = np.array([stream is None for stream in self._streams])
        if dropped.all():
            return
        self._state, tokens = self._write(
            self._params,
            self._layers,
            self._state,
            dropped,
            np.bool_(len(self._waiting) > 0),
            tokens=self._tokens_at_once,
        )
        for lane, row in enumerate(np.asarray(tokens)):
            self._hand_out(lane, row[row >= 0].tolist())

    def _next(self) -> Stream | None:
        """The first of those that wait and are still wanted."""
        self._dismiss()
        return self._waiting.popleft() if self._waiting else None

    def _dismiss(self) -> None:
        """Whoever has gone away while waiting gives the place to others, whether a lane is free or not."""
        with self._changed:
            gone = [stream for stream in self._waiting if stream._cancelled]
            for stream in gone:
                self._waiting.remove(stream)
            self._changed.notify_all()
        for stream in gone:
            stream._tell(_reply(stream, "stop"))

    def _read(self, lane: int, stream: Stream) -> jax.Array:
        """Reads a stream's conversation into a lane; the first token of its answer."""
        encoded = stream._encoded
        length = len(encoded.tokens)
        slots = bucket(length, self.max_length)
        pictures, stream._pictures = stream._pictures, []
        levels = self._sight.levels(self._params, pictures, slots) if pictures else None
        spare = slots - length
        reading = Reading(
            tokens=np.pad(encoded.tokens, (0, spare)),
            positions=np.pad(encoded.positions, ((0, 0), (0, spare))),
            length=np.int32(length),
            next_position=np.int32(encoded.next_position),
            images=np.pad(encoded.images, (0, spare), constant_values=-1) if pictures else None,
            levels=levels,
        )
        self._state, token = self._admit(self._params, self._state, np.int32(lane), reading, stream._wish)
        return token

    def _hand_out(self, lane: int, tokens: Sequence[int]) -> None:
        """Tells a lane's stream what was written in it."""
        stream = self._streams[lane]
        for token in tokens if stream is not None else ():
            stream._tokens += 1
            if token in self._ends:  # not a part of the answer, even where it has bytes
                self._end(lane, "stop")
                return
            stream._tell(stream._writing.add(token))
            if stream._writing.stopped:
                self._end(lane, "stop")
                return
            if stream._tokens == stream._wish.limit:
                self._end(lane, "length")
                return

    def _end(self, lane: int, reason: str) -> None:
        stream, self._streams[lane] = self._streams[lane], None
        stream._tell(stream._writing.end())
        if stream._writing.stopped:
            reason = "stop"
        stream._tell(_reply(stream, reason))


def _reply(stream: Stream, reason: str) -> Reply:
    return Reply(stream._writing.text, reason, stream.prompt_tokens, stream._tokens)
