"""An OpenAI-compatible endpoint over an engine, as an ASGI application.

    POST /v1/chat/completions    an answer, whole or streamed (server-sent events)
    GET  /v1/models              the one model that there is
    GET  /health                 how many answers are being written and waited for; needs no key

* All requests go to one engine, which answers them together. What one client does (reads slowly, goes away, sends
  nonsense) is that client's affair: pieces of text are handed over without waiting, and whoever goes away gives
  the lane back.
* Whoever calls the server by a name that is not its own is refused first: see `hosts`.
* A request's body and images are read before the engine hears of it, in a few threads, within `Limits`. A thread
  that has decoded pictures submits them as well, so that those of a few requests at most are in memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hmac
import json
import logging
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any

import anyio
from anyio.to_thread import run_sync
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from vldac.generate.conversation import TooLong
from vldac.generate.engine import Closed, Engine, Event, Stream
from vldac.generate.request import Reply
from vldac.serve.hosts import ANY, HostCheck, checked
from vldac.serve.limits import Limits, RateLimiter
from vldac.serve.protocol import chunk, completion, read_request, usage
from vldac.serve.refusal import Refused

READERS = 4  # threads that read bodies: an image is decompressed in each
log = logging.getLogger(__name__)


def create_app(
    engine: Engine,
    model: str,
    limits: Limits | None = None,
    api_key: str | None = None,
    hosts: Iterable[str] = (ANY,),
) -> Starlette:
    """The application.

    Args:
      engine: answers; whoever made it closes it.
      model: the name by which clients know it.
      limits: of what clients may ask.
      api_key: what they have to show ("Authorization: Bearer KEY"), blanks around it aside; None = nothing.
      hosts: names and addresses by which they may call it, without ports; "*" = any. Give a server that only its
        own machine reaches that machine's names: web pages that are read there would reach it by others.

    Raises:
      ValueError: the key is blank, or a host is none.
    """
    if api_key is not None and not api_key.strip():
        raise ValueError("api_key is blank; accepted: some text, or None")
    server = _Server(engine, model, limits or Limits(), api_key)
    return Starlette(
        routes=[
            Route("/v1/chat/completions", server.chat, methods=["POST"]),
            Route("/v1/models", server.models),
            Route("/v1/models/{name:path}", server.model_named),
            Route("/health", server.health),
        ],
        middleware=[Middleware(HostCheck, names=checked(hosts))],
        exception_handlers={
            Refused: lambda _, error: _refusal(error),
            HTTPException: lambda _, error: _refusal(Refused(error.detail, status=error.status_code)),
            Exception: lambda _, error: _refusal(_failure(error)),
        },
    )


class _Server:
    def __init__(self, engine: Engine, model: str, limits: Limits, api_key: str | None):
        self._engine, self._model, self._limits = engine, model, limits
        self._key = None if api_key is None else api_key.encode().strip()
        self._rates = RateLimiter(limits.requests_per_minute)
        self._readers = anyio.CapacityLimiter(READERS)
        self._unanswered = 0  # requests from their first byte to the end of their answer
        self._started = int(time.time())

    async def health(self, request: Request) -> Response:
        engine = self._engine
        if engine.closed:
            return JSONResponse({"status": "closed"}, status_code=503)
        return JSONResponse({"status": "ok", "active": engine.active, "waiting": engine.waiting})

    async def models(self, request: Request) -> Response:
        self._authorise(request)
        return JSONResponse({"object": "list", "data": [self._card()]})

    async def model_named(self, request: Request) -> Response:
        self._authorise(request)
        if request.path_params["name"] != self._model:
            raise Refused(f"accepted: {self._model!r}", "model", status=404, code="model_not_found")
        return JSONResponse(self._card())

    def _card(self) -> dict[str, Any]:
        return {
            "id": self._model,
            "object": "model",
            "created": self._started,
            "owned_by": "vldac",
            "max_model_len": self._engine.max_length,
        }

    async def chat(self, request: Request) -> Response:
        """Answers a conversation."""
        self._authorise(request)
        if wait := self._rates.wait(request.client.host if request.client else ""):
            most = self._limits.requests_per_minute
            raise Refused(f"accepted: {most} requests a minute", status=429, code="rate_limit", retry_after=wait)
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            # Also what keeps web pages out: a browser lets them send this type only to servers that agree.
            raise Refused("content-type is accepted as application/json only", status=415)
        if self._unanswered >= self._engine.lanes + self._limits.queue:
            raise Refused("too many requests are waiting", status=429, code="queue_full", retry_after=1.0)
        with self._one_more() as done:
            body = await self._body(request)
            pieces = _Pieces()
            try:
                stream, piecewise, include_usage = await run_sync(
                    self._begin, body, pieces.listener(done), limiter=self._readers
                )
            except Closed as error:
                raise _failure(error) from error
            del body  # it is not needed while the answer is waited for
        answer_id, created = f"chatcmpl-{secrets.token_hex(12)}", int(time.time())
        if piecewise:
            events = self._events(pieces, answer_id, created, include_usage)
            return _EventStream(events, stream.cancel, self._limits.stall_seconds)
        try:
            reply = await _unless_gone(request, pieces.reply(), stream.cancel)
        except Exception as error:
            raise _failure(error) from error
        if reply is None:
            return Response(status_code=499)  # nobody hears it; nginx's number for that
        return JSONResponse(completion(answer_id, created, self._model, reply))

    @contextlib.contextmanager
    def _one_more(self):
        """Counts a request until `done`, which it gives, is called, or this is left by an error."""
        self._unanswered += 1
        left = iter([None])

        def done() -> None:
            for _ in left:  # once
                self._unanswered -= 1

        try:
            yield done
        except BaseException:
            done()
            raise

    def _authorise(self, request: Request) -> None:
        if self._key is None:
            return
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        # Starlette reads a header's bytes as Latin-1; a key that is not ASCII comes as UTF-8.
        right = hmac.compare_digest(key.encode("latin-1").strip(), self._key)
        if not (right and scheme.lower() == "bearer"):
            raise Refused("no API key, or a wrong one", status=401, code="invalid_api_key")

    async def _body(self, request: Request) -> bytes:
        most = self._limits.body_bytes
        large = Refused(f"the body is larger than {most} bytes, the most that is accepted", status=413)
        told = request.headers.get("content-length", "")
        if told.isdecimal() and int(told) > most:
            raise large
        body = bytearray()
        try:
            async with asyncio.timeout(self._limits.stall_seconds):
                async for piece in request.stream():
                    body += piece
                    if len(body) > most:
                        raise large
        except TimeoutError as error:
            raise Refused("the body did not come in time", status=408) from error
        except ClientDisconnect as error:
            raise Refused("the client went away", status=499) from error
        return bytes(body)

    def _begin(self, body: bytes, listener: Callable[[Event], None]) -> tuple[Stream, bool, bool]:
        """Reads a request and submits it; of what was read only `stream` and `include_usage` are left."""
        wanted = read_request(body, self._model, self._limits)
        try:
            encoded = self._engine.encode(wanted.messages)
            tokens = wanted.max_tokens
            if tokens is None:  # where nothing is left, one too many, to be refused
                tokens = min(self._limits.max_tokens, max(self._engine.max_length - len(encoded.tokens), 1))
            stream = self._engine.submit(wanted.request(tokens), listener, encoded)
        except TooLong as error:
            raise Refused(str(error), "messages", code="context_length_exceeded") from error
        except ValueError as error:
            raise Refused(str(error), "messages") from error
        return stream, wanted.stream, wanted.include_usage

    async def _events(
        self, pieces: _Pieces, answer_id: str, created: int, include_usage: bool
    ) -> AsyncIterator[dict[str, Any]]:
        """What is sent piece by piece."""
        make = functools.partial(chunk, answer_id, created, self._model)
        more = {"usage": None} if include_usage else {}
        yield make({"role": "assistant", "content": ""}) | more
        async for event in pieces:
            if isinstance(event, str):
                yield make({"content": event}) | more
            elif isinstance(event, Reply):
                yield make({}, event.finish_reason) | more
                if include_usage:
                    yield make({}) | {"choices": [], "usage": usage(event)}
            else:
                yield _failure(event).body()


class _Pieces:
    """Events of an answer on their way from the engine's thread to the server's loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[Event] = asyncio.Queue()

    def listener(self, done: Callable[[], None]) -> Callable[[Event], None]:
        """What the engine tells; `done` is called in the loop when all has been told."""

        def arrived(event: Event) -> None:
            self._events.put_nowait(event)
            if not isinstance(event, str):
                done()

        return lambda event: self._loop.call_soon_threadsafe(arrived, event)

    async def __aiter__(self) -> AsyncIterator[Event]:
        """Up to the reply, or what went wrong. What has gathered meanwhile comes as one piece."""
        while True:
            text, event = "", await self._events.get()
            while isinstance(event, str):
                text += event
                if self._events.empty():
                    break
                event = self._events.get_nowait()
            if text:
                yield text
            if not isinstance(event, str):
                yield event
                return

    async def reply(self) -> Reply:
        """All of the answer."""
        async for event in self:
            if isinstance(event, BaseException):
                raise event
        return event


