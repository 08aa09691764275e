"""Writes and reads a run's checkpoints."""

from __future__ import annotations

import concurrent.futures
import contextlib
import errno
import json
import logging
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental.multihost_utils import assert_equal
from jaxtyping import PyTree

from vldac.checkpoint.folder import META_FILE, SUMS_FILE, fault_of, files, sha256
from vldac.checkpoint.leaves import (
    blank,
    copy_to_host,
    first_difference,
    impl_of,
    is_key,
    kind_of,
    named_leaves,
    restored_like,
    whole,
)
from vldac.disk import demand_room, sync, sync_all
from vldac.metrics import RunFileError

STATE_FOLDER = "state"
_FORMAT = 1
_NAME = re.compile(r"(\d{8,})(?:-(\d+))?")
_LEFTOVER = re.compile(rf"\.{_NAME.pattern}\.(partial|old)")


class CheckpointError(RunFileError):
    """A checkpoint could not be written or read. `str()` is one line with the path and the reason."""


class CheckpointMismatch(CheckpointError, ValueError):
    """The checkpoint is whole, but of another configuration. `str()` names the first leaf that differs."""


@dataclass(frozen=True)
class Found:
    """The newest checkpoint that is whole.

    Attributes:
      iteration: as saved.
      path: of its folder.
      notes: one line for every newer checkpoint that had to be passed over: its path and why.
    """

    iteration: int
    path: Path
    notes: list[str]


@dataclass(frozen=True)
class Restored:
    """What `Checkpointer.restore` found.

    Attributes:
      iteration: as saved.
      state: as saved, in the structure and on the devices of `like`.
      extra: as saved, in JSON's types (tuples have become lists, keys strings).
      notes: of newer ones that had to be passed over, see `Found`.
    """

    iteration: int
    state: PyTree
    extra: dict[str, Any]
    notes: list[str]


