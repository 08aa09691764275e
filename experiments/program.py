"""How a command begins and ends as a program."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from typing import NoReturn

from experiments.processes import leave


def run_as_program(main: Callable[[], int]) -> NoReturn:
    """Runs a command's `main` and exits with its code; with 1, and a line, where Ctrl-C ends it.

    What `main` has to save at Ctrl-C it does itself; what is to be said it gives to the KeyboardInterrupt. Then
    nothing is waited for: a thread may be compiling, other processes may be gone.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:  # as `experiments` has it while everything is imported
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        code = main()
    except KeyboardInterrupt as error:
        print("; ".join(["aborted", *map(str, error.args)]), file=sys.stderr)
        leave(1)
    except BrokenPipeError:  # of `... | head`: nobody reads on
        os.dup2(
            os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno()
        )  # which Python writes to once more as it ends
        code = 1
    sys.exit(code)