class _EventStream(Response):
    """Server-sent events, until they end, or until their reader goes away or stops reading.

    Args:
      events: JSON objects.
      gone: called when nobody reads any more.
      stall_seconds: how long the reader may take for one event.
    """

    def __init__(self, events: AsyncIterator[dict[str, Any]], gone: Callable[[], None], stall_seconds: float):
        super().__init__(media_type="text/event-stream", headers={"cache-control": "no-cache"})
        del self.headers["content-length"]
        self._events, self._gone, self._stall_seconds = events, gone, stall_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sending = asyncio.ensure_future(self._send(send))
        leaving = asyncio.ensure_future(_disconnected(receive))
        try:
            await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                with contextlib.suppress(TimeoutError):  # it does not read: the connection is closed
                    sending.result()
        finally:
            self._gone()  # changes nothing where all has been sent
            for task in (sending, leaving):
                task.cancel()
            await asyncio.gather(sending, leaving, return_exceptions=True)

    async def _send(self, send: Send) -> None:
        async def send_text(text: str, more: bool = True) -> None:
            async with asyncio.timeout(self._stall_seconds):
                await send({"type": "http.response.body", "body": text.encode(), "more_body": more})

        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        async for event in self._events:
            await send_text(f"data: {json.dumps(event)}\n\n")
        await send_text("data: [DONE]\n\n", more=False)


async def _unless_gone(request: Request, reply: Any, gone: Callable[[], None]) -> Reply | None:
    """The reply; None if the client goes away before it is there."""
    answering = asyncio.ensure_future(reply)
    leaving = asyncio.ensure_future(_disconnected(request.receive))
    try:
        await asyncio.wait({answering, leaving}, return_when=asyncio.FIRST_COMPLETED)
        return answering.result() if answering.done() else None
    finally:
        gone()
        for task in (answering, leaving):
            task.cancel()
        await asyncio.gather(answering, leaving, return_exceptions=True)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _failure(error: BaseException) -> Refused:
    """What a client is told of what is not its fault: no more than that."""
    if isinstance(error, Closed):
        return Refused("the server is shutting down", status=503, code="shutting_down")
    log.error("a request failed", exc_info=error)
    return Refused("the model could not answer", status=500, code="internal_error")


def _refusal(error: Refused) -> Response:
    headers = {}
    if error.retry_after is not None:
        headers["retry-after"] = str(int(error.retry_after) + 1)
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    return JSONResponse(error.body(), status_code=error.status, headers=headers)
