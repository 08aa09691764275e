"""An answer's text as its tokens come: never half a character, never a part of what ends it."""

from __future__ import annotations

import codecs
from collections.abc import Sequence

from vldac.text.tokenizer import Vocabulary


class Writing:
    """The text of one answer, token by token.

    What has been given out stays: bytes that may yet become a character, and text that may yet become one of
    `stop`, are kept back until that is known.

    Args:
      vocabulary: says which bytes a token is; those without bytes are left out.
      stop: texts that end the answer and are not part of it.

    Attributes:
      text: all that has been given out.
      stopped: one of `stop` has been written.
    """

    def __init__(self, vocabulary: Vocabulary, stop: Sequence[str] = ()):
        self._bytes_of = vocabulary.bytes_of
        self._stop = tuple(stop)
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._kept = ""
        self.text = ""
        self.stopped = False

    def add(self, token: int) -> str:
        """The text that is certain now and was not before; "" after a stop."""
        return self._more(self._decoder.decode(self._bytes_of[token] or b""))

    def end(self) -> str:
        """What was kept back, as no more tokens come; half a character is U+FFFD."""
        piece = self._more(self._decoder.decode(b"", final=True))
        if self.stopped:
            return piece
        rest, self._kept = self._kept, ""
        self.text += rest
        return piece + rest

    def _more(self, text: str) -> str:
        if self.stopped:
            return ""
        waiting = self._kept + text
        found = [at for at in (waiting.find(stop) for stop in self._stop) if at >= 0]
        if found:
            self.stopped, keep = True, len(waiting) - min(found)
        else:
            keep = max((_overlap(waiting, stop) for stop in self._stop), default=0)
        piece, self._kept = waiting[: len(waiting) - keep], waiting[len(waiting) - keep :]
        self.text += piece
        return piece


def _overlap(text: str, stop: str) -> int:
    """Characters at the end of `text` that `stop` could begin with. Worked example: "so <e", "<end>" -> 2."""
    most = min(len(text), len(stop) - 1)
    return next((n for n in range(most, 0, -1) if text.endswith(stop[:n])), 0)
