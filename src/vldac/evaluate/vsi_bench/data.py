"""VSI-Bench's questions as they lie on disk: `test.jsonl`, or parquet files with the same columns.

    <root>/test.jsonl                        5130 questions, or
    <root>/test-*.parquet                    the same, as first published
    <root>/test_debiased.parquet             2362 of them, VSI-Bench-Debiased
    <root>/test_pruned.parquet               the other 2768

The order of rows differs between the published files, so questions are put in the order of their ids.

Source: huggingface.co/datasets/nyu-visionx/VSI-Bench, its card and its script for the subsets.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vldac.evaluate.benchmark import BenchmarkError
from vldac.evaluate.tables import read_json_lines, read_parquet
from vldac.evaluate.vsi_bench.scoring import CHOICE, NUMBER, score

SOURCE = "huggingface.co/datasets/nyu-visionx/VSI-Bench"
SUBSETS = ("full", "debiased", "pruned")
PUBLISHED = {"full": 5130, "debiased": 2362, "pruned": 2768}
"""How many questions each subset has."""

COLUMNS = ("id", "dataset", "scene_name", "question_type", "question", "ground_truth", "options")
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")  # one part of a path, never ".." nor hidden


@dataclass(frozen=True)
class Row:
    """One question.

    Attributes:
      id: the data set's number.
      dataset, scene: the video is `{dataset}/{scene}.mp4`.
      question_type: one of `scoring.CHOICE` and `scoring.NUMBER`.
      question: in words.
      truth: a letter, or a positive number.
      options: with their letters, empty for a number.
      pruned: whether VSI-Bench-Debiased leaves it out, None where the file does not say.
    """

    id: int
    dataset: str
    scene: str
    question_type: str
    question: str
    truth: str
    options: tuple[str, ...]
    pruned: bool | None


def read_rows(root: Path, subset: str = "full") -> list[Row]:
    """All questions of a subset in the order of their ids, checked.

    Raises:
      ValueError: an unknown subset.
      BenchmarkError: no file, or one that is damaged, lacks a column or holds a row that can not be asked.
    """
    if subset not in SUBSETS:
        raise ValueError(f"subset is {subset!r}; accepted: {', '.join(SUBSETS)}")
    rows: dict[int, tuple[Row, str]] = {}
    for where, record in _records(root, subset):
        row = _row(record, where)
        if row.id in rows:
            raise BenchmarkError(
                f"{where}: id {row.id} is that of {rows[row.id][1]}, too; download the file again"
            )
        rows[row.id] = row, where
    if not rows:
        raise BenchmarkError(f"{root}: no question in the files of {subset}; download them again")
    return [rows[number][0] for number in sorted(rows)]


def _records(root: Path, subset: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """(where it stands, its columns) of each row of a subset."""
    json_lines = root / "test.jsonl"
    parts = {name: root / f"test_{name}.parquet" for name in ("debiased", "pruned")}
    if subset == "full":
        tables = sorted(root.glob("test-*.parquet"))
        if json_lines.is_file():
            yield from _from_json_lines(json_lines)
        elif tables:
            yield from _from_parquet(tables)
        elif all(path.is_file() for path in parts.values()):
            yield from _from_parquet(parts.values())
        else:
            raise BenchmarkError(f"{root}: neither test.jsonl nor test-*.parquet; download one from {SOURCE}")
    elif parts[subset].is_file():
        yield from _from_parquet([parts[subset]])
    elif json_lines.is_file():
        yield from _marked(json_lines, root / "pruned_ids.txt", subset == "pruned")
    else:
        raise BenchmarkError(f"{parts[subset]}: not there; download it from {SOURCE}")


def _from_json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, record in read_json_lines(path):
        yield f"{path} line {number}", record


def _from_parquet(paths: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    for path in paths:
        for number, record in enumerate(read_parquet(path, COLUMNS, optional=("pruned",))):
            yield f"{path} row {number}", record


def _marked(path: Path, ids_file: Path, pruned: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of the full file that are marked, there or in the list of ids beside it, as pruned or as kept."""
    ids = set(ids_file.read_text(encoding="utf-8", errors="replace").split()) if ids_file.is_file() else None
    for where, record in _from_json_lines(path):
        marked = record.get("pruned")
        if marked is None and ids is not None:
            marked = str(record.get("id")) in ids
        if not isinstance(marked, bool):
            name = "test_pruned.parquet" if pruned else "test_debiased.parquet"
            raise BenchmarkError(
                f"{where}: does not say whether it is pruned; download {name} or pruned_ids.txt beside it"
            )
        if marked == pruned:
            yield where, record


def _row(record: dict[str, Any], where: str) -> Row:
    missing = [name for name in COLUMNS if name not in record and name != "options"]
    if missing:
        raise BenchmarkError(f"{where}: no {', '.join(missing)}; download the file again")

    def wrong(name: str, accepted: str) -> BenchmarkError:
        return BenchmarkError(f"{where}: {name} is {record.get(name)!r}; accepted: {accepted}")

    number = record["id"]
    if isinstance(number, str) and number.isascii() and number.isdigit():
        number = int(number)
    if not isinstance(number, int) or isinstance(number, bool):
        raise wrong("id", "a whole number")
    scene = record["scene_name"]
    if isinstance(scene, int) and not isinstance(scene, bool):  # ARKitScenes' are numbers
        record = record | {"scene_name": str(scene)}
    for name in ("dataset", "scene_name"):  # they become part of a path
        if not isinstance(record[name], str) or not _NAME.fullmatch(record[name]):
            raise wrong(name, "a name of letters, digits, '.', '-' and '_'")
    kind = record["question_type"]
    if kind not in CHOICE + NUMBER:
        raise wrong("question_type", ", ".join(CHOICE + NUMBER))
    if not isinstance(record["question"], str):
        raise wrong("question", "a text")
    truth, options = record["ground_truth"], record.get("options")
    if isinstance(truth, int | float) and not isinstance(truth, bool):
        truth = str(truth)
    if not isinstance(truth, str) or not truth:
        raise wrong("ground_truth", "a text")
    if kind in CHOICE and not (isinstance(options, list) and options and all(isinstance(o, str) for o in options)):
        raise wrong("options", f"a list of texts for {kind}")
    try:
        score("", truth, kind)  # a number has to be positive
    except ValueError:
        raise wrong("ground_truth", f"a positive number for {kind}") from None
    pruned = record.get("pruned")
    return Row(
        id=number,
        dataset=record["dataset"],
        scene=record["scene_name"],
        question_type=kind,
        question=record["question"],
        truth=truth,
        options=tuple(options) if kind in CHOICE else (),
        pruned=pruned if isinstance(pruned, bool) else None,
    )
