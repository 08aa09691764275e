"""VisualWebBench as a `vldac.evaluate.benchmark.Benchmark`: official prompts, settings and post-processing."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from vldac.evaluate.benchmark import Question, Sample
from vldac.evaluate.tables import answered_tasks, check_selection, first_of_each, folder
from vldac.evaluate.visualwebbench.data import ASKS, PUBLISHED, Table
from vldac.evaluate.visualwebbench.judging import judge, score_alone, task_figures
from vldac.evaluate.visualwebbench.prompts import prompt
from vldac.evaluate.visualwebbench.scoring import METRIC, TASKS, postprocess
from vldac.generate.request import Message, Reply, Request

PROTOCOLS = {"openai": 512, "qwen_vl": 512, "lmms_eval": 16}
"""Whose post-processing counts, and how many tokens an answer may have there.

* openai: the official code's for OpenAI and LLaVA models.
* qwen_vl: the official code's for Qwen-VL: webqa after a colon, and of action_prediction the first letter.
* lmms_eval: none, and captions end after 16 tokens; not comparable with the official figures.
"""

_ADAPTER = {"openai": "openai", "qwen_vl": "qwen_vl", "lmms_eval": "none"}
_PREFIX = {"openai": "openai/", "qwen_vl": "qwen_vl/", "none": "unprocessed/"}


class VisualWebBench:
    """VisualWebBench from the files as published.

    All that can be checked without reading a screenshot is checked when it is made, so that a run of hours does
    not end at the last question: files, columns, every text and answer, and that no image is null.

    Attributes:
      partial: whether `tasks` or `limit` leaves something out.
      notes: what a reader should know of the data, such as fewer questions than published.
      max_pixels, min_pixels: of a screenshot, for the model's preprocessing; None = its own, the official way.

    Args:
      root: holds a folder a task with its parquet files (`data`).
      protocol: one of `PROTOCOLS`: whose post-processing counts. What others would give is told as well.
      tasks: only these; none named are all seven.
      limit: only the first so many of each task, in the files' order.
      max_pixels, min_pixels: see above.

    Raises:
      ValueError: an option that is out of range.
      BenchmarkError: a file that is missing or damaged.
    """

    name = "visualwebbench"
    unit = "%"

    def __init__(
        self,
        root: str | Path,
        *,
        protocol: str = "openai",
        tasks: Sequence[str] = (),
        limit: int | None = None,
        max_pixels: int | None = None,
        min_pixels: int | None = None,
    ):
        if protocol not in PROTOCOLS:
            raise ValueError(f"protocol is {protocol!r}; accepted: {', '.join(PROTOCOLS)}")
        chosen = check_selection(tasks, TASKS, limit)
        path = folder(root, "VisualWebBench's folders web_caption, heading_ocr, ...")
        self.max_pixels, self.min_pixels = max_pixels, min_pixels
        self._adapter, self._max_tokens = _ADAPTER[protocol], PROTOCOLS[protocol]
        # Tasks that are not asked need not be there.
        self._tables = {task: Table(path, task) for task in chosen}
        self._ids = {
            task: [_id(task, row) for row in range(len(table.rows))] for task, table in self._tables.items()
        }
        rows = [(task, row) for task, table in self._tables.items() for row in range(len(table.rows))]
        self._asked = first_of_each(rows, lambda row: row[0], chosen, limit)
        self.partial = len(self._asked) < len(rows) or len(chosen) < len(TASKS)
        self.notes = tuple(
            f"{path / task} holds {len(table.rows)} questions, published are {PUBLISHED[task]}"
            for task, table in self._tables.items()
            if len(table.rows) != PUBLISHED[task]
        )

    def __len__(self) -> int:
        """How many questions will be asked."""
        return len(self._asked)

    def questions(self, saved: Collection[str] = ()) -> Iterator[Question]:
        """The chosen ones, task by task; a screenshot is read when its question is reached and not one of `saved`.

        The iterator goes on after an error: who catches it and calls `next` again is given the question after.

        Raises:
          BenchmarkError: a screenshot that turns out to be damaged, named.
        """
        return map(lambda asked: self._question(asked, saved), self._asked)

    def judge(self, question: Question, reply: Reply) -> Sample:
        """The scorer's figures for this answer alone in percent, the one that counts first; nan if it is left out.

        Where another post-processing of the official code, or none, would give something else, its score of the
        same kind is there, too, as "qwen_vl/f1".
        """
        sample = judge(question, reply, self._adapter)
        task, answer = question.task, reply.text.strip()
        others = {
            prefix + METRIC[task]: score_alone(task, answer, question.truth, adapter)[METRIC[task]]
            for adapter, prefix in _PREFIX.items()
            if postprocess(task, answer, adapter) != postprocess(task, answer, self._adapter)
        }
        return dataclasses.replace(sample, scores=sample.scores | others)

    def summary(self, samples: Sequence[Sample]) -> dict[str, float]:
        """The official figures in percent, `{task}_{metric}`, and "overall", the mean of the seven that count.

        Then the same for other ways of post-processing, by their prefix. A figure of some of a task's questions
        only ends in " (partial)". So does "overall" if anything is missing: it is the mean of what there is then,
        and not comparable with anybody else's.
        """
        done = answered_tasks(samples, self._ids)
        figures: dict[str, float] = {}
        for adapter in (self._adapter, *(name for name in _PREFIX if name != self._adapter)):
            prefix = "" if adapter == self._adapter else _PREFIX[adapter]
            figures |= {prefix + name: value for name, value in task_figures(samples, adapter, done).items()}
        return figures

    def _question(self, asked: tuple[str, int], saved: Collection[str]) -> Question:
        task, index = asked
        table = self._tables[task]
        row, name = table.rows[index], _id(task, index)
        text = prompt(task, row)
        parts = (text,) if name in saved else (table.image(index), text)
        return Question(
            id=name,
            task=task,
            request=Request((Message("user", parts),), max_tokens=self._max_tokens),
            truth=row["answer"],
            data={name: row[name] for name in ("id", "website", *ASKS[task]) if name in row},
        )


def _id(task: str, row: int) -> str:
    return f"{task}/{row:04d}"
