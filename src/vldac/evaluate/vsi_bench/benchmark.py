"""VSI-Bench as a `vldac.evaluate.benchmark.Benchmark`: official prompts and settings, both scorers."""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import numpy as np

from vldac.evaluate.benchmark import Question, Sample
from vldac.evaluate.tables import answered_tasks, check_selection, first_of_each, folder
from vldac.evaluate.vsi_bench.data import PUBLISHED, Row, read_rows
from vldac.evaluate.vsi_bench.prompts import prompt
from vldac.evaluate.vsi_bench.scoring import (
    CHOICE,
    DIRECTIONS,
    NUMBER,
    aggregate,
    first_word,
    score,
    score_lmms_eval,
)
from vldac.evaluate.vsi_bench.video import Videos, two_a_second, uniform
from vldac.generate.request import Message, Reply, Request, Video

SAMPLINGS = ("uniform", "two_a_second")
MAX_TOKENS = 16


def judge(question: Question, reply: Reply) -> Sample:
    """`official` and `lmms_eval`, VSI-Bench's two scores, each in 0..1.

    Blanks around the answer are taken off before it is scored, as the model classes of both harnesses do.
    """
    answer = reply.text.strip()
    cut = reply.finish_reason == "length"
    return Sample(
        id=question.id,
        task=question.task,
        messages=question.request.messages,
        answer=reply.text,
        extracted=first_word(answer) or None,
        truth=question.truth,
        scores={
            "official": score(answer, question.truth, question.task),
            "lmms_eval": score_lmms_eval(answer, question.truth, question.task),
        },
        notes=f"cut off after {reply.answer_tokens} tokens" if cut else "",
    )


