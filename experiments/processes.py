"""Several processes as one run, each the same command: on the hosts of a TPU slice, or one for each GPU host.

* JAX finds the others by itself where a launcher says who they are (Slurm, Open MPI, Kubernetes, TPU slices);
  else three flags tell. Nothing of ours goes between processes: they run one program on one mesh.
* It must happen before anything touches a device, so before the configuration is read.
* When a process dies, the others end: in an exception where they meet the end of a connection, or aborted by JAX,
  at once where the first process is gone, else when it has missed heartbeats for `HEARTBEAT_SECONDS`.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

import jax

from experiments.config import ConfigError

HELP = (
    "--distributed joins the processes of the cluster that JAX finds.",
    "--coordinator HOST:PORT --processes N --process I, where it finds none: process 0 listens at HOST:PORT.",
)

HEARTBEAT_SECONDS = 100  # JAX's own default: long enough for a host that is busy


def join(arguments: Sequence[str], program: str) -> list[str]:
    """Joins the other processes of the run, where the command line asks for it, and waits for them.

    Returns:
      The other arguments.

    Raises:
      ConfigError: the flags are incomplete or wrong, or JAX does not know the cluster.
    """
    parser = argparse.ArgumentParser(prog=program, add_help=False, allow_abbrev=False)
    parser.add_argument("--distributed", action="store_true")
    parser.add_argument("--coordinator")
    parser.add_argument("--processes", type=int)
    parser.add_argument("--process", type=int)
    asked, rest = parser.parse_known_args(arguments)
    told = asked.coordinator, asked.processes, asked.process
    if told == (None, None, None):
        if asked.distributed:
            _initialize()
    elif None in told:
        raise ConfigError("coordinator, processes and process go together; accepted: all three, or --distributed")
    elif not 0 <= asked.process < asked.processes:
        raise ConfigError(
            f"process is {asked.process}; accepted: 0 to processes - 1, which is {asked.processes - 1}"
        )
    else:
        _initialize(*told)
    return rest


def tell_if_aborted(line: str) -> None:
    """Has an abort of this process end in a line of ours on standard error, and in exit code 1.

    JAX aborts a process that has lost another one from a thread of its own, past every `except`. Python's signal
    handlers wait for the main thread, which waits for a device then, so this one is the C library's.
    """
    global _on_abort
    message = f"{line}\n".encode()

    def tell(_: int) -> None:
        os.write(2, message)
        os._exit(1)

    _on_abort = ctypes.CFUNCTYPE(None, ctypes.c_int)(tell)
    ctypes.CDLL(None).signal(int(signal.SIGABRT), _on_abort)


_on_abort: object = None  # what C points to has to stay


def leave(code: int) -> NoReturn:
    """Ends this process at once. At an ordinary exit JAX would wait for the others, of which one is gone."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _initialize(coordinator: str | None = None, processes: int | None = None, process: int | None = None) -> None:
    try:
        jax.distributed.initialize(coordinator, processes, process, heartbeat_timeout_seconds=HEARTBEAT_SECONDS)
    except (ValueError, RuntimeError) as error:  # JaxRuntimeError, where nobody answers, is one
        asked = "distributed" if coordinator is None else f"coordinator {coordinator}"
        reason = " ".join(str(error).split())
        raise ConfigError(f"{asked}: the processes can not be joined ({reason[:300]})") from error
