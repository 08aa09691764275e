"""OpenAI's chat completions: a request's JSON read into a `Request`, replies and errors written as its clients
expect them.

* What is not done here is refused and named, never ignored: a field that would change the answer, an unknown
  field, a part that is neither text nor an image.
* Images come inside the request, see `images`.

Reference: https://platform.openai.com/docs/api-reference/chat
"""

from __future__ import annotations

import json
import math
import secrets
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vldac.generate.request import Message, Reply, Request
from vldac.serve.images import Images
from vldac.serve.limits import Limits
from vldac.serve.refusal import Refused, short

ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
MAX_STOPS = 16
_READ = {
    *("model", "messages", "max_tokens", "max_completion_tokens", "temperature", "top_p", "seed", "stop"),
    *("stream", "stream_options"),
}
_NO_MATTER = {
    *("user", "metadata", "store", "safety_identifier", "service_tier"),
    *("prompt_cache_key", "prompt_cache_retention"),
}
# Fields that change nothing at these values, and would at others.
_ONLY: dict[str, tuple[Any, ...]] = {
    "n": (None, 1),
    "frequency_penalty": (None, 0),
    "presence_penalty": (None, 0),
    "logit_bias": (None, {}),
    "logprobs": (None, False),
    "top_logprobs": (None, 0),
    "response_format": (None, {"type": "text"}),
    "modalities": (None, ["text"]),
    "tools": (None, []),
    "tool_choice": (None, "none"),
    "parallel_tool_calls": (None, True, False),
    **dict.fromkeys(("audio", "moderation", "prediction", "reasoning_effort", "verbosity"), (None,)),
}


@dataclass(frozen=True)
class ChatRequest:
    """What a client asks for.

    Attributes:
      messages: the conversation.
      max_tokens: None = the client does not say.
      options: further arguments of `Request`.
      stream: the answer is wanted piece by piece.
      include_usage: and at last how many tokens there were.
    """

    messages: tuple[Message, ...]
    max_tokens: int | None
    options: dict[str, Any] = field(default_factory=dict)
    stream: bool = False
    include_usage: bool = False

    def request(self, max_tokens: int) -> Request:
        return Request(self.messages, max_tokens=max_tokens, **self.options)


def read_request(body: bytes, model: str, limits: Limits) -> ChatRequest:
    """Reads a request's body, its images included.

    Args:
      body: JSON, UTF-8.
      model: the name of the one model that there is.
      limits: of what may be asked.

    Raises:
      Refused: it can not be answered.
    """
    data = _json(body)
    for name in data:
        if name in _ONLY:
            if not any(_same(data[name], value) for value in _ONLY[name]):
                accepted = ", ".join(json.dumps(value) for value in _ONLY[name])
                raise Refused(f"{name} is {short(data[name])}; accepted: {accepted}", name)
        elif name not in _READ | _NO_MATTER:
            raise Refused(f"unknown field {short(name)}", name if name.isidentifier() else None)
    if data.get("model") != model:
        raise Refused(
            f"model is {short(data.get('model'))}; accepted: {model!r}",
            "model",
            status=404,
            code="model_not_found",
        )
    stream = _boolean(data, "stream")
    stream_options = data.get("stream_options")
    if stream_options is not None and not (isinstance(stream_options, dict) and stream):
        raise Refused("stream_options is given; accepted: an object, and only with stream", "stream_options")
    options: dict[str, Any] = {
        "temperature": _number(data, "temperature", 1.0, 0.0, 2.0),
        "top_p": _number(data, "top_p", 1.0, 0.0, 1.0),
        "seed": _integer(data, "seed", -(2**63), 2**63 - 1),
        "stop": _stop(data.get("stop")),
    }
    if options["top_p"] == 0:  # as OpenAI takes it: the likeliest token alone
        options |= {"top_p": 1.0, "temperature": 0.0}
    if options["seed"] is None:
        options["seed"] = secrets.randbits(63)
    given = [name for name in ("max_completion_tokens", "max_tokens") if data.get(name) is not None]
    max_tokens = _integer(data, given[0], 1, limits.max_tokens) if given else None
    return ChatRequest(
        messages=_messages(data.get("messages"), limits),
        max_tokens=max_tokens,
        options=options,
        stream=stream,
        include_usage=_boolean(stream_options or {}, "include_usage"),
    )


def completion(answer_id: str, created: int, model: str, reply: Reply) -> dict[str, Any]:
    """A whole answer."""
    message = {"role": "assistant", "content": reply.text, "refusal": None}
    return {
        "id": answer_id,
        "object": "chat.completion",
        "created": created,
        "model": model,
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": reply.finish_reason}],
        "usage": usage(reply),
    }


def chunk(
    answer_id: str, created: int, model: str, delta: dict[str, Any], finish_reason: str | None = None
) -> dict[str, Any]:
    """A piece of an answer."""
    return {
        "id": answer_id,
        "object": "chat.completion.chunk",
        "created": created,
        "model": model,
        "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}],
    }