class VSIBench:
    """VSI-Bench from the files as published.

    All that can be checked without decoding a video is checked when it is made, so that a run of hours does not
    end at the last question: rows, columns, and that each video that will be asked about is there.

    Questions about one video follow one another, videos in the order of their names: each is decoded once.

    Attributes:
      partial: whether `tasks` or `limit` leaves something out.
      notes: what a reader should know of the data, such as fewer questions than published.
      max_pixels, min_pixels: of a frame, for the model's preprocessing; None = the model's own.

    Args:
      root: holds test.jsonl or the parquet files, and the videos, zipped or not (`data`, `video`).
      subset: "full", "debiased" (VSI-Bench-Debiased) or "pruned", what the latter leaves out.
      frames: of a video, at most.
      sampling: "uniform" over the whole video, the official way; "two_a_second" takes two frames a second first
        and `frames` of those, as lmms-eval does for Qwen2-VL.
      tasks: only these question types; none named are all ten.
      limit: only the first so many of each type, by id.
      max_pixels, min_pixels: see above; the defaults are those of the VL-DAC paper (appendix C).

    Raises:
      ValueError: an option that is out of range.
      BenchmarkError: a file that is missing or damaged.
    """

    name = "vsi_bench"
    unit = "%"

    def __init__(
        self,
        root: str | Path,
        *,
        subset: str = "full",
        frames: int = 32,
        sampling: str = "uniform",
        tasks: Sequence[str] = (),
        limit: int | None = None,
        max_pixels: int | None = 200704,
        min_pixels: int | None = 3136,
    ):
        if frames < 1:
            raise ValueError(f"frames is {frames}; accepted: 1 or more")
        if sampling not in SAMPLINGS:
            raise ValueError(f"sampling is {sampling!r}; accepted: {', '.join(SAMPLINGS)}")
        chosen = check_selection(tasks, CHOICE + NUMBER, limit)
        path = folder(root, "VSI-Bench's test.jsonl and videos")
        self.max_pixels, self.min_pixels = max_pixels, min_pixels
        rows = read_rows(path, subset)
        asked = first_of_each(rows, lambda row: row.question_type, chosen, limit)
        self._ids: dict[str, list[str]] = {kind: [] for kind in CHOICE + NUMBER}
        for row in rows:
            self._ids[row.question_type].append(str(row.id))
        self._asked = sorted(asked, key=lambda row: (row.dataset, row.scene))
        self.partial = len(asked) < len(rows)
        self.notes: tuple[str, ...] = ()
        if len(rows) != PUBLISHED[subset]:
            self.notes = (f"{path} holds {len(rows)} questions of {subset}, published are {PUBLISHED[subset]}",)
        self._choose = functools.partial(_choose, sampling, frames)
        self._videos = Videos(path)
        self._videos.check((row.dataset, row.scene) for row in asked)
        self._last: tuple[tuple[str, str], Video] | None = None

    def __len__(self) -> int:
        """How many questions will be asked."""
        return len(self._asked)

    def questions(self, saved: Collection[str] = ()) -> Iterator[Question]:
        """The chosen ones; a video is decoded when its first question is reached that is not one of `saved`.

        The iterator goes on after an error: who catches it and calls `next` again is given the question after.

        Raises:
          BenchmarkError: a video that turns out to be damaged, named; of each of its questions.
        """
        return map(lambda row: self._question(row, saved), self._asked)

    def judge(self, question: Question, reply: Reply) -> Sample:
        """See `judge`."""
        return judge(question, reply)

    def summary(self, samples: Sequence[Sample]) -> dict[str, float]:
        """The official figures in percent under their official names, then lmms-eval's as `lmms_eval/...`.

        A figure that is made of some of its questions only ends in " (partial)". So does "overall" then, which
        is the mean of what there is and not comparable with anybody else's.
        """
        done = answered_tasks(samples, self._ids)
        figures: dict[str, float] = {}
        for prefix, scorer in (("", score), ("lmms_eval/", score_lmms_eval)):
            results = [(one.task, scorer(one.answer.strip(), one.truth, one.task)) for one in samples]
            figures |= {prefix + name: value for name, value in _figures(results, done).items()}
        return figures

    def _question(self, row: Row, saved: Collection[str]) -> Question:
        text = prompt(row.question, row.question_type, row.options)
        parts = (text,) if str(row.id) in saved else (self._video(row), text)
        return Question(
            id=str(row.id),
            task=row.question_type,
            request=Request((Message("user", parts),), max_tokens=MAX_TOKENS),
            truth=row.truth,
            data={"dataset": row.dataset, "scene_name": row.scene, "options": list(row.options)},
        )

    def _video(self, row: Row) -> Video:
        key = row.dataset, row.scene
        if self._last is None or self._last[0] != key:
            self._last = None  # lets go of the last video before the next one is read
            self._last = key, self._videos.read(*key, self._choose)
        return self._last[1]


def _choose(sampling: str, count: int, frames: int, fps: float) -> np.ndarray:
    return uniform(frames, count) if sampling == "uniform" else two_a_second(frames, fps, count)


def _figures(results: Sequence[tuple[str, float]], done: set[str]) -> dict[str, float]:
    """`aggregate`, with what is not complete named so; nothing of no results."""
    if done == set(CHOICE + NUMBER):
        return aggregate(results)
    kinds = {kind for kind, _ in results}
    # The difficulties of relative direction make one figure where all are there; else each is one of its own.
    together = DIRECTIONS if kinds >= set(DIRECTIONS) else ()
    groups = [together] * bool(together) + [(kind,) for kind in CHOICE + NUMBER if kind in kinds - set(together)]
    figures = {}
    for group in groups:
        name, value = _figure(group, results)
        figures[name if done >= set(group) else f"{name} (partial)"] = value
    if figures:
        figures["overall (partial)"] = float(np.mean(list(figures.values())))
    return figures


def _figure(group: tuple[str, ...], results: Sequence[tuple[str, float]]) -> tuple[str, float]:
    """(official name, percent) of the types that make one figure."""
    if group == (DIRECTIONS[0],):  # alone, which `aggregate` refuses
        return f"{group[0]}_accuracy", 100 * float(np.mean([value for kind, value in results if kind == group[0]]))
    return next(iter(aggregate([result for result in results if result[0] in group]).items()))
