"""What is written is to be there after a loss of power, too."""

from __future__ import annotations

import os
from pathlib import Path


def sync(path: Path) -> None:
    """Makes a file, or a folder's list of what is in it, survive a loss of power."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_all(folder: Path) -> None:
    """The same of a folder and all below."""
    for path in folder.rglob("*"):
        sync(path)
    sync(folder)
