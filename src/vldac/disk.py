"""What is written is to be there after a loss of power, too; and what has no room is not begun."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path


def demand_room(folder: Path, size: int) -> None:
    """Says now what would come after minutes of writing.

    Args:
      folder: there is one.
      size: bytes that are about to be written into it.

    Raises:
      OSError: ENOSPC.
    """
    if shutil.disk_usage(folder).free < size:
        needed = f"{size / 1e9:.2f} GB" if size >= 1e7 else f"{size / 1e6:.2f} MB"
        reason = f"{os.strerror(errno.ENOSPC)} ({needed} are needed)"
        raise OSError(errno.ENOSPC, reason, str(folder))


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
