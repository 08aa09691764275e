"""VisualWebBench's questions as they lie on disk: a folder a task, with parquet files that hold the screenshots.

    <root>/{task}/test-*.parquet

* What is asked is read at once, without the screenshots, which lie in columns of their own; they are read a row
  group at a time, when a question of it is reached (some hundred megabytes at most).
* The screenshot is that of `image`, on which boxes and letters are drawn, as the official code takes it for all
  tasks; `raw_image`, which the grounding tasks hold as well, is without them and never read.

Source: VisualWebBench run.py; huggingface.co/datasets/visualwebbench/VisualWebBench; `datasets` 4, whose
reading of an image (turned upright by its EXIF tag) run.py relies on, and model_adapters/, which make it RGB.
"""

from __future__ import annotations

import bisect
import io
import itertools
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import ExifTags, Image, ImageOps

from vldac.evaluate.benchmark import BenchmarkError
from vldac.evaluate.tables import damaged, first_line, need, open_parquet, read_parquet
from vldac.evaluate.visualwebbench.scoring import CHOICE, TEXT, score

PUBLISHED = {
    "web_caption": 134,
    "heading_ocr": 46,
    "element_ocr": 245,
    "webqa": 314,
    "element_ground": 413,
    "action_prediction": 281,
    "action_ground": 103,
}
"""How many questions each task has."""

ASKS = {
    "web_caption": (),
    "heading_ocr": (),
    "element_ocr": ("bbox",),
    "webqa": ("question",),
    "element_ground": ("elem_desc",),
    "action_prediction": ("bbox", "options"),
    "action_ground": ("instruction",),
}
"""The columns that each task's prompt is made of."""

PIXELS = "image.bytes"
_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")  # those alone: for some others Pillow starts programs


class Table:
    """One task's rows, its screenshots read as they are reached.

    Attributes:
      rows: `ASKS[task]`, `answer` and, where there is one, `website`, of each question in the files' order.

    Args:
      root: the folder that holds the tasks' folders.
      task: one of `scoring.TASKS`.

    Raises:
      BenchmarkError: no file; one that is damaged or lacks a column; a row that can not be asked.
    """

    def __init__(self, root: Path, task: str):
        self.task = task
        self._paths = sorted((root / task).glob("test-*.parquet"))
        if not self._paths:
            raise BenchmarkError(
                f"{root / task}: no test-*.parquet; download the folder {task} from huggingface.co/datasets/"
                "visualwebbench/VisualWebBench"
            )
        self.rows: list[dict[str, Any]] = []
        self._starts = [0]  # the row that each file begins with, and the end
        self._groups: list[list[int]] = []  # the same of each file's row groups
        for path in self._paths:
            rows = read_parquet(path, (*ASKS[task], "answer"), optional=("id", "website"))
            for number, row in enumerate(rows):
                _check(task, row, f"{path} row {number}")
            with open_parquet(path, ("image",)) as file:
                self._groups.append(_check_images(path, file))
            self.rows += rows
            self._starts.append(len(self.rows))
        if not self.rows:
            raise BenchmarkError(f"{root / task}: no question in {self._paths[0].name}; download it again")
        self._held: tuple[tuple[int, int], Any] | None = None  # the row group that was read last

    def where(self, index: int) -> str:
        """The file and row of a question, for people."""
        file, row = self._locate(index)
        return f"{self._paths[file]} row {row}"

    def image(self, index: int) -> UInt8[np.ndarray, "h w 3"]:
        """The screenshot of a question.

        Raises:
          BenchmarkError: it is missing or damaged.
        """
        number, row = self._locate(index)
        group = bisect.bisect_right(self._groups[number], row) - 1
        if self._held is None or self._held[0] != (number, group):
            self._held = None  # lets go of the last one before the next is read
            self._held = (number, group), _read_group(self._paths[number], group)
        pixels = self._held[1][row - self._groups[number][group]].as_py()
        if not pixels or not pixels["bytes"]:
            raise BenchmarkError(f"{self.where(index)}: image is null; download the file again")
        return decode(pixels["bytes"], self.where(index))

    def _locate(self, index: int) -> tuple[int, int]:
        number = bisect.bisect_right(self._starts, index) - 1
        return number, index - self._starts[number]


