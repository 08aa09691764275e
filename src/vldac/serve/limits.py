"""What a client may ask for. Everything that a stranger can make large has a bound here."""

from __future__ import annotations

import collections
import time
from collections.abc import Callable
from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Limits:
    """Bounds of one request, and of all of them together."""

    body_bytes: int = 32 * 2**20
    """Of a request's body, its images included (as base64, which adds a third)."""
    parts: int = 4096
    """Texts and images of a conversation, those of all its messages; an empty message counts as one."""
    images: int = 64
    """Of a conversation."""
    image_pixels: int = 2**25
    """Of one image, known before it is decompressed."""
    total_pixels: int = 2**27
    """Of all images of a conversation together."""
    image_scans: int = 100
    """Of one JPEG: each goes over all of its pixels. Cameras and editors write about ten."""
    max_tokens: int = 2048
    """Of an answer; also what it may have where the client does not say."""
    queue: int = 64
    """Requests that wait for a lane; more are refused (429) until there is room."""
    requests_per_minute: int = 0
    """Of one client address; 0 = as many as it likes."""
    stall_seconds: float = 60.0
    """How long a client may take to send its body, or not to read what it is sent, before it is given up."""

    def __post_init__(self):
        for field in fields(self):
            value, least = getattr(self, field.name), 0 if field.name in ("requests_per_minute", "queue") else 1
            if value < least:
                raise ValueError(f"{field.name} is {value}; accepted: {least} or more")


class RateLimiter:
    """Requests of each client within the last minute.

    Args:
      per_minute: how many there may be; 0 = any number.
      clock: seconds, monotonic.
    """

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic):
        self._per_minute, self._clock = per_minute, clock
        self._times: dict[str, collections.deque[float]] = {}

    def wait(self, client: str) -> float:
        """Counts a request, if it may be: seconds until the client may ask again, 0 = it may now."""
        if not self._per_minute:
            return 0.0
        now = self._clock()
        times = self._times.setdefault(client, collections.deque())
        while times and times[0] <= now - 60:
            times.popleft()
        if len(times) >= self._per_minute:
            return times[0] + 60 - now
        times.append(now)
        if len(self._times) > 10_000:  # clients that have not asked for a minute are forgotten
            self._times = {name: seen for name, seen in self._times.items() if seen and seen[-1] > now - 60}
        return 0.0
