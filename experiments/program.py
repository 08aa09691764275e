"""How a command begins and ends as a program."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from typing import NoReturn


def run_as_program(main: Callable[[], int]) -> NoReturn:
    """Runs a command's `main` and exits with its code; with 1, and a line, where Ctrl-C ends it.

    What `main` has to save or to say at Ctrl-C it does itself.
    """
    # `experiments` has set it aside while everything was imported.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        code = main()
    except KeyboardInterrupt:
        print("aborted", file=sys.stderr)
        code = 1
    sys.exit(code)
