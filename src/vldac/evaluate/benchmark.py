"""What every benchmark of questions is made of, so that one command asks, scores, compares and shows all of them.

    benchmark = SomeBenchmark(...)
    questions = benchmark.questions()                     # read or rendered one after another
    samples = [benchmark.judge(question, reply) for ...]
    benchmark.summary(samples)                            # official scores, by name

BALROG asks again and again, as its worlds go on: it is run by `vldac.evaluate.balrog`, and gives `Sample`s, too.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from vldac.generate.request import Message, Reply, Request


@dataclass(frozen=True, eq=False)
class Question:
    """One item of a benchmark.

    Attributes:
      id: unique in the benchmark, the same on every machine: two models are compared question by question.
      task: the kind of question, as the benchmark names it.
      request: what the model is asked.
      truth: the right answer, JSON data.
      data: what else judging needs, JSON data.
    """

    id: str
    task: str
    request: Request
    truth: Any
    data: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Sample:
    """One item answered and scored, with all that someone wants to see of it.

    Attributes:
      id, task, truth: of the question.
      messages: the prompt, pictures included.
      answer: what the model wrote.
      extracted: what the scorer took from it, None where there was nothing to take.
      scores: by name; the first is the one that counts, in the unit of the benchmark's own scorer.
      notes: what a reader should know, such as a truncated answer.
    """

    id: str
    task: str
    messages: tuple[Message, ...]
    answer: str
    extracted: str | None
    truth: Any
    scores: dict[str, float]
    notes: str = ""


@runtime_checkable
class Benchmark(Protocol):
    """Questions, and how answers to them are scored.

    Attributes:
      name: as on the command line, "vsi_bench".
      unit: of its scores, "%" or "".
    """

    name: str
    unit: str

    def questions(self, saved: Collection[str] = ()) -> Iterator[Question]:
        """All of them, in a fixed order, pictures read only when they are reached.

        Args:
          saved: ids of those that are answered already. They come without their pictures, which are neither read
            nor drawn.

        Raises:
          BenchmarkError: a file that is missing or damaged, named with what to do.
        """
        ...

    def judge(self, question: Question, reply: Reply) -> Sample:
        """Scores one answer. Never raises, whatever the answer is."""
        ...

    def summary(self, samples: Sequence[Sample]) -> dict[str, float]:
        """Official aggregate scores by name: one a task, and "overall" where the benchmark defines it."""
        ...


class BenchmarkError(Exception):
    """A benchmark can not be run as it was asked for: one line that names the file or option and what to do."""
