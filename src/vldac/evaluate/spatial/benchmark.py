"""The benchmark: which question is asked of which scene, with answers in balance, and how replies are scored."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from functools import cached_property

import numpy as np

from vldac.evaluate import vsi_bench
from vldac.evaluate.benchmark import Question, Sample
from vldac.evaluate.spatial import scenes
from vldac.evaluate.spatial.film import film
from vldac.evaluate.spatial.questions import KINDS, Asked, Wanted
from vldac.evaluate.vsi_bench.prompts import prompt
from vldac.generate.request import Message, Reply, Request, Video

TASKS = tuple(KINDS)
MAX_TOKENS = 16
LEAST_FRAMES, MOST_FRAMES = 12, 128
_SIDES = (64, 1024)  # pixels
_PASSED_OVER = 200  # scenes in turn that have no such question, before something is wrong


class Spatial:
    """Ten question types of VSI-Bench (`TASKS`) on films of rooms, rendered when they are reached.

    The same numbers give the same questions on every machine: they come from plans, not from pictures. Of one seed
    the first n questions of a task are the same whatever `questions_per_task` and `tasks` are. Scenes are asked
    several questions, as VSI-Bench's are: questions of one scene are not independent.

    Answers are in balance: each letter is right as often as the others, up to one, and so is each direction and
    each pair of turns.

    Attributes:
      notes: what a reader of the figures should know.

    Args:
      questions_per_task: of each type.
      seed: of scenes and questions, 0 or more.
      frames: of a film; fewer leave gaps as the camera turns.
      image_shape: (height, width) of a frame, pixels. Which questions are asked depends on it, as on `frames`:
        only what can be seen is asked about.
      tasks: only these types, in any order; None = all.

    Raises:
      ValueError: an option out of range.
    """

    name = "spatial"
    unit = "%"
    notes = (
        "the counterpart of VSI-Bench on rooms of MiniWorld's make that no training world has; "
        "not comparable with VSI-Bench's figures",
    )

    def __init__(
        self,
        questions_per_task: int = 32,
        seed: int = 0,
        frames: int = 16,
        image_shape: Sequence[int] = (224, 224),
        tasks: Sequence[str] | None = None,
    ):
        for field, value, low, high in (
            ("questions_per_task", questions_per_task, 1, 10_000),
            ("seed", seed, 0, 2**31 - 1),
            ("frames", frames, LEAST_FRAMES, MOST_FRAMES),
        ):
            if type(value) is not int or not low <= value <= high:
                raise ValueError(f"{field} is {value!r}; accepted: an int from {low} to {high}")
        sides = tuple(image_shape)
        low, high = _SIDES
        if len(sides) != 2 or not all(type(side) is int and low <= side <= high for side in sides):
            raise ValueError(
                f"image_shape is {image_shape!r}; accepted: (height, width), both from {low} to {high}"
            )
        if not 3 / 4 <= sides[1] / sides[0] <= 2:
            raise ValueError(f"image_shape is {image_shape!r}; accepted: a width of 3/4 to 2 heights")
        chosen = TASKS if tasks is None else tuple(tasks)
        unknown = [task for task in chosen if task not in TASKS]
        if unknown or not chosen:
            raise ValueError(f"tasks is {', '.join(unknown) or 'empty'}; accepted: {', '.join(TASKS)}")
        self.questions_per_task, self.seed, self.frames, self.image_shape = questions_per_task, seed, frames, sides
        self.tasks = tuple(task for task in TASKS if task in chosen)
        self._scenes: dict[int, scenes.Scene] = {}

    def __len__(self) -> int:
        """How many questions will be asked."""
        return self.questions_per_task * len(self.tasks)

    def questions(self, saved: Collection[str] = ()) -> Iterator[Question]:
        """All of them, scene by scene; a film is rendered when its first question is reached that is not one of
        `saved`, and let go with its last."""
        last, video = -1, None
        for number, task, place, asked in self.plan:
            name = f"{self.seed}/{task}/{place}"
            if number != last:
                last, video = number, None
            if video is None and name not in saved:
                video = Video(film(self.scene(number), self.image_shape))
            text = prompt(asked.text, task, asked.options)
            parts = (text,) if name in saved else (video, text)
            yield Question(
                id=name,
                task=task,
                request=Request((Message("user", parts),), max_tokens=MAX_TOKENS),
                truth=asked.truth,
                data={
                    "scene": number,
                    "question": asked.text,
                    "options": list(asked.options),
                    "about": [self.scene(number).names[row] for row in asked.about],
                },
            )

    def judge(self, question: Question, reply: Reply) -> Sample:
        """As VSI-Bench's answers are, see `vsi_bench.judge`."""
        return vsi_bench.judge(question, reply)

    def summary(self, samples: Sequence[Sample]) -> dict[str, float]:
        """VSI-Bench's figures of what there is, in percent; "overall" is the mean of these.

        Where a difficulty of relative direction is missing the others stand for themselves.
        """
        results = [(sample.task, sample.scores["official"]) for sample in samples]
        kinds = {kind for kind, _ in results}
        if not kinds:
            return {}
        if vsi_bench.DIRECTIONS[0] not in kinds or kinds >= set(vsi_bench.DIRECTIONS):
            return vsi_bench.aggregate(results)
        # The official code has no figure for easy ones without the others: they are one of their own here.
        easy = [value for kind, value in results if kind == vsi_bench.DIRECTIONS[0]]
        others = [result for result in results if result[0] != vsi_bench.DIRECTIONS[0]]
        figures = vsi_bench.aggregate(others) if others else {}
        figures.pop("overall", None)
        figures[f"{vsi_bench.DIRECTIONS[0]}_accuracy"] = 100 * float(np.mean(easy))
        return figures | {"overall": float(np.mean(list(figures.values())))}

    def scene(self, number: int) -> scenes.Scene:
        """A scene, drawn once."""
        if number not in self._scenes:
            self._scenes[number] = scenes.draw(self.seed, number, self.frames, self.image_shape)
        return self._scenes[number]

    @cached_property
    def plan(self) -> list[tuple[int, str, int, Asked]]:
        """(scene, task, place in the task, what is asked) of all questions, scene by scene."""
        planned = [row for task in self.tasks for row in self._planned(task)]
        return sorted(planned, key=lambda row: (row[0], TASKS.index(row[1])))

    def _planned(self, task: str) -> Iterator[tuple[int, str, int, Asked]]:
        """The questions of one task: each of the next scene that has one with the answer wanted."""
        ask, answers, letters = KINDS[task]
        stream = TASKS.index(task)
        wanted_answer = _balanced(np.random.default_rng([self.seed, 3, stream]), answers)
        wanted_letter = _balanced(np.random.default_rng([self.seed, 4, stream]), letters)
        after = 0  # the scene after the last one asked about
        for place in range(self.questions_per_task):
            wanted = Wanted(next(wanted_answer), next(wanted_letter))
            for number in range(after, after + _PASSED_OVER):
                rng = np.random.default_rng([self.seed, 5, stream, number])
                asked = ask(self.scene(number), wanted, rng)
                if asked is not None:
                    yield number, task, place, asked
                    after = number + 1
                    break
            else:
                raise AssertionError(f"{_PASSED_OVER} scenes in turn have no {task} with the answer {wanted}")


def _balanced(rng: np.random.Generator, count: int) -> Iterator[int]:
    """0..count-1 for ever, each once in every `count` of them."""
    while True:
        yield from rng.permutation(count).tolist()
