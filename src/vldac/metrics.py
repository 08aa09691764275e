"""The numbers of a run on disk: `metrics.jsonl`, TensorBoard events, `summary.json`.

* One JSON object per line and iteration, each either whole on disk or not there: a line is one write, synced,
  and taken back when the disk fills in the middle of it.
* A resumed run first forgets what was logged after its checkpoint, because it will compute that again.
* JSON has no NaN and no infinity: both are written as null, so that any reader can read the file.

Names that the progress display and the report know (anything else may be logged and is plotted, too):

    iteration, env_steps, seconds          counted since the run began
    rollout/success_rate                   of the episodes that ended in this rollout; NaN if none did
    rollout/episode_return, rollout/episode_length     means over the same episodes
    rollout/parse_failure_rate             share of answers that name no action
    rollout/answer_tokens                  tokens in an answer, mean
    rollout/lane_use                       share of the decoder's turns, in all its lanes, that wrote a token
    rollout/tokens_per_second, rollout/env_steps_per_second
    train/loss, train/policy_loss, train/value_loss, train/kl_reference, train/kl_old, train/clip_fraction,
    train/entropy, train/explained_variance, train/logprob_mismatch, train/grad_norm,
    train/ratio_mean, train/advantage_std  means over the update
    train/learning_rate                    the model's, at the iteration's first update
    eval/<world>/success_rate              whole episodes, in the iterations that evaluate
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.summary import scalar

METRICS_FILE = "metrics.jsonl"
SUMMARY_FILE = "summary.json"
TENSORBOARD_FOLDER = "tensorboard"
_FLOAT32_MAX = float(np.finfo(np.float32).max)  # what a TensorBoard event can hold


class RunFileError(OSError):
    """A file of the run could not be read or written. `str()` is one line with the path and the reason."""

    def __init__(self, action: str, path: str | Path, reason: BaseException | str):
        why = (reason.strerror or str(reason)) if isinstance(reason, OSError) else str(reason)
        super().__init__(getattr(reason, "errno", None), why, str(path))
        self.action = action

    def __str__(self) -> str:
        return f"cannot {self.action} {self.filename}: {self.strerror}"


class MetricsWriter:
    """Writes one object per iteration to `metrics.jsonl` and to TensorBoard.

    A context manager. Both files are complete after every `write`: a run that is killed loses nothing.

    Args:
      run_dir: folder of the run; made if it is not there.
      resume_from_iteration: the last iteration that the checkpoint has seen: later lines, and a last line
        that was cut off, are removed. None starts a new run, where no metrics may exist yet.

    Raises:
      RunFileError: a file or folder cannot be written, an earlier line cannot be read, or a new run finds
        metrics of another.
    """

    def __init__(self, run_dir: str | Path, resume_from_iteration: int | None = None):
        self.path = Path(run_dir) / METRICS_FILE
        folder = Path(run_dir) / TENSORBOARD_FOLDER
        with _as_run_file_error("write", self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if resume_from_iteration is not None:
                _forget_after(self.path, resume_from_iteration)
            elif self.path.exists() and self.path.stat().st_size:
                raise RunFileError("write", self.path, "it holds the metrics of another run; resume it instead")
            # Unbuffered: after a failed write nothing is left over that a later one would append.
            self._file = open(self.path, "ab", buffering=0)  # noqa: SIM115  (closed by `close`)
        with _as_run_file_error("write", folder):
            folder.mkdir(exist_ok=True)
            # Not SummaryWriter: it writes from a thread, which dies silently on a full disk and then lets
            # the training loop wait for ever on its full queue. The suffix keeps files of one second apart.
            start = 0 if resume_from_iteration is None else resume_from_iteration + 1
            self._events = EventsWriter(str(folder / "events"), f".{os.getpid()}.{time.monotonic_ns()}")
            if resume_from_iteration is not None:  # TensorBoard then drops earlier events from `start` on
                self._events.write_event(
                    Event(step=start, wall_time=time.time(), session_log=SessionLog(status=SessionLog.START))
                )
            self._events.flush()
        self._tensorboard_folder = folder

    def write(self, metrics: Mapping[str, Any]) -> None:
        """Appends one iteration.

        Args:
          metrics: has `iteration`; values are numbers, 0-d arrays (NumPy or JAX), strings, or lists and
            mappings of them. Numbers that are not finite become null and are left out of TensorBoard.

        Raises:
          ValueError: `iteration` is missing or not an integer, or a value cannot be written as JSON.
          RunFileError: the disk is full, or the folder has gone. The file ends with a whole line.
        """
        if "iteration" not in metrics:
            raise ValueError(f"metrics have no 'iteration'; they have {', '.join(metrics) or 'nothing'}")
        record = _plain(dict(metrics))
        if not _is_integer(record["iteration"]):
            raise ValueError(f"iteration is {metrics['iteration']!r}; accepted: an integer")
        line = (json.dumps(record, allow_nan=False) + "\n").encode()
        with _as_run_file_error("write", self.path):
            end = os.fstat(self._file.fileno()).st_size
            try:
                while line:  # a nearly full disk takes a part of a write and says so only by the count
                    line = line[self._file.write(line) :]
                os.fsync(self._file.fileno())
            except OSError:
                with contextlib.suppress(OSError):
                    self._file.truncate(end)
                raise
        with _as_run_file_error("write", self._tensorboard_folder):
            for name, value in record.items():
                if name == "iteration" or not isinstance(value, int | float) or abs(value) > _FLOAT32_MAX:
                    continue
                summary = scalar(name, float(value))
                self._events.write_event(Event(step=record["iteration"], wall_time=time.time(), summary=summary))
            self._events.flush()

    def close(self) -> None:
        """Closes both files. Harmless when repeated."""
        if not self._file.closed:
            self._file.close()
            with _as_run_file_error("write", self._tensorboard_folder):
                self._events.close()

    def __enter__(self) -> MetricsWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # What is already wrong is the news; that the rest of it cannot be written either is not.
        with contextlib.suppress(RunFileError) if kind else contextlib.nullcontext():
            self.close()


def read_metrics(run_dir: str | Path) -> list[dict[str, Any]]:
    """All iterations of a run, oldest first; empty if there are none. A cut-off last line is left out.

    Raises:
      RunFileError: the file cannot be read, or an earlier line is not a JSON object.
    """
    path = Path(run_dir) / METRICS_FILE
    return [record for _, record in _lines(path)]


def write_summary(run_dir: str | Path, summary: Mapping[str, Any]) -> None:
    """Writes `summary.json`, whole or not at all.

    Args:
      summary: any of
        success_rate, steps_to_goal, mean_return: {world: {"random" | "before" | "after" | "expert":
          [estimate, low, high]}}; the first world is the one trained on, the others are unseen;
        parse_failure_rate: {world: {"before" | "after": rate}};
        iterations, env_steps: int; interrupted: bool; peak_memory_mib: float;
        seconds: {"compile" | "imitation" | "rollout" | "update" | "evaluation" | "total": float};
        versions: {name: text}; episodes: int, of each evaluation; model: text, the model in a few words;
        worlds: {world: {"instruction": text, "actions": [text], "max_steps": int}}.

    Raises:
      ValueError: a value cannot be written as JSON.
      RunFileError: the file cannot be written.
    """
    text = json.dumps(_plain(dict(summary)), indent=2, allow_nan=False, ensure_ascii=False)
    write_atomically(Path(run_dir) / SUMMARY_FILE, text.encode() + b"\n")


def read_summary(run_dir: str | Path) -> dict[str, Any]:
    """What `write_summary` wrote; empty if there is none yet.

    Raises:
      RunFileError: the file cannot be read, or is not a JSON object.
    """
    return read_json(Path(run_dir) / SUMMARY_FILE)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object of the run; empty if the file does not exist.

    Raises:
      RunFileError: the file cannot be read, or is not a JSON object.
    """
    with _as_run_file_error("read", path):
        try:
            return _object(path.read_bytes())
        except FileNotFoundError:
            return {}
        except ValueError as error:
            raise RunFileError("read", path, str(error)) from error


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a file so that whoever opens it sees the old content or the new one, never a part.

    Raises:
      RunFileError: it cannot be written; the old file stays.
    """
    with _as_run_file_error("write", path):
        path.parent.mkdir(parents=True, exist_ok=True)
        # Not tempfile: its mode 0600 would hide the report from a web server.
        temporary = path.with_name(f".{path.name}.{os.getpid()}.{time.monotonic_ns()}")
        try:
            with open(temporary, "xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise


def _forget_after(path: Path, iteration: int) -> None:
    """Keeps the lines up to `iteration`, byte for byte."""
    kept = b"".join(line for line, record in _lines(path) if record["iteration"] <= iteration)
    if path.exists() and path.read_bytes() != kept:
        write_atomically(path, kept)


def _lines(path: Path) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """(line with its newline, record) for every complete line."""
    with _as_run_file_error("read", path):
        try:
            # Only "\n" ends a line; splitlines() would also split at other characters.
            *complete, _cut_off = path.read_bytes().split(b"\n")
        except FileNotFoundError:
            return
        for number, line in enumerate(complete, start=1):
            try:
                record = _object(line)
                if not _is_integer(record.get("iteration")):
                    raise ValueError("no integer 'iteration'")
            except ValueError as error:
                raise RunFileError("read", path, f"line {number}: {error}") from error
            yield line + b"\n", record


def _object(text: bytes) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except RecursionError as error:
        raise ValueError("JSON nested too deep") from error
    if not isinstance(value, dict):
        raise ValueError(f"a JSON {type(value).__name__} where an object was expected")
    return value


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _plain(value: Any) -> Any:
    """The same value out of JSON's types; numbers that are not finite become None."""
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, Sequence):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    try:
        array = np.asarray(value)
        if array.dtype.name == "bfloat16":  # `tolist` of a type that NumPy does not know gives it back
            array = array.astype(np.float32)
        if array.dtype.kind in "biuf":
            return _plain(array.tolist())
    except Exception as error:  # whatever an array type raises on conversion
        raise ValueError(f"{value!r} cannot be written as JSON: {error}") from error
    raise ValueError(f"{value!r} of type {type(value).__name__} cannot be written as JSON")


@contextlib.contextmanager
def _as_run_file_error(action: str, path: Path) -> Iterator[None]:
    try:
        yield
    except RunFileError:
        raise
    except OSError as error:
        raise RunFileError(action, path, error) from error
