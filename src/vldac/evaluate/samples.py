"""Answers on disk, so that an evaluation that is stopped loses none and goes on: `samples.jsonl` and `pictures/`.

* One JSON object a sample, appended and synced as one write. A last line that was cut off is dropped when the file
  is opened again; any other line that can not be read is an error, not a loss in silence.
* Pictures are WebP files named by their content, so that the frames of a video are kept once however many
  questions are asked about it. They are for people: large ones are scaled down, and no score is taken from them.
* One process writes to a folder at a time.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import io
import json
import math
import os
import re
import weakref
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from vldac.evaluate.benchmark import Question, Sample
from vldac.generate.request import Message, Reply, Video
from vldac.metrics import RunFileError

SAMPLES_FILE = "samples.jsonl"
PICTURES_FOLDER = "pictures"
_NAME = re.compile(r"\w[\w.-]*")  # of a file of a picture
_LOSSLESS = 256  # pixels a side: so small a picture keeps every one of them
_WIDTH = {"picture": 960, "video": 256}  # pixels at most; of a page the words must be legible
_QUALITY = {"picture": 75, "video": 60}


@dataclass(frozen=True)
class Record:
    """A sample as it is kept: its pictures are names of files.

    Attributes:
      id, task, truth, answer, extracted, notes: as of `Sample`.
      scores: as of `Sample`; nan where the official scorer leaves the item out.
      asked: a digest of the task, the truth and the words of the question, "" if it was no question.
      messages: [{"role", "parts"}], a part being text, {"picture": name} or {"video": [names], "fps"}.
      reply: what else there is to know of the answer: "finish_reason", "prompt_tokens", "answer_tokens".
    """

    id: str
    task: str
    truth: Any
    answer: str
    extracted: str | None
    scores: dict[str, float]
    notes: str = ""
    asked: str = ""
    messages: list[dict[str, Any]] = field(default_factory=list)
    reply: dict[str, Any] = field(default_factory=dict)

    @property
    def score(self) -> float:
        """The one that counts, in the unit of the benchmark's scorer; nan if it is left out."""
        return next(iter(self.scores.values()), math.nan)

    @property
    def pictures(self) -> list[str]:
        """Names of the files of all pictures, a video's frames one by one."""
        parts = (part for turn in self.messages for part in turn["parts"] if isinstance(part, dict))
        return [name for part in parts for name in (part["video"] if "video" in part else [part["picture"]])]

    @property
    def seen(self) -> str:
        """What it is about: the same for all items on the same pictures, its own id where there are none."""
        return " ".join(self.pictures) or self.id

    def sample(self) -> Sample:
        """As it was scored, without the pictures."""
        messages = tuple(
            Message(turn["role"], tuple(part for part in turn["parts"] if isinstance(part, str)))
            for turn in self.messages
        )
        return Sample(
            id=self.id,
            task=self.task,
            messages=messages,
            answer=self.answer,
            extracted=self.extracted,
            truth=self.truth,
            scores=self.scores,
            notes=self.notes,
        )


