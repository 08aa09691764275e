"""A uvicorn server that ends as its clients can understand.

uvicorn by itself cancels what takes longer than its grace: whoever waits is told of an internal error, or nothing
at all, and the log has a traceback for each.
"""

from __future__ import annotations

import asyncio
import socket
import threading

import uvicorn

from vldac.generate.engine import Engine

SEND_SECONDS = 2.0  # for what is told at the end; longer is given to nobody, as all wait for the slowest
CLOSE_SECONDS = 10.0  # for the engine, which tells whoever waits between two steps: it may be compiling one


class Server(uvicorn.Server):
    """Answers until it is told to stop.

    Answers that end within the grace are sent whole. Then, or at once when it is told to stop by Ctrl-C again, the
    engine is closed, and the clients of the others are told that the server is shutting down.

    Args:
      config: without a `timeout_graceful_shutdown`.
      engine: answers; it ends with the server.
      grace_seconds: for answers that are being written or waited for.
    """

    def __init__(self, config: uvicorn.Config, engine: Engine, grace_seconds: float):
        super().__init__(config)
        self._engine, self._grace_seconds = engine, grace_seconds

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        ending = asyncio.ensure_future(self._end_answers())
        await super().shutdown(sockets)  # no new connections; then it waits until the old ones are closed
        await ending

    async def _end_answers(self) -> None:
        left = self._grace_seconds
        while self.server_state.tasks and left > 0 and not self.force_exit:
            await asyncio.sleep(0.1)
            left -= 0.1
        closing = threading.Thread(target=self._engine.close, name="closing", daemon=True)
        closing.start()
        left = CLOSE_SECONDS
        while closing.is_alive() and left > 0:
            await asyncio.sleep(0.1)
            left -= 0.1
        await self._sent()
        for connection in list(self.server_state.connections):  # neither reads nor sends
            connection.transport.abort()
        await self._sent()

    async def _sent(self) -> None:
        if tasks := set(self.server_state.tasks):
            await asyncio.wait(tasks, timeout=SEND_SECONDS)