def decode(data: bytes, where: str) -> UInt8[np.ndarray, "h w 3"]:
    """An encoded image's pixels, upright, as RGB.

    Raises:
      BenchmarkError: it can not be decoded; `where` begins its line.
    """
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            image.load()
            upright = image
            if image.getexif().get(ExifTags.Base.Orientation) is not None:
                upright = ImageOps.exif_transpose(image)
            return np.asarray(upright.convert("RGB"))
    except Exception as error:  # Pillow's decoders raise whatever their formats' bytes lead them to
        raise BenchmarkError(f"{where}: image is damaged ({first_line(error)}); download the file again") from None


def _read_group(path: Path, group: int) -> Any:
    """The column `image` of a row group, its bytes alone: a pyarrow array of structs."""
    arrow = need("pyarrow")
    with open_parquet(path, ("image",)) as file:
        try:
            return file.read_row_group(group, columns=[PIXELS]).column("image").combine_chunks()
        except (arrow.ArrowException, OSError, ValueError) as error:
            raise damaged(path, f"row group {group}: {first_line(error)}") from None


def _check_images(path: Path, file: Any) -> list[int]:
    """The row that each row group begins with.

    Raises:
      BenchmarkError: images are not embedded, or the file's statistics say that one is null.
    """
    meta = file.metadata
    try:
        names = [meta.schema.column(number).path for number in range(meta.num_columns)]
    except ValueError as error:  # names that are no UTF-8
        raise damaged(path, error) from None
    if PIXELS not in names:
        raise BenchmarkError(f"{path}: column image holds no bytes; download the benchmark's own file")
    column = names.index(PIXELS)
    groups = [meta.row_group(number) for number in range(meta.num_row_groups)]
    starts = [0, *itertools.accumulate(group.num_rows for group in groups)][:-1]
    for number, (group, start) in enumerate(zip(groups, starts, strict=True)):
        statistics = group.column(column).statistics
        if statistics is not None and statistics.has_null_count and statistics.null_count:
            images = _read_group(path, number)
            row = next(row for row, image in enumerate(images) if not (image.as_py() or {}).get("bytes"))
            raise BenchmarkError(f"{path} row {start + row}: image is null; download the file again")
    return starts


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


def _check(task: str, row: dict[str, Any], where: str) -> None:
    """Raises a BenchmarkError for what can not be asked or scored. What is merely odd, such as an empty question,
    is asked, as by the official code."""

    def wrong(name: str, accepted: str) -> BenchmarkError:
        return BenchmarkError(f"{where}: {name} is {row[name]!r}; accepted: {accepted}")

    for name in ASKS[task]:
        value = row[name]
        if name == "bbox":
            # A list of numbers in the files that were checked; written out as text in an early version.
            numbers = (
                isinstance(value, list) and len(value) == 4 and all(isinstance(x, float | int) for x in value)
            )
            if not numbers and not isinstance(value, str):
                raise wrong(name, "four numbers")
        elif name == "options":
            if not _texts(value) and not isinstance(value, str):
                raise wrong(name, "a list of texts")
        elif not isinstance(value, str):
            raise wrong(name, "a text")
    answer = row["answer"]
    if task in CHOICE and (not isinstance(answer, int) or isinstance(answer, bool) or answer < 0):
        raise wrong("answer", "the index of an option")
    if task == "webqa" and not _texts(answer):
        raise wrong("answer", "a list of texts")
    if task in TEXT and not isinstance(answer, str):
        raise wrong("answer", "a text")
    try:
        score(task, [""], [answer])
    except ValueError:
        raise wrong("answer", "a text that is not empty or of full stops alone") from None