class Checkpointer:
    """Saves and restores the state of one run. A context manager.

    Where a run has several processes, all of them call `save` and `restore`, in the same order.

    `close` it before the interpreter ends, or the last save may not be finished (never half done, though).

    Args:
      folder: of the run's checkpoints; made by the first save.
      keep: so many of the newest are kept.

    Raises:
      ValueError: `keep` is less than 1.
    """

    def __init__(self, folder: str | Path, keep: int = 3):
        if keep < 1:
            raise ValueError(f"keep is {keep}; accepted: 1 or more")
        self.folder = Path(folder).absolute()  # Orbax takes no relative path
        self.keep = keep
        self._orbax = _orbax_checkpointer()
        self._writer = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: concurrent.futures.Future[None] | None = None
        self._whole: dict[Path, bool] = {}  # what has been read or written, and whether it was whole

    def save(
        self,
        iteration: int,
        state: PyTree,
        extra: Mapping[str, Any] | None = None,
        blocking: bool = False,
    ) -> None:
        """Begins to save; waits for the save before it first.

        The state is copied before this returns: its buffers may be donated or overwritten at once.

        Args:
          iteration: of the run, 0 or more; the largest is the newest.
          state: leaves are JAX arrays (typed random keys, too), NumPy arrays, or Python's bool, int, float.
          extra: small things to keep with it, anything that JSON can hold.
          blocking: return when it is on the disk.

        Raises:
          ValueError: a leaf, `extra` or `iteration` cannot be saved.
          CheckpointError: the folder cannot be written; or the save before this one failed, and then this
            one was not begun. Earlier checkpoints stay as they are.
        """
        self.wait()
        if iteration < 0:
            raise ValueError(f"iteration is {iteration}; accepted: 0 or more")
        leaves = named_leaves(state)
        try:
            meta = json.dumps(
                {
                    "format": _FORMAT,
                    "iteration": int(iteration),
                    "extra": dict(extra or {}),
                    "leaves": {name: kind_of(name, leaf) for name, leaf in leaves.items()},
                    "key_impls": {name: impl_of(name, leaf) for name, leaf in leaves.items() if is_key(leaf)},
                },
                indent=1,
            )
        except TypeError as error:
            raise ValueError(f"extra cannot be saved as JSON: {error}") from error
        parts = [whole(leaf) for leaf in leaves.values()]
        if jax.process_index():
            return
        with _as_checkpoint_error("save", self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        arrays = dict(zip(leaves, copy_to_host(parts), strict=True))
        self._pending = self._writer.submit(self._write, int(iteration), arrays, meta)
        if blocking:
            self.wait()

    def wait(self) -> None:
        """Returns when the last save is on the disk.

        Raises:
          CheckpointError: it is not, and will not be. Told once; later saves are tried again.
        """
        if self._pending is not None:
            try:
                self._pending.result()
            finally:
                if self._pending.done():  # it is not after a Ctrl-C
                    self._pending = None

    def newest(self) -> Found | None:
        """The newest checkpoint that is whole, None if no save was ever finished. Every byte is looked at.

        Raises:
          CheckpointError: there are checkpoints, but none is whole; or the folder cannot be read.
        """
        self.wait()
        notes = []
        for iteration, path in self._paths():
            fault = self._check(path)
            if fault is None:
                return Found(iteration, path, self._interrupted(iteration) + notes)
            notes.append(f"{path}: {fault}; passed over")
        if not notes:
            return None
        raise CheckpointError("restore", self.folder, f"no checkpoint is whole ({'; '.join(notes)})")

    def restore(self, like: PyTree) -> Restored | None:
        """Reads the newest checkpoint that is whole. Writes and deletes nothing.

        Args:
          like: a state of the same configuration, or its shapes (`jax.ShapeDtypeStruct`). Leaves that are
            committed to devices, or have a sharding, are restored onto it; NumPy arrays and Python's numbers
            as such; all others as JAX arrays on the default device.

        Returns:
          What it found, or None if no save was ever finished.

        Raises:
          CheckpointMismatch: the newest whole checkpoint has other leaves, shapes or dtypes than `like`.
          CheckpointError: there are checkpoints, but none is whole; or the folder cannot be read.
        """
        found = self.newest()
        if found is None:
            return None
        with _as_checkpoint_error("restore", found.path):
            if jax.process_count() > 1:
                assert_equal(found.iteration, "processes see different checkpoints; their folder must be shared")
            state, extra = self._load(found.path, like)
        return Restored(found.iteration, state, extra, found.notes)

    def close(self) -> None:
        """Waits for the last save. Harmless when repeated.

        Raises:
          CheckpointError: that save failed.
        """
        try:
            self.wait()
        finally:
            self._writer.shutdown()
            self._orbax.close()

    def __enter__(self) -> Checkpointer:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _write(self, iteration: int, arrays: dict[str, np.ndarray], meta: str) -> None:
        name, again = f"{iteration:08d}", 0
        while (self.folder / name).exists():
            again += 1
            name = f"{iteration:08d}-{again}"
        path, partial = self.folder / name, self.folder / f".{name}.partial"
        with _as_checkpoint_error("save", path):
            if partial.exists():
                shutil.rmtree(partial)
            try:
                partial.mkdir()
                stored = {name: array for name, array in arrays.items() if array.size}
                # Asked, because TensorStore's threads print a traceback an array when a disk fills under them.
                demand_room(partial, sum(array.nbytes + 1024 for array in stored.values()))
                if stored:  # Orbax takes neither an empty array nor an empty dictionary
                    with _quiet_orbax():
                        self._orbax.save(partial / STATE_FOLDER, args=ocp.args.StandardSave(stored))
                (partial / META_FILE).write_text(meta, encoding="utf-8")
                sums = "".join(f"{sha256(partial / file)}  {file}\n" for file in files(partial))
                (partial / SUMS_FILE).write_text(sums, encoding="utf-8")
                sync_all(partial)
                os.rename(partial, path)
            except BaseException:
                shutil.rmtree(partial, ignore_errors=True)  # a full disk needs the room
                raise
            sync(self.folder)
        self._whole[path] = True
        with _as_checkpoint_error("clear up", self.folder):
            self._prune()

    def _prune(self) -> None:
        """Removes what a kill left over, and whole checkpoints that `keep` newer whole ones stand in for."""
        for entry in list(self.folder.iterdir()):
            if _LEFTOVER.fullmatch(entry.name):
                shutil.rmtree(entry)
        kept = 0
        for _, path in self._paths():
            if path not in self._whole:
                self._check(path)
            if not self._whole[path]:
                continue
            if kept < self.keep:
                kept += 1
                continue
            # Renamed first: a kill in the middle must not leave a checkpoint that looks damaged.
            old = path.with_name(f".{path.name}.old")
            os.rename(path, old)
            del self._whole[path]
            shutil.rmtree(old)

    def _paths(self) -> list[tuple[int, Path]]:
        """(iteration, path) of all that has a checkpoint's name, newest first."""
        found = []
        with _as_checkpoint_error("read", self.folder), contextlib.suppress(FileNotFoundError):
            for entry in self.folder.iterdir():
                if match := _NAME.fullmatch(entry.name):
                    found.append((int(match[1]), int(match[2] or 0), entry))
        return [(iteration, path) for iteration, _, path in sorted(found, reverse=True)]

    def _interrupted(self, after: int) -> list[str]:
        """Notes about saves of later iterations than `after` that never came to an end, newest first."""
        with _as_checkpoint_error("read", self.folder):
            return [
                f"{entry}: half written, its save was interrupted; passed over"
                for entry in sorted(self.folder.iterdir(), reverse=True)
                if (match := _LEFTOVER.fullmatch(entry.name)) and match[3] == "partial" and int(match[1]) > after
            ]

    def _check(self, path: Path) -> str | None:
        """What is wrong with a checkpoint, or None if it is whole."""
        fault = fault_of(path)
        self._whole[path] = fault is None
        return fault

    def _load(self, path: Path, like: PyTree) -> tuple[PyTree, dict[str, Any]]:
        meta = json.loads((path / META_FILE).read_text(encoding="utf-8"))
        if meta["format"] != _FORMAT:
            raise CheckpointMismatch("restore", path, f"its format is {meta['format']}; accepted: {_FORMAT}")
        wanted = named_leaves(like)
        difference = first_difference(meta["leaves"], {name: kind_of(name, leaf) for name, leaf in wanted.items()})
        if difference:
            raise CheckpointMismatch("restore", path, f"it does not match the configuration: {difference}")

        arrays = {name: blank(meta, name, leaf) for name, leaf in wanted.items()}
        stored = {name: array for name, array in arrays.items() if array.size}
        if stored:
            with _quiet_orbax():
                arrays |= self._orbax.restore(path / STATE_FOLDER, args=ocp.args.StandardRestore(stored))
        with jax.transfer_guard("allow"):  # these are meant, wherever the caller forbids others
            leaves = [
                restored_like(arrays[name], leaf, meta["key_impls"].get(name)) for name, leaf in wanted.items()
            ]
        return jax.tree.unflatten(jax.tree.structure(like), leaves), meta["extra"]


def _orbax_checkpointer() -> ocp.Checkpointer:
    """Orbax's, for a process that works alone: what is between processes is settled before it is called."""
    if jax.process_count() == 1:
        return ocp.Checkpointer(ocp.StandardCheckpointHandler())
    index = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(
        primary_host=index, active_processes={index}, barrier_sync_key_prefix=f"process{index}"
    )
    handler = ocp.StandardCheckpointHandler(multiprocessing_options=alone)
    return ocp.Checkpointer(handler, multiprocessing_options=alone)


@contextlib.contextmanager
def _quiet_orbax() -> Iterator[None]:
    """Orbax logs, with tracebacks, what it raises as well."""
    absl = logging.getLogger("absl")
    home = str(Path(ocp.__file__).parent)

    def not_orbax(record):
        return not record.pathname.startswith(home)

    absl.addFilter(not_orbax)
    try:
        yield
    finally:
        absl.removeFilter(not_orbax)


@contextlib.contextmanager
def _as_checkpoint_error(action: str, path: Path) -> Iterator[None]:
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:  # Orbax and TensorStore raise ValueError, RuntimeError and more
        raise CheckpointError(action, path, _reason(error)) from error


def _reason(error: Exception) -> OSError | str:
    """The operating system's reason, which TensorStore buries in text; else one line of what was said."""
    if isinstance(error, OSError) and error.errno is not None:
        return error
    for code in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG, errno.EIO):
        if os.strerror(code) in str(error):
            return OSError(code, os.strerror(code))
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
