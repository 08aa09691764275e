"""Serves a model to OpenAI's clients: `python -m experiments.serve --model MODEL [--port 8000]`.

    python -m experiments.serve --model runs/NAME                      what a run has learnt
    python -m experiments.serve --model Qwen/Qwen2-VL-2B-Instruct      a checkpoint: a folder, or an id of the hub
    python -m experiments.serve --model nano                           freshly drawn, knows nothing

    client = openai.OpenAI(base_url="http://127.0.0.1:8000/v1", api_key="none")
    client.chat.completions.create(model="...", messages=[...])

It listens on this machine alone unless `--host` says otherwise. There it answers to this machine's names only, so
that no web page reaches it by one of its own; `--allowed-hosts` adds those by which a container or a proxy calls.
With another host, give it an `--api-key` (or VLDAC_API_KEY in the environment, which no list of processes shows).
Images come as data: URLs; nothing is fetched.

Exit codes: 0 stopped by Ctrl-C or a signal; 2 it can not be served as asked; 1 anything else.
"""

from __future__ import annotations

import importlib.util
import ipaddress
import os
import signal
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from experiments import flags, runtime
from experiments.models import load_engine
from experiments.program import run_as_program
from vldac.generate import Engine, Message, Request
from vldac.generate.conversation import TooLong
from vldac.metrics import RunFileError
from vldac.serve.limits import Limits

PROGRAM = "python -m experiments.serve"
KEY_VARIABLE = "VLDAC_API_KEY"
OWN_NAMES = ("localhost", "127.0.0.1", "::1")  # of any machine, for whoever is on it
CONNECTIONS = 512  # open at once, whatever they do
GREETING = Request((Message("user", ("Hello",)),), max_tokens=2)  # before any client: it compiles what they need
GRACE_SECONDS = 5.0  # for answers that are being written when it is stopped


@dataclass(frozen=True)
class Serve:
    """Serve a model at an OpenAI-compatible address."""

    model: str
    """A run's folder, a checkpoint's folder, an id of the Hugging Face hub, or "nano"."""
    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 = all of this machine's."""
    port: int = 8000
    """0 = any that is free."""
    allowed_hosts: tuple[str, ...] = ()
    """Names, without ports, by which clients may call it, beside localhost and the address that it listens on.
    None given = no others where it listens on this machine alone, any elsewhere; * = any."""
    trusted_proxies: tuple[str, ...] = ()
    """Addresses, or networks as 10.0.0.0/8, of proxies whose X-Forwarded-For says who the client is; none = nobody
    is believed."""
    name: str | None = None
    """By which clients ask for the model; None = the last part of its path or id."""
    api_key: str | None = None
    """What clients have to show; None = what VLDAC_API_KEY holds, or nothing."""
    lanes: int = 8
    """Answers that are written at once."""
    max_length: int = 4096
    """Tokens of a conversation and its answer together, visual ones included."""
    dtype: Literal["float32", "bfloat16"] | None = None
    """What is computed in; None = as the run did, else float32 on a CPU and bfloat16 elsewhere."""
    max_pixels: int | None = None
    """Images are scaled down to this area; None = as the model's own files say."""
    min_pixels: int | None = None
    """Images are scaled up to this area."""
    seed: int = 0
    """Of the weights of "nano"."""
    limits: Limits = field(default_factory=Limits)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns its exit code."""
    runtime.prepare()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C
    try:
        return _main(sys.argv[1:] if arguments is None else arguments)
    except KeyboardInterrupt:
        return 0


def _main(arguments: Sequence[str]) -> int:
    try:
        command = flags.read(Serve, PROGRAM, arguments)
        check(command)
        listening = listen(command.host, command.port)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    with listening:
        try:
            engine = load_engine(
                command.model,
                lanes=command.lanes,
                max_length=command.max_length,
                dtype=command.dtype,
                max_pixels=command.max_pixels,
                min_pixels=command.min_pixels,
                seed=command.seed,
            )
        except RunFileError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        except ValueError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        with engine:
            try:
                greeted = engine.submit(GREETING)
            except TooLong as error:
                print(f"error: max_length is {command.max_length}, too few to be used: {error}", file=sys.stderr)
                return 2
            print(f"{command.model}: compiling", file=sys.stderr, flush=True)
            greeted.result()
            serve(command, engine, listening)
    return 0


def check(command: Serve) -> None:
    """Finds out what can be known before the model is loaded.

    Raises:
      ValueError: an option out of range, or a package that is not installed.
    """
    if not 0 <= command.port < 2**16:
        raise ValueError(f"port is {command.port}; accepted: 0 to {2**16 - 1}")
    if command.api_key is not None and not command.api_key.strip():
        raise ValueError("api_key is empty; accepted: some text, or leave it out")
    if (told := os.environ.get(KEY_VARIABLE)) and not told.strip():
        raise ValueError(f"{KEY_VARIABLE} is blank; accepted: some text, or unset it")
    for proxy in command.trusted_proxies:
        try:
            ipaddress.ip_network(proxy)
        except ValueError as error:
            raise ValueError(f"trusted_proxies holds {proxy!r}; accepted: addresses and networks") from error
    for package in ("starlette", "uvicorn"):
        if importlib.util.find_spec(package) is None:
            raise ValueError(f"{package} is not installed; accepted: pip install 'vldac[serve]'")
    from vldac.serve import hosts

    for option, names in (("host", (command.host,)), ("allowed_hosts", command.allowed_hosts)):
        try:
            hosts.checked(names)
        except ValueError as error:
            raise ValueError(f"{option}: {error}") from error


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens, so that a wrong address is told before a model is loaded.

    Raises:
      ValueError: it can not be listened on.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, socket.SOCK_STREAM)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(address)
            listening.listen(CONNECTIONS)
        except OSError:
            listening.close()
            raise
    except OSError as error:
        raise ValueError(
            f"host, port are {host}, {port}: {error.strerror}; accepted: an address of this machine, a free port"
        ) from error
    return listening


def serve(command: Serve, engine: Engine, listening: socket.socket) -> None:
    """Answers until it is stopped by a signal."""
    import uvicorn

    from vldac.serve.app import create_app
    from vldac.serve.ending import Server

    key = command.api_key or os.environ.get(KEY_VARIABLE) or None
    name = command.name or Path(command.model).name or command.model
    host, port = listening.getsockname()[:2]
    if not ipaddress.ip_address(host).is_loopback and key is None:
        print(f"warning: whoever can reach {host} can use it; --api-key asks for a key", file=sys.stderr)
    shown = f"[{host}]" if ":" in host else host
    print(f"{name}: http://{shown}:{port}/v1", flush=True)
    app = create_app(engine, name, command.limits, key, names_of(command, host))
    config = uvicorn.Config(
        app,
        http="h11",  # httptools, which would be taken where it is installed, knows no bound of a request's headers
        log_level="warning",
        lifespan="off",
        server_header=False,
        limit_concurrency=CONNECTIONS,
        proxy_headers=bool(command.trusted_proxies),  # uvicorn would believe whoever is on this machine
        forwarded_allow_ips=list(command.trusted_proxies),
    )
    Server(config, engine, GRACE_SECONDS).run(sockets=[listening])


def names_of(command: Serve, address: str) -> tuple[str, ...]:
    """By which clients may call a server that listens on this address."""
    if ipaddress.ip_address(address).is_loopback or command.allowed_hosts:
        return (*OWN_NAMES, address, command.host, *command.allowed_hosts)
    return ("*",)


if __name__ == "__main__":
    run_as_program(main)
