"""What people run: `python -m experiments.run`."""

import signal
import sys

if sys.argv[:1] == ["-m"]:  # a command is being looked for, so that this is its program and nobody's notebook
    # Until it begins, Ctrl-C ends it at once. Imports take seconds, and of an exception in the middle of one they
    # make a page of somebody's code, an error of another kind, or nothing at all.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # a shell may have it ignored
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    if sys.platform == "win32":  # folders are locked, and memory is counted, as POSIX has it
        sys.exit("error: the commands do not run on Windows itself; accepted: Linux (also in WSL), macOS")