def digest(question: Question) -> str:
    """Of what makes a question what it is, pictures aside: another one gives the same digest only by miracle."""
    words = [[turn.role, turn.text] for turn in question.request.messages]
    content = json.dumps([question.task, question.truth, words], sort_keys=True, default=_unknown)
    return hashlib.blake2b(content.encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()


class SampleLog:
    """The samples of one evaluation: what was saved before, and what is added. A context manager.

    Args:
      folder: of the evaluation; it exists.

    Raises:
      RunFileError: the file can not be read or written, a line before the last is damaged, an id is there twice,
        or another process writes to the folder.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self.path = self.folder / SAMPLES_FILE
        self._films: weakref.WeakKeyDictionary[Video, list[str]] = weakref.WeakKeyDictionary()
        try:
            self._file = open(self.path, "a+b", buffering=0)  # noqa: SIM115  (closed by `close`)
        except OSError as error:
            raise RunFileError("write", self.path, error) from error
        try:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise RunFileError("write", self.path, "another evaluation is writing to it") from error
            whole, self.records = _read(self.path)
            self._file.truncate(whole)
        except BaseException:
            self._file.close()
            raise

    def add(self, sample: Sample, asked: str = "", reply: Reply | None = None) -> Record:
        """Saves a sample, its pictures first. On return it is on disk.

        Raises:
          ValueError: there is one of this id.
          RunFileError: the disk is full, or the folder has gone; the file ends with a whole line.
        """
        if sample.id in self.records:
            raise ValueError(
                f"id is {sample.id!r}, which is saved already; accepted: an id of its own for each item"
            )
        record = Record(
            id=sample.id,
            task=sample.task,
            truth=sample.truth,
            answer=sample.answer,
            extracted=sample.extracted,
            scores=sample.scores,
            notes=sample.notes,
            asked=asked,
            messages=[
                {"role": turn.role, "parts": [self._part(part) for part in turn.parts]} for turn in sample.messages
            ],
            reply={}
            if reply is None
            else {
                "finish_reason": reply.finish_reason,
                "prompt_tokens": reply.prompt_tokens,
                "answer_tokens": reply.answer_tokens,
            },
        )
        scores = {name: value if math.isfinite(value) else None for name, value in record.scores.items()}
        # ASCII: half a surrogate pair, which a model may write, has no UTF-8 but an escape.
        line = json.dumps(vars(record) | {"scores": scores}, allow_nan=False, default=_unknown) + "\n"
        self._write(line.encode())
        self.records[record.id] = record
        return record

    def close(self) -> None:
        """Lets another process write. Harmless when repeated."""
        self._file.close()

    def __enter__(self) -> SampleLog:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _write(self, line: bytes) -> None:
        end = os.fstat(self._file.fileno()).st_size
        try:
            while line:  # a nearly full disk takes a part of a write and says so only by the count
                line = line[self._file.write(line) :]
            os.fsync(self._file.fileno())
        except OSError as error:
            with contextlib.suppress(OSError):
                self._file.truncate(end)
            raise RunFileError("write", self.path, error) from error

    def _part(self, part: Any) -> Any:
        if isinstance(part, Video):
            if part not in self._films:  # several questions may be about one: it is looked at once
                self._films[part] = [self._picture(frame, "video") for frame in part.frames]
            return {"video": self._films[part], "fps": part.fps}
        return {"picture": self._picture(part, "picture")} if isinstance(part, np.ndarray) else part

    def _picture(self, pixels: UInt8[np.ndarray, "h w 3"], kind: str) -> str:
        """Saves a picture unless it is there; its file's name."""
        shape = f"{kind} {pixels.shape}".encode()
        name = (
            hashlib.blake2b(shape + np.ascontiguousarray(pixels).tobytes(), digest_size=12).hexdigest() + ".webp"
        )
        path = self.folder / PICTURES_FOLDER / name
        if path.exists():
            return name
        temporary = path.with_suffix(f".{os.getpid()}")
        try:
            path.parent.mkdir(exist_ok=True)
            temporary.write_bytes(_webp(pixels, kind))
            os.replace(temporary, path)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise RunFileError("write", path, error) from error
        return name


def read_samples(folder: str | Path) -> dict[str, Record]:
    """All whole samples of a folder, by id, in the order they were answered.

    Raises:
      RunFileError: there are none, or a line is damaged.
    """
    return _read(Path(folder) / SAMPLES_FILE)[1]


def _read(path: Path) -> tuple[int, dict[str, Record]]:
    """Bytes of the whole lines, and their records."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise RunFileError("read", path, error) from error
    *lines, cut_off = content.split(b"\n")  # only "\n" ends a line; splitlines() would also split at others
    records: dict[str, Record] = {}
    for number, line in enumerate(lines, start=1):
        try:
            record = _record(json.loads(line))
        except (ValueError, RecursionError) as error:
            raise RunFileError("read", path, f"line {number} is damaged ({error})") from error
        if record.id in records:
            raise RunFileError("read", path, f"line {number}: {record.id!r} is there twice")
        records[record.id] = record
    return len(content) - len(cut_off), records


def _record(value: Any) -> Record:
    if not isinstance(value, dict) or set(value) != set(Record.__dataclass_fields__):
        raise ValueError("not a sample")
    kinds = dict.fromkeys(("id", "task", "answer", "notes", "asked"), str)
    kinds |= {"extracted": str | None, "scores": dict, "messages": list, "reply": dict}
    for name, kind in kinds.items():
        if not isinstance(value[name], kind):
            raise ValueError(f"{name} is a {type(value[name]).__name__}")
    for name, score in value["scores"].items():
        if not isinstance(score, float | int | None):
            raise ValueError(f"the score {name} is a {type(score).__name__}")
    if not all(isinstance(turn, dict) and _is_turn(**turn) for turn in value["messages"]):
        raise ValueError("messages holds something else than turns")
    scores = {name: math.nan if score is None else float(score) for name, score in value["scores"].items()}
    return Record(**value | {"scores": scores})


def _is_turn(role: Any = None, parts: Any = None, **others: Any) -> bool:
    """Whether this is a turn as `Record` has them; a picture's name is that of a file and no path."""
    if not isinstance(role, str) or not isinstance(parts, list) or others:
        return False
    shown = [part for part in parts if not isinstance(part, str)]
    if not all(isinstance(part, dict) for part in shown):
        return False
    names = [part["video"] if "video" in part else [part.get("picture")] for part in shown]
    return all(isinstance(some, list) for some in names) and all(
        isinstance(name, str) and _NAME.fullmatch(name) for some in names for name in some
    )


def _webp(pixels: UInt8[np.ndarray, "h w 3"], kind: str) -> bytes:
    image, options = Image.fromarray(np.ascontiguousarray(pixels)), {"quality": _QUALITY[kind]}
    if max(image.size) <= _LOSSLESS:
        options = {"lossless": True}
    else:
        # WebP holds 16,383 pixels a side.
        factor = min(1.0, _WIDTH[kind] / image.width, 16_000 / image.height)
        size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
        image = image.resize(size, Image.LANCZOS, reducing_gap=2.0) if factor < 1 else image
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", method=2, **options)
    return buffer.getvalue()


def _unknown(value: Any) -> Any:
    """NumPy's numbers, which JSON does not know, as Python's."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    raise ValueError(f"{value!r} of type {type(value).__name__} can not be written as JSON")
