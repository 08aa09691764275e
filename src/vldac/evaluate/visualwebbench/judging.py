"""From replies to samples and figures: VisualWebBench's own, and those of what asks its questions elsewhere."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Any

from vldac.evaluate.benchmark import Question, Sample
from vldac.evaluate.visualwebbench.scoring import METRIC, TASKS, extract, score
from vldac.generate.request import Reply


def judge(question: Question, reply: Reply, adapter: str = "openai") -> Sample:
    """A reply scored. Blanks around the answer are taken off before, as the official code does for LLaVA.

    Args:
      question: of one of `scoring.TASKS`.
      reply: to it.
      adapter: whose post-processing, one of `scoring.ADAPTERS`.
    """
    task, answer = question.task, reply.text.strip()
    scores = score_alone(task, answer, question.truth, adapter)
    notes = [f"cut off after {reply.answer_tokens} tokens"] * (reply.finish_reason == "length")
    if math.isnan(scores[METRIC[task]]):
        notes.append("left out of the official mean, as there is no sentence to compare")
    return Sample(
        id=question.id,
        task=task,
        messages=question.request.messages,
        answer=reply.text,
        extracted=extract(task, answer, adapter),
        truth=question.truth,
        scores=scores,
        notes="; ".join(notes),
    )


def score_alone(task: str, answer: str, truth: Any, adapter: str = "openai") -> dict[str, float]:
    """`score` of one answer, the figure that counts first; nan where the official mean leaves the question out."""
    figures = score(task, [answer], [truth], adapter)
    # An answer that is wrong halves the mean of itself and a right one; one that is left out does not.
    if figures.get("f1") == 0 and score(task, [answer, "a"], [truth, ["a"]], adapter)["f1"] > 99:
        figures["f1"] = math.nan
    return {METRIC[task]: figures[METRIC[task]]} | figures


def task_figures(
    samples: Sequence[Sample], adapter: str = "openai", whole: Collection[str] = TASKS
) -> dict[str, float]:
    """The official figures of all samples in percent.

    Args:
      samples: the answers.
      adapter: whose post-processing, one of `scoring.ADAPTERS`.
      whole: tasks of which every question is answered.

    Returns:
      `{task}_{metric}` of every task that there are samples of, and "overall", the mean of those that count. What
      is made of a task that is not whole ends in " (partial)"; so does "overall" unless all seven are.
    """
    figures, counted = {}, []
    for task in TASKS:
        mine = [sample for sample in samples if sample.task == task]
        if not mine:
            continue
        scores = score(task, [one.answer.strip() for one in mine], [one.truth for one in mine], adapter)
        counted.append(scores[METRIC[task]])
        for name in sorted(scores, key=lambda name: name != METRIC[task]):
            figures[f"{task}_{name}" + ("" if task in whole else " (partial)")] = scores[name]
    if counted:
        figures["overall" if set(whole) == set(TASKS) else "overall (partial)"] = sum(counted) / len(counted)
    return figures
