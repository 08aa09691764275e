"""Rows of a benchmark as its users have them on disk: parquet files and JSON lines, and which of them are asked.

Whatever is missing or damaged is a `BenchmarkError` that names the file, what is wrong with it and what to do.
"""

from __future__ import annotations

import importlib
import json
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from vldac.evaluate.benchmark import BenchmarkError, Sample

T = TypeVar("T")


def need(module: str) -> ModuleType:
    """Imports a module of the `benchmarks` extra.

    Raises:
      BenchmarkError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise BenchmarkError(
            f"the package {package} is missing ({first_line(error)}); pip install 'vldac[benchmarks]'"
        ) from None


def first_line(error: BaseException) -> str:
    """An exception in one line: some libraries answer with a page."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def damaged(path: Path, error: BaseException | str) -> BenchmarkError:
    """The error of a file that can not be read, with the likeliest cause where its first bytes tell."""
    reason = error if isinstance(error, str) else first_line(error)
    try:
        with open(path, "rb") as file:
            start = file.read(64)
    except OSError:
        start = b"?"
    if not start:
        return BenchmarkError(f"{path}: the file is empty; download it again")
    if start.startswith(b"version https://git-lfs"):
        return BenchmarkError(f"{path}: a Git LFS pointer, not the file; run `git lfs pull` in its folder")
    return BenchmarkError(f"{path}: damaged ({reason}); download it again")


def open_parquet(path: Path, columns: Collection[str]) -> Any:
    """A `pyarrow.parquet.ParquetFile` of which the footer alone has been read.

    Raises:
      BenchmarkError: pyarrow is missing, the file is no whole parquet file, or a column of `columns` is not there.
    """
    parquet, arrow = need("pyarrow.parquet"), need("pyarrow")
    try:
        file = parquet.ParquetFile(path)
        names = file.schema_arrow.names
    except (arrow.ArrowException, OSError, ValueError) as error:  # ValueError: names that are no UTF-8
        raise damaged(path, error) from None
    missing = [name for name in columns if name not in names]
    if missing:
        raise BenchmarkError(
            f"{path}: no column {', '.join(missing)} among {', '.join(names)}; download the benchmark's own file"
        )
    return file


def read_parquet(path: Path, columns: Collection[str], optional: Collection[str] = ()) -> list[dict[str, Any]]:
    """The rows of a parquet file as Python values: only these columns are read.

    Raises:
      BenchmarkError: as `open_parquet`, or a page that can not be read.
    """
    arrow = need("pyarrow")
    with open_parquet(path, columns) as file:
        names = [*columns, *(name for name in optional if name in file.schema_arrow.names)]
        try:
            # OSError: a page cut off; the others: bytes that are no such column.
            return file.read(columns=names).to_pylist()
        except (arrow.ArrowException, OSError, ValueError) as error:
            raise damaged(path, error) from None


def read_json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(number, object) of each line that is not blank.

    Raises:
      BenchmarkError: a line that holds no JSON object, with its number.
    """
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
                raise damaged(path, f"line {number} is no JSON: {first_line(error)}") from None
            if not isinstance(record, dict):
                raise damaged(path, f"line {number} is no JSON object")
            yield number, record


def folder(root: str | Path, holds: str) -> Path:
    """The folder that a benchmark lies in.

    Raises:
      BenchmarkError: there is none.
    """
    path = Path(root).expanduser()
    if not path.is_dir():
        what = "is a file" if path.exists() else "is not there"
        raise BenchmarkError(f"{path}: the folder {what}; name the one that holds {holds}")
    return path


def check_selection(tasks: Sequence[str], accepted: Sequence[str], limit: int | None) -> tuple[str, ...]:
    """The tasks to ask, in the benchmark's order; none named are all of them.

    Raises:
      ValueError: a task that is unknown, or a limit below 1.
    """
    unknown = [task for task in tasks if task not in accepted]
    if unknown:
        raise ValueError(f"tasks is {', '.join(unknown)}; accepted: {', '.join(accepted)}")
    if limit is not None and limit < 1:
        raise ValueError(f"limit is {limit}; accepted: 1 or more questions a task")
    return tuple(task for task in accepted if task in tasks or not tasks)


def first_of_each(
    rows: Iterable[T], task: Callable[[T], str], tasks: Collection[str], limit: int | None
) -> list[T]:
    """The first `limit` rows of each task of `tasks`, in the order of `rows`."""
    seen: Counter[str] = Counter()
    chosen = []
    for row in rows:
        name = task(row)
        if name in tasks and (limit is None or seen[name] < limit):
            seen[name] += 1
            chosen.append(row)
    return chosen


def answered_tasks(samples: Sequence[Sample], ids: Mapping[str, Collection[str]]) -> set[str]:
    """The tasks of which every question has been answered once.

    Args:
      samples: the answers.
      ids: all ids of each task, asked for or not.
    """
    given: dict[str, list[str]] = {}
    for sample in samples:
        given.setdefault(sample.task, []).append(sample.id)
    return {task for task, all_ids in ids.items() if sorted(given.get(task, ())) == sorted(all_ids)}
