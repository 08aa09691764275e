"""What is asked of a model, and what it says: plain values, so that asking needs no device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np

ROLES = ("system", "user", "assistant")


@dataclass(frozen=True, eq=False)
class Video:
    """Frames of one video, in order.

    Attributes:
      frames: uint8[n, H, W, 3], RGB, n at least 1; what NumPy takes for such an array becomes one.
      fps: frames a second after sampling, for families that are told the time; 0 = unknown.
    """

    frames: np.ndarray
    fps: float = 0.0

    def __post_init__(self):
        object.__setattr__(self, "frames", as_pixels("frames", self.frames, dimensions=4))


Part = str | np.ndarray | Video  # text, one image uint8[H, W, 3], a video


@dataclass(frozen=True, eq=False)
class Message:
    """One turn of a conversation.

    Attributes:
      role: one of `ROLES`.
      parts: its content in order. What is neither text nor a video is an image, of NumPy, JAX or Pillow.

    Raises:
      ValueError: another role, or an image that is not uint8[H, W, 3].
    """

    role: Literal["system", "user", "assistant"]
    parts: tuple[Any, ...]  # of `Part`, as soon as they are checked

    def __post_init__(self):
        if self.role not in ROLES:
            raise ValueError(f"role is {self.role!r}; accepted: {', '.join(ROLES)}")
        parts = (part if isinstance(part, str | Video) else as_pixels("image", part, 3) for part in self.parts)
        object.__setattr__(self, "parts", tuple(parts))

    @property
    def text(self) -> str:
        """Its words alone."""
        return "".join(part for part in self.parts if isinstance(part, str))


@dataclass(frozen=True, eq=False)
class Request:
    """One conversation that ends with a user's turn, and how it is to be answered.

    Attributes:
      messages: the conversation.
      max_tokens: tokens of the answer at most, the one that ends it included.
      temperature: 0 takes the likeliest token every time.
      top_p: samples from the likeliest tokens that have this probability together.
      seed: the answer's randomness; the same request with the same seed is answered alike, whatever else is
        being answered beside it (up to rounding, where batches differ in size).
      stop: texts that end an answer; they are not part of it.
    """

    messages: tuple[Message, ...]
    max_tokens: int = 512
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    stop: tuple[str, ...] = ()

    def __post_init__(self):
        if not self.messages:
            raise ValueError("messages is empty; accepted: at least one message")
        if self.max_tokens < 1:
            raise ValueError(f"max_tokens is {self.max_tokens}; accepted: 1 or more")
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(f"temperature is {self.temperature}; accepted: 0 or more")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is {self.top_p}; accepted: above 0, at most 1")
        if isinstance(self.stop, str):
            raise ValueError(f"stop is {self.stop!r}; accepted: a tuple of texts")


@dataclass(frozen=True)
class Reply:
    """An answer.

    Attributes:
      text: without what ended it; special tokens left out.
      finish_reason: "stop", it ended by itself or at a text of `stop`; "length", it ran into `max_tokens`.
      prompt_tokens, answer_tokens: how many there were, visual ones and the ending one included.
    """

    text: str
    finish_reason: Literal["stop", "length"]
    prompt_tokens: int
    answer_tokens: int


@runtime_checkable
class Answerer(Protocol):
    """Whatever answers requests: the engine on the device, or a scripted one in tests."""

    def answer(self, requests: Sequence[Request]) -> list[Reply]:
        """One reply a request, in their order.

        Raises:
          ValueError: a request that does not fit the model, such as one of too many tokens.
        """
        ...


def images_of(messages: Sequence[Message]) -> list[np.ndarray]:
    """All pictures of a conversation in order, a video's frames one by one: uint8[H, W, 3] each."""
    pictures = []
    for message in messages:
        for part in message.parts:
            if isinstance(part, Video):
                pictures.extend(part.frames)
            elif isinstance(part, np.ndarray):
                pictures.append(part)
    return pictures


def as_pixels(field: str, pixels: Any, dimensions: int) -> np.ndarray:
    """Pixels on the host; raises a ValueError unless they are RGB bytes: uint8[..., H, W, 3], nothing empty."""
    pixels = np.asarray(pixels)
    if pixels.ndim != dimensions or pixels.dtype != np.uint8 or pixels.shape[-1] != 3 or 0 in pixels.shape:
        accepted = "uint8[H, W, 3]" if dimensions == 3 else "uint8[n, H, W, 3]"
        raise ValueError(f"{field} is {pixels.dtype}{list(pixels.shape)}; accepted: {accepted}")
    return pixels
