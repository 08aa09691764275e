"""Checkpoints of a run: written beside the training, whole or not at all, checked before they are believed.

* `save` copies the state to the host and returns; a thread writes it. What goes wrong there is raised by the
  next call, in the caller's thread.
* A checkpoint appears under its name by one rename, synced before: a kill at any moment leaves the earlier
  ones and at most a half-written folder, which says so by its name.
* Every file is listed with its SHA-256. `restore` takes the newest checkpoint whose every byte is as it was
  written, and says which newer ones it had to pass over.
* A leaf is whole in the files, however many devices held parts of it; it is restored onto whatever mesh `like`
  is on. Of several processes the first one writes, and each reads for itself: the folder is one that all see.
* Only whole checkpoints that enough newer whole ones stand in for are deleted; what cannot be read is left
  for its owner to look at. Orbax's `CheckpointManager` deletes by number alone, and believes what it finds;
  that is why Orbax writes the arrays here and this file does the rest.

    checkpoints/00000012/state/      the arrays, by Orbax: a flat dictionary, path of the leaf -> array
    checkpoints/00000012/meta.json   iteration, extra, and what every leaf is
    checkpoints/00000012/SHA256SUMS  of every file above, as `sha256sum --check` reads it
    checkpoints/00000012-1/          the same iteration saved once more: it counts as the newer one
    checkpoints/.00000013.partial/   being written, or left over from a kill
    checkpoints/.00000009.old/       being deleted, or left over from a kill
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import errno
import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental.multihost_utils import assert_equal
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import PyTree

from vldac.metrics import RunFileError

STATE_FOLDER = "state"
META_FILE = "meta.json"
SUMS_FILE = "SHA256SUMS"
_FORMAT = 1
_NAME = re.compile(r"(\d{8,})(?:-(\d+))?")
_LEFTOVER = re.compile(rf"\.{_NAME.pattern}\.(partial|old)")


class CheckpointError(RunFileError):
    """A checkpoint could not be written or read. `str()` is one line with the path and the reason."""


class CheckpointMismatch(CheckpointError, ValueError):
    """The checkpoint is whole, but of another configuration. `str()` names the first leaf that differs."""


@dataclass(frozen=True)
class Restored:
    """What `Checkpointer.restore` found.

    Attributes:
      iteration: as saved.
      state: as saved, in the structure and on the devices of `like`.
      extra: as saved, in JSON's types (tuples have become lists, keys strings).
      notes: one line for every newer checkpoint that had to be passed over: its path and why.
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
        leaves = _named_leaves(state)
        try:
            meta = json.dumps(
                {
                    "format": _FORMAT,
                    "iteration": int(iteration),
                    "extra": dict(extra or {}),
                    "leaves": {name: _kind(name, leaf) for name, leaf in leaves.items()},
                    "key_impls": {name: _key_impl(name, leaf) for name, leaf in leaves.items() if _is_key(leaf)},
                },
                indent=1,
            )
        except TypeError as error:
            raise ValueError(f"extra cannot be saved as JSON: {error}") from error
        whole = [_whole(leaf) for leaf in leaves.values()]
        if jax.process_index():
            return
        with _as_checkpoint_error("save", self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        arrays = dict(zip(leaves, _copy_to_host(whole), strict=True))
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
        self.wait()
        notes = []
        paths = self._paths()
        for iteration, path in paths:
            fault = self._check(path)
            if fault is None:
                with _as_checkpoint_error("restore", path):
                    if jax.process_count() > 1:
                        assert_equal(iteration, "processes see different checkpoints; their folder must be shared")
                    state, extra = self._load(path, like)
                return Restored(iteration, state, extra, self._interrupted(iteration) + notes)
            notes.append(f"{path}: {fault}; passed over")
        if not paths:
            return None
        raise CheckpointError("restore", self.folder, f"no checkpoint is whole ({'; '.join(notes)})")

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
                _demand_room(partial, sum(array.nbytes + 1024 for array in stored.values()))
                if stored:  # Orbax takes neither an empty array nor an empty dictionary
                    with _quiet_orbax():
                        self._orbax.save(partial / STATE_FOLDER, args=ocp.args.StandardSave(stored))
                (partial / META_FILE).write_text(meta, encoding="utf-8")
                sums = "".join(f"{_sha256(partial / file)}  {file}\n" for file in _files(partial))
                (partial / SUMS_FILE).write_text(sums, encoding="utf-8")
                _sync(partial)
                os.rename(partial, path)
            except BaseException:
                shutil.rmtree(partial, ignore_errors=True)  # a full disk needs the room
                raise
            _sync_one(self.folder)
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
        fault = _fault(path)
        self._whole[path] = fault is None
        return fault

    def _load(self, path: Path, like: PyTree) -> tuple[PyTree, dict[str, Any]]:
        meta = json.loads((path / META_FILE).read_text(encoding="utf-8"))
        if meta["format"] != _FORMAT:
            raise CheckpointMismatch("restore", path, f"its format is {meta['format']}; accepted: {_FORMAT}")
        wanted = _named_leaves(like)
        difference = _first_difference(meta["leaves"], {name: _kind(name, leaf) for name, leaf in wanted.items()})
        if difference:
            raise CheckpointMismatch("restore", path, f"it does not match the configuration: {difference}")

        blank = {name: _blank(meta, name, leaf) for name, leaf in wanted.items()}
        stored = {name: array for name, array in blank.items() if array.size}
        arrays = dict(blank)
        if stored:
            with _quiet_orbax():
                arrays |= self._orbax.restore(path / STATE_FOLDER, args=ocp.args.StandardRestore(stored))
        with jax.transfer_guard("allow"):  # these are meant, wherever the caller forbids others
            leaves = [_like(arrays[name], leaf, meta["key_impls"].get(name)) for name, leaf in wanted.items()]
        return jax.tree.unflatten(jax.tree.structure(like), leaves), meta["extra"]


def _named_leaves(tree: PyTree) -> dict[str, Any]:
    """Leaves by path, `.params['head']['kernel']`, in the tree's order; None is no leaf."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    named = {jax.tree_util.keystr(path) or ".": leaf for path, leaf in leaves}
    if len(named) < len(leaves):
        raise ValueError("state has two leaves of one path; accepted: nodes that tell their children apart")
    return named


def _is_key(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _kind(name: str, leaf: Any) -> str:
    """What two leaves must have in common: "float32[3,4]", "key<fry>[8]", "int"."""
    if isinstance(leaf, bool | int | float) and not isinstance(leaf, np.generic):
        return type(leaf).__name__
    if not hasattr(leaf, "dtype") or (not _is_key(leaf) and np.dtype(leaf.dtype).kind in "OSUMm"):
        what = getattr(leaf, "dtype", type(leaf).__name__)
        raise ValueError(
            f"state{name} is of type {what}; accepted: arrays of numbers, random keys, bool, int, float"
        )
    return f"{leaf.dtype}[{','.join(map(str, leaf.shape))}]"


def _key_impl(name: str, key: Any) -> str:
    impl = jax.random.key_impl(key)
    if not isinstance(impl, str):
        raise ValueError(f"state{name} is a key of the unregistered generator {impl}; accepted: JAX's own")
    return impl


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


def _whole(leaf: Any) -> Any:
    """A leaf without its random key's type, and whole in this process, of which other processes may hold parts."""
    if _is_key(leaf):
        leaf = jax.random.key_data(leaf)
    if not isinstance(leaf, jax.Array) or leaf.is_fully_addressable:
        return leaf
    if not leaf.is_fully_replicated:
        leaf = jax.jit(lambda x: x, out_shardings=NamedSharding(leaf.sharding.mesh, PartitionSpec()))(leaf)
    return leaf.addressable_data(0)


def _copy_to_host(leaves: Sequence[Any]) -> list[np.ndarray]:
    """Copies that stay as they are, whatever becomes of the leaves."""

    def own(leaf, host):
        # From an accelerator `device_get` is a copy. On the CPU it may be a view of the device's own buffer,
        # which a donation would then have to copy, or which (NumPy) the caller may write to.
        copied = isinstance(leaf, jax.Array) and all(device.platform != "cpu" for device in leaf.devices())
        return host if copied else np.array(host, order="C")

    return [own(leaf, host) for leaf, host in zip(leaves, jax.device_get(leaves), strict=True)]


def _blank(meta: Mapping[str, Any], name: str, leaf: Any) -> np.ndarray:
    """An array of the shape and dtype in which the leaf is stored, without memory of its own."""
    if _is_key(leaf):
        stored = jax.eval_shape(lambda: jax.random.key_data(jax.random.key(0, impl=meta["key_impls"][name])))
        shape, dtype = (*leaf.shape, *stored.shape), stored.dtype
    elif hasattr(leaf, "dtype"):
        shape, dtype = leaf.shape, leaf.dtype
    else:
        shape, dtype = (), np.asarray(leaf).dtype
    return np.broadcast_to(np.zeros((), dtype), shape)


def _like(array: np.ndarray, like: Any, key_impl: str | None) -> Any:
    """The restored array as the kind of leaf, and in the place, that `like` is."""
    if isinstance(like, np.ndarray):
        return np.array(array)
    if not hasattr(like, "dtype") or isinstance(like, np.generic):
        return type(like)(array[()])
    sharding = getattr(like, "sharding", None)
    if isinstance(sharding, NamedSharding) and not getattr(like, "weak_type", False):
        return _on_mesh(array, sharding, key_impl)
    placed = jax.device_put(np.array(array))
    if key_impl is not None:
        placed = jax.random.wrap_key_data(placed, impl=key_impl)
    elif getattr(like, "weak_type", False):
        # A dtype that gives way in promotions is part of the program; only an update in place keeps it.
        placed = jnp.zeros_like(like).at[...].set(placed)
    committed = getattr(like, "committed", True) and sharding is not None
    return jax.device_put(placed, sharding) if committed else placed


def _on_mesh(array: np.ndarray, sharding: NamedSharding, key_impl: str | None) -> jax.Array:
    """The restored array, each device's part alone on it."""
    array = np.array(array)  # of its own: on a CPU the device's array may be the host's memory
    spec = (*sharding.spec, *[None] * (array.ndim - len(sharding.spec)))  # a key's data has one axis more
    parts = NamedSharding(sharding.mesh, PartitionSpec(*spec))
    placed = jax.make_array_from_callback(array.shape, parts, lambda index: array[index])
    return placed if key_impl is None else jax.random.wrap_key_data(placed, impl=key_impl)


def _first_difference(saved: Mapping[str, str], wanted: Mapping[str, str]) -> str | None:
    for name, kind in wanted.items():
        if name not in saved:
            return f"state{name} is {kind} here and not in the checkpoint"
        if saved[name] != kind:
            return f"state{name} is {kind} here and {saved[name]} in the checkpoint"
    for name, kind in saved.items():
        if name not in wanted:
            return f"state{name} is {kind} in the checkpoint and not here"
    return None


def _files(folder: Path) -> list[str]:
    """Paths of all files below, relative, without the list of sums itself."""
    below = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())
    return sorted(name for name in below if name != SUMS_FILE)


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fault(path: Path) -> str | None:
    """What is wrong with a checkpoint, or None if every byte is as it was written."""
    try:
        lines = (path / SUMS_FILE).read_text(encoding="utf-8").splitlines()
        sums = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
        present = _files(path)
        for name in sorted({META_FILE, *sums, *present}):
            if name not in present:
                return f"{name} is missing"
            if name not in sums:
                return f"{name} is not listed in {SUMS_FILE}"
            if _sha256(path / name) != sums[name]:
                return f"{name} is damaged"
        written = json.loads((path / META_FILE).read_text(encoding="utf-8"))["iteration"]
        if int(path.name.partition("-")[0]) != written:
            return f"it was written as that of iteration {written}"
    except FileNotFoundError as error:
        return f"{Path(error.filename).relative_to(path)} is missing"
    except OSError as error:
        return error.strerror or str(error)
    except UnicodeDecodeError:
        return f"{SUMS_FILE} is damaged"
    return None


def _sync(folder: Path) -> None:
    """Makes a folder and all below survive a loss of power."""
    for path in folder.rglob("*"):
        _sync_one(path)
    _sync_one(folder)


def _sync_one(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _demand_room(folder: Path, size: int) -> None:
    """Asked before, because TensorStore's threads print a traceback an array when a disk fills under them."""
    if shutil.disk_usage(folder).free < size:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


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