def usage(reply: Reply) -> dict[str, int]:
    return {
        "prompt_tokens": reply.prompt_tokens,
        "completion_tokens": reply.answer_tokens,
        "total_tokens": reply.prompt_tokens + reply.answer_tokens,
    }


def _json(body: bytes) -> dict[str, Any]:
    def constant(name: str) -> None:
        raise ValueError(f"{name} is no JSON")

    try:
        data = json.loads(body.decode("utf-8"), parse_constant=constant)
    except (ValueError, RecursionError) as error:  # neither UTF-8 nor JSON, or too deep
        raise Refused(f"the body is not JSON: {str(error)[:120]}") from error
    if not isinstance(data, dict):
        raise Refused(f"the body is {short(data)}; accepted: an object")
    return data


def _messages(messages: Any, limits: Limits) -> tuple[Message, ...]:
    if not isinstance(messages, list) or not messages:
        raise Refused(f"messages is {short(messages)}; accepted: a list of at least one message", "messages")
    images = Images(limits)
    read, count = [], 0
    for number, message in enumerate(messages):
        name = f"messages[{number}]"
        if not isinstance(message, dict):
            raise Refused(f"{name} is {short(message)}; accepted: an object", name)
        content = message.get("content")
        count += max(1, len(content)) if isinstance(content, list) else 1
        if count > limits.parts:  # before the rest is looked at, and before a template goes through it
            raise Refused(
                f"{name}: messages have more texts and images than {limits.parts}, the most that are accepted",
                name,
            )
        role = message.get("role")
        if not isinstance(role, str) or role not in ROLES:
            raise Refused(f"{name}.role is {short(role)}; accepted: {', '.join(ROLES)}", f"{name}.role")
        for field_name in message:
            if field_name not in ("role", "content", "name", "refusal") and message[field_name]:
                raise Refused(f"{name} has a field {short(field_name)}, which is not done here", name)
        parts = _parts(content, f"{name}.content", role, images)
        read.append(Message(ROLES[role], parts))
    return tuple(read)


def _parts(content: Any, name: str, role: str, images: Images) -> tuple[str | np.ndarray, ...]:
    if isinstance(content, str):
        return (_text(content, name),)
    if content is None and role == "assistant":
        return ()
    if not isinstance(content, list):
        raise Refused(f"{name} is {short(content)}; accepted: a text, or a list of parts", name)
    parts: list[str | np.ndarray] = []
    for number, part in enumerate(content):
        where = f"{name}[{number}]"
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text" and isinstance(part.get("text"), str):
            parts.append(_text(part["text"], where))
        elif kind == "image_url" and role == "user":
            url = part.get("image_url")
            parts.append(images.read(url.get("url") if isinstance(url, dict) else url, f"{where}.image_url"))
        else:
            accepted = '{"type": "text", "text": ...}'
            if role == "user":
                accepted += ' or {"type": "image_url", "image_url": {"url": "data:image/png;base64,..."}}'
            raise Refused(f"{where} is {short(part)}; accepted: {accepted}", where)
    return tuple(parts)


def _text(text: str, name: str) -> str:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:  # half of a surrogate pair, which JSON can spell
        raise Refused(f"{name} is no text: {error.reason}", name) from error
    return text


def _stop(stop: Any) -> tuple[str, ...]:
    stops = [stop] if isinstance(stop, str) else [] if stop is None else stop
    if (
        not isinstance(stops, list)
        or len(stops) > MAX_STOPS
        or not all(isinstance(text, str) and text for text in stops)
    ):
        raise Refused(f"stop is {short(stop)}; accepted: a text that is not empty, or up to {MAX_STOPS}", "stop")
    return tuple(_text(text, "stop") for text in stops)


def _boolean(data: dict[str, Any], name: str) -> bool:
    value = data.get(name)
    if value is not None and not isinstance(value, bool):
        raise Refused(f"{name} is {short(value)}; accepted: true, false", name)
    return bool(value)


def _number(data: dict[str, Any], name: str, default: float, least: float, most: float) -> float:
    value = data.get(name)
    if value is None:
        return default
    fits = isinstance(value, int | float) and not isinstance(value, bool) and least <= value <= most
    if not fits or not math.isfinite(value):
        raise Refused(f"{name} is {short(value)}; accepted: a number from {least:g} to {most:g}", name)
    return float(value)


def _integer(data: dict[str, Any], name: str, least: int, most: int) -> int | None:
    value = data.get(name)
    if value is not None and not (
        isinstance(value, int) and not isinstance(value, bool) and least <= value <= most
    ):
        raise Refused(f"{name} is {short(value)}; accepted: a whole number from {least} to {most}", name)
    return value


def _same(value: Any, other: Any) -> bool:
    """Whether two values of JSON are one: 0 and 0.0 are, 0 and false are not."""
    return isinstance(value, bool) == isinstance(other, bool) and value == other
