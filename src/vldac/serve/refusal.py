"""What a client is told that is not answered."""

from __future__ import annotations

from typing import Any


class Refused(Exception):
    """A request that is not answered, in OpenAI's words.

    Attributes:
      status: HTTP's.
      message: what was wrong and what is accepted.
      param, code: the field that it is about, and a word for programs; None = none.
      retry_after: seconds after which it may go better.
    """

    def __init__(
        self,
        message: str,
        param: str | None = None,
        *,
        status: int = 400,
        code: str | None = None,
        retry_after: float | None = None,
    ):
        super().__init__(message)
        self.message, self.param, self.status, self.code = message, param, status, code
        self.retry_after = retry_after

    def body(self) -> dict[str, Any]:
        """The JSON that says so."""
        kinds = {401: "authentication_error", 429: "rate_limit_error"}
        kind = kinds.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


def short(value: Any) -> str:
    """A value as an error may show it: not a megabyte of it."""
    text = repr(value) if isinstance(value, str | int | float | bool | None) else f"a JSON {type(value).__name__}"
    return text if len(text) <= 80 else f"{text[:77]}..."
