"""A game in a process of its own: it may crash or hang, and only its episode is lost.

`Worker` is the side of the caller, `main` that of the process, `python -m vldac.evaluate.balrog.worker FD`. They
speak over a socket: JSON, and the bytes of a picture behind it; nothing is unpickled. The process is started by
its module's name rather than by `multiprocessing`, which would import the caller's main module into it, and JAX.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import struct
import subprocess
import sys
import tempfile
import time
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any

import numpy as np

from vldac.evaluate.balrog.environments import Spec, begin
from vldac.evaluate.balrog.observation import Observation

# One thread each: there are as many processes as games, and no window is to be opened.
_VARIABLES = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "SDL_VIDEODRIVER": "dummy",
    "PYGAME_HIDE_SUPPORT_PROMPT": "1",
}


class WorkerError(Exception):
    """A game that can not go on; one line that says why."""


class Worker:
    """The caller's side of a game. To be closed.

    Attributes:
      connection: readable when an answer is here, or the process has ended.
      deadline: by `time.monotonic`, when the answer is overdue.

    Args:
      spec: the game.
      seconds: how long its start may take.
    """

    def __init__(self, spec: Spec, seconds: float):
        self.connection, theirs = Pipe()
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  closed by `close`
        path = os.pathsep.join(entry for entry in sys.path if entry)
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,  # games print
                stderr=self._errors,
                env=os.environ | _VARIABLES | {"PYTHONPATH": path},
            )
        finally:
            theirs.close()
        self._ask(json.dumps(dataclasses.asdict(spec), default=str), seconds, "start")

    def act(self, action: str, seconds: float) -> None:
        """Asks for one step, which may take `seconds`."""
        self._ask(json.dumps(action), seconds, "step")

    def receive(self) -> tuple[Observation, dict[str, Any]]:
        """Takes an answer that is here.

        Returns:
          the observation; and of a start `instruction`, `actions`, `max_steps`, of a step what `Game.step` gives.

        Raises:
          WorkerError: an exception of the game, or the end of its process.
        """
        try:
            payload = self.connection.recv_bytes()
        except (EOFError, OSError):
            code = self._process.wait()
            how = f"signal {-code}" if code < 0 else f"exit code {code}"
            raise WorkerError(f"the game's process ended during its {self._doing} ({how}){self._said()}") from None
        observation, data = _unpack(payload)
        if "error" in data:
            raise WorkerError(f"in its {self._doing}: {data['error']}")
        return observation, data

    def overdue(self) -> str:
        """What to say when the deadline has passed."""
        return f"its {self._doing} took over {self._seconds:g} s: the game's process hangs"

    def close(self) -> None:
        """Ends the process, whatever it does."""
        self.connection.close()
        self._process.kill()
        self._process.wait()
        self._errors.close()

    def _ask(self, text: str, seconds: float, doing: str) -> None:
        self._doing, self._seconds = doing, seconds
        self.deadline = time.monotonic() + seconds
        with contextlib.suppress(OSError):  # if it has ended, `receive` says so
            self.connection.send_bytes(text.encode())

    def _said(self) -> str:
        self._errors.seek(0, os.SEEK_END)
        self._errors.seek(max(0, self._errors.tell() - 2000))
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return f": {lines[-1].strip()}" if lines else ""


def _pack(observation: Observation | None, data: dict[str, Any]) -> bytes:
    header = dict(data)
    pixels = b""
    if observation is not None:
        header["observation"] = [observation.long_term, observation.short_term]
        if observation.image is not None:
            header["shape"] = observation.image.shape
            pixels = np.ascontiguousarray(observation.image, np.uint8).tobytes()
    text = json.dumps(header).encode()
    return struct.pack("<I", len(text)) + text + pixels


def _unpack(payload: bytes) -> tuple[Observation, dict[str, Any]]:
    (size,) = struct.unpack_from("<I", payload)
    data = json.loads(payload[4 : 4 + size])
    shape = data.pop("shape", None)
    image = None if shape is None else np.frombuffer(payload, np.uint8, offset=4 + size).reshape(shape)
    return Observation(*data.pop("observation", ("", "")), image), data


def main(connection: Connection) -> None:
    """The process's side: begins the game that it is told, then does one action after another."""
    try:
        spec = json.loads(connection.recv_bytes())
        for field in ("textworld_games", "boxoban_dir"):
            spec[field] = None if spec[field] is None else Path(spec[field])
        game = begin(Spec(**spec))
        told = {"instruction": game.instruction, "actions": game.actions, "max_steps": game.max_steps}
        connection.send_bytes(_pack(game.observation, told))
        while True:
            action = json.loads(connection.recv_bytes())
            connection.send_bytes(_pack(*game.step(action)))
    except (EOFError, BrokenPipeError, ConnectionResetError):  # the caller has what it wants
        return
    except Exception as error:
        connection.send_bytes(_pack(None, {"error": f"{type(error).__name__}: {error}".replace("\n", " ")}))


if __name__ == "__main__":
    main(Connection(int(sys.argv[1])))
