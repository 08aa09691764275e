"""The benchmark: which question is asked of which visit to the shop, and how replies are scored."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import numpy as np

from vldac.evaluate.benchmark import Question, Sample
from vldac.evaluate.pages import marks, visits
from vldac.evaluate.pages.questions import KINDS, Asked
from vldac.evaluate.visualwebbench import judging
from vldac.evaluate.visualwebbench.prompts import prompt
from vldac.generate.request import Message, Reply, Request

TASKS = tuple(KINDS)
MAX_TOKENS = 512
_PASSED_OVER = 200  # visits in turn that have no such question, before something is wrong


class Pages:
    """VisualWebBench's seven tasks (`TASKS`) on pages of a shop, 672 x 672 pixels, drawn when they are reached.

    The same numbers give the same questions on every machine. Of one seed the first n questions of a task are the
    same whatever `questions_per_task` and `tasks` are. Right letters, headings, kinds of pages and of questions
    are in balance. What differs in kind from VisualWebBench is told in `questions`.

    Attributes:
      notes: what a reader of the figures should know.

    Args:
      questions_per_task: of each task.
      seed: of visits and questions, 0 or more.
      tasks: only these, in any order; None = all.

    Raises:
      ValueError: an option out of range.
    """

    name = "pages"
    unit = "%"
    notes = (
        "the counterpart of VisualWebBench on pages of a shop that no world trains in; "
        "not comparable with VisualWebBench's figures",
        "web_caption is compared with one line made of the page's facts, heading_ocr has five different answers",
    )

    def __init__(self, questions_per_task: int = 32, seed: int = 0, tasks: Sequence[str] | None = None):
        for field, value, low, high in (
            ("questions_per_task", questions_per_task, 1, 10_000),
            ("seed", seed, 0, 2**31 - 1),
        ):
            if type(value) is not int or not low <= value <= high:
                raise ValueError(f"{field} is {value!r}; accepted: an int from {low} to {high}")
        chosen = TASKS if tasks is None else tuple(tasks)
        unknown = [task for task in chosen if task not in TASKS]
        if unknown or not chosen:
            raise ValueError(f"tasks is {', '.join(unknown) or 'empty'}; accepted: {', '.join(TASKS)}")
        self.questions_per_task, self.seed = questions_per_task, seed
        self.tasks = tuple(task for task in TASKS if task in chosen)

    def __len__(self) -> int:
        """How many questions will be asked."""
        return self.questions_per_task * len(self.tasks)

    def questions(self, saved: Collection[str] = ()) -> Iterator[Question]:
        """All of them, task by task; a page is drawn when its question is reached and not one of `saved`."""
        for task in self.tasks:
            for place, asked in enumerate(self.planned(task)):
                name, text = f"{self.seed}/{task}/{place}", prompt(task, asked.row)
                parts = (text,) if name in saved else (_drawn(asked), text)
                yield Question(
                    id=name,
                    task=task,
                    request=Request((Message("user", parts),), max_tokens=MAX_TOKENS),
                    truth=asked.truth,
                    data={"visit": asked.page.visit, "page": asked.page.name, **asked.row},
                )

    def planned(self, task: str) -> Iterator[Asked]:
        """The questions of one task: each of the next visit that has the one wanted."""
        ask, count = KINDS[task]
        stream = TASKS.index(task)
        order = np.random.default_rng([self.seed, 1, stream])
        wanted: list[int] = []
        after = 0  # the visit after the last one asked about
        for _ in range(self.questions_per_task):
            wanted = wanted or order.permutation(count).tolist()
            now = wanted.pop()
            for number in range(after, after + _PASSED_OVER):
                rng = np.random.default_rng([self.seed, 2, stream, number])
                asked = ask(visits.visit(self.seed, number), now, rng)
                if asked is not None:
                    after = number + 1
                    break
            else:
                raise AssertionError(f"{_PASSED_OVER} visits in turn have no question {now} of {task}")
            yield asked

    def judge(self, question: Question, reply: Reply) -> Sample:
        """VisualWebBench's figures of this answer in percent, the one that counts first, nan if left out."""
        return judging.judge(question, reply)

    def summary(self, samples: Sequence[Sample]) -> dict[str, float]:
        """VisualWebBench's figures, see `judging.task_figures`; any number of questions is whole."""
        return judging.task_figures(samples)


def _drawn(asked: Asked) -> np.ndarray:
    """The page with the marks that it is asked with."""
    image = visits.draw(asked.page)
    if asked.outline is not None:
        image = marks.outlined(image, asked.outline)
    if asked.boxes:
        image = marks.labelled(image, asked.boxes, asked.tags)
    return image
