"""What is written is there whole or not at all, after a loss of power, too; and what has no room is not begun."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
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


@contextlib.contextmanager
def whole(target: Path) -> Iterator[Path]:
    """A folder to write to that becomes `target` at the end, if nothing was raised. Nothing is left otherwise.

    Raises:
      ValueError: `target` holds something already.
      OSError: it can not be written.
    """
    target = target.absolute()
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise ValueError(f"{target} exists already; accepted: a folder that does not, or an empty one")
    partial = target.with_name(f".{target.name}.partial")
    if target.parent.exists() and not target.parent.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(target.parent))
    target.parent.mkdir(parents=True, exist_ok=True)
    if partial.exists():  # left over from a kill
        shutil.rmtree(partial)
    try:
        partial.mkdir()
        yield partial
        sync_all(partial)
        os.rename(partial, target)
        sync(target.parent)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)  # a full disk needs the room
        raise
