"""A benchmark and a model that do what they are told, for tests of what evaluates any."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vldac.evaluate.benchmark import BenchmarkError, Question, Sample
from vldac.generate.request import Message, Reply, Request, Video


@dataclass
class ScriptedAnswerer:
    """Answers by a function of the question's last words, and remembers how it was asked.

    Attributes:
      answers: words of the prompt -> the reply's text.
      limit: characters of a prompt; a longer one does not fit.
      stop_after: requests after which it is interrupted.
    """

    answers: Callable[[str], str] = lambda words: "A"
    limit: int = 10_000
    stop_after: int | None = None
    calls: list[int] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def answer(self, requests: Sequence[Request]) -> list[Reply]:
        if self.stop_after is not None and len(self.asked) + len(requests) > self.stop_after:
            raise KeyboardInterrupt
        for request in requests:
            if len(request.messages[-1].text) > self.limit:
                raise ValueError(
                    f"a prompt of {len(request.messages[-1].text)} characters; accepted: {self.limit}"
                )
        self.calls.append(len(requests))
        self.asked += [request.messages[-1].text for request in requests]
        return [
            Reply(self.answers(request.messages[-1].text), "stop", len(request.messages[-1].text), 2)
            for request in requests
        ]


@dataclass
class ScriptedBenchmark:
    """Multiple choice: as many questions of each task as it is told, the right answer "A" or "B" by a hash.

    Attributes:
      sizes: task -> number of questions.
      picture: "none", "picture" (one of 400 x 300) or "video" (four frames, shared by the questions of a task).
      damaged: ids that can not be read.
      read: ids that were made so far, pictures and all.
    """

    sizes: dict[str, int] = field(default_factory=lambda: {"object_rel_distance": 6, "route_planning": 4})
    picture: str = "none"
    damaged: tuple[str, ...] = ()
    words: str = "Which one?"
    name: str = "vsi_bench"
    unit: str = "%"
    notes: tuple[str, ...] = ()
    read: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return sum(self.sizes.values())

    def questions(self, saved: Collection[str] = ()) -> Iterator[Question]:
        rows = [(task, number) for task, count in self.sizes.items() for number in range(count)]
        self._films = {
            task: Video(np.random.default_rng(i).integers(0, 256, (4, 48, 64, 3), np.uint8), fps=2.0)
            for i, task in enumerate(self.sizes)
        }
        return map(lambda row: self._question(row, saved), rows)

    def truth(self, name: str) -> str:
        return "AB"[hashlib.md5(name.encode()).digest()[0] % 2]

    def judge(self, question: Question, reply: Reply) -> Sample:
        right = float(reply.text == question.truth)
        return Sample(
            id=question.id,
            task=question.task,
            messages=question.request.messages,
            answer=reply.text,
            extracted=reply.text[:1] or None,
            truth=question.truth,
            scores={"official": right},
        )

    def summary(self, samples: Sequence[Sample]) -> dict[str, float]:
        by_task: dict[str, list[float]] = {}
        for sample in samples:
            by_task.setdefault(sample.task, []).append(100 * next(iter(sample.scores.values())))
        figures = {task: sum(scores) / len(scores) for task, scores in by_task.items()}
        return figures | {"overall": sum(figures.values()) / len(figures)}

    def _question(self, row: tuple[str, int], saved: Collection[str]) -> Question:
        task, number = row
        name = f"{task}/{number}"
        parts: list[Any] = [f"{self.words} {name}"]
        if name not in saved:
            self.read.append(name)
            if name in self.damaged:
                raise BenchmarkError(f"film of {name} is damaged; get it again")
            self._show(parts, task, number)
        return Question(
            id=name, task=task, request=Request((Message("user", tuple(parts)),)), truth=self.truth(name)
        )

    def _show(self, parts: list[Any], task: str, number: int) -> None:
        if self.picture == "video":
            parts.insert(0, self._films[task])
        elif self.picture == "picture":
            parts.insert(0, np.full((300, 400, 3), number, np.uint8))


def sample(name: str, task: str, score: float, answer: str = "A", notes: str = "") -> Sample:
    """A sample without a prompt."""
    return Sample(name, task, (), answer, answer, "A", {"official": score}, notes)
