"""By which names a server may be called.

A web page can give its own name the address of its reader's machine (DNS rebinding), and then read from a server
there as if the page had come from it. What it can not change is the Host header: it holds the page's own name.

starlette's TrustedHostMiddleware is not used: it refuses in plain text, which OpenAI's clients do not read, and
took `[::1]:8000` for `[` until lately.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from vldac.serve.refusal import Refused, short

ANY = "*"
_HEADER = re.compile(r"(\[[^\]]*\]|[^\[\]:]*)(:\d*)?")  # host, port
_NAME = re.compile(r"[\w-]+(\.[\w-]+)*\.?", re.ASCII)


class HostCheck:
    """Refuses requests that call the server by a name that is not its own, on whatever port: one may be forwarded.

    Args:
      app: answers the others.
      names: its own, as `checked` gives them.
    """

    def __init__(self, app: ASGIApp, names: frozenset[str]):
        self._app, self._names = app, names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self._app
        if scope["type"] == "http" and ANY not in self._names:
            told = ", ".join(Headers(scope=scope).getlist("host"))
            if called(told) not in self._names:
                accepted = ", ".join(sorted(self._names))
                error = Refused(
                    f"the Host header is {short(told)}; accepted: {accepted}, or what the server is told to allow",
                    status=403,
                    code="host_not_allowed",
                )
                app = JSONResponse(error.body(), status_code=error.status)
        await app(scope, receive, send)


def checked(names: Iterable[str]) -> frozenset[str]:
    """Names as they are compared.

    Args:
      names: host names and addresses without ports; "*" is any.

    Raises:
      ValueError: one of them is something else.
    """
    found = {name: ANY if name == ANY else _canonical(name) for name in names}
    for name, canonical in found.items():
        if canonical is None:
            raise ValueError(f"{name!r} names no host; accepted: names and addresses, no scheme, no port, or *")
    return frozenset(found.values())


def called(header: str) -> str | None:
    """The host in a Host header, as it is compared; None if there is none.

    Worked example: "LocalHost:8000" -> "localhost", "[0:0::1]:8000" -> "::1".
    """
    match = _HEADER.fullmatch(header)
    return _canonical(match[1]) if match else None


def _canonical(host: str) -> str | None:
    """A name in lower case without the root's dot, or an address in its one way to be written."""
    host = host[1:-1] if host[:1] == "[" and host[-1:] == "]" else host
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        return host.lower().removesuffix(".") if _NAME.fullmatch(host) else None
