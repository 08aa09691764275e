"""VSI-Bench's scores: videos of rooms, and questions on what is where, how many and how far.

`score` and `aggregate` give what the official code gives, its quirks included:

* Only what stands before the first space of a prediction counts, without full stops at its end. So "A. left"
  and "3. chairs" are answers, and "about 3", " A" and "A) left" are wrong.
* Numbers are judged by mean relative accuracy: the share of ten tolerances, from 50 % down to 5 %, that the
  relative error keeps. The tolerances are the floats `1 - np.linspace(0.5, 0.95, 10)`, which decides round
  answers: "20 %" is 0.19999999999999996, so 12 for 10 scores 0.6, and 1.2 for 1 scores 0.7.
* The benchmark's figure is the mean over tasks, not over questions, and the three difficulties of relative
  direction are one task.

Sources, whose behaviour is reproduced: vision-x-nyu/thinking-in-space lmms_eval/tasks/vsibench/utils.py; for
`score_lmms_eval`, lmms-eval 0.7.3, the file of the same name.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable
from itertools import takewhile

import numpy as np

DIRECTIONS = ("object_rel_direction_easy", "object_rel_direction_medium", "object_rel_direction_hard")
CHOICE = (*DIRECTIONS, "object_rel_distance", "route_planning", "obj_appearance_order")
"""The question types answered by an option's letter."""
NUMBER = ("object_abs_distance", "object_counting", "object_size_estimation", "room_size_estimation")
"""The question types answered by a number (metres, square metres, centimetres or a count)."""

_TOLERANCES = 1 - np.linspace(0.5, 0.95, 10)


def score(prediction: str, ground_truth: str, question_type: str) -> float:
    """The official score of one answer, in 0..1.

    Args:
      prediction: what the model wrote, untouched.
      ground_truth: the data set's string: a letter, or a number above 0.
      question_type: one of `CHOICE` and `NUMBER`.

    Returns:
      0 or 1 for a choice, a multiple of a tenth for a number; 0 where no number can be read.

    Raises:
      ValueError: an unknown question type, or a ground truth that is no positive number where one is due.
    """
    check_question_type(question_type)
    answer = first_word(prediction)
    if question_type in CHOICE:
        return float(answer.lower() == ground_truth.lower())
    try:
        # Python's own reading of a float: "1e2", "1_000", "inf" and digits of any script are numbers.
        number = float(answer)
    except ValueError:
        number = None
    return _mean_relative_accuracy(number, ground_truth)


def score_lmms_eval(prediction: str, ground_truth: str, question_type: str) -> float:
    """The score of newer lmms-eval (0.7.3), which reads numbers more kindly; not comparable with `score`.

    Choices are scored as `score` does. A number is the first one in the text, in digits or in English words
    ("There are 3", "twenty-one", "three hundred and five"). Arguments, result and errors are `score`'s.
    """
    check_question_type(question_type)
    if question_type in CHOICE:
        return score(prediction, ground_truth, question_type)
    return _mean_relative_accuracy(first_number(prediction), ground_truth)


def aggregate(results: Iterable[tuple[str, float]]) -> dict[str, float]:
    """The benchmark's figures, in percent, under the official names.

    Args:
      results: (question type, score in 0..1) of every question.

    Returns:
      `{type}_accuracy` of each type of choices, `{type}_MRA:.5:.95:.05` of each type of numbers, where there
      were questions; `object_rel_direction_accuracy`, the mean of its three difficulties' means, in their
      place; and `overall`, the mean of all these.

    Raises:
      ValueError: no result; an unknown question type; easy questions of relative direction, but none of
        another difficulty. (Without easy ones the official code keeps the others as tasks of their own.)
    """
    scores = defaultdict(list)
    for question_type, one in results:
        check_question_type(question_type)
        scores[question_type].append(one)
    if not scores:
        raise ValueError("results is empty; accepted: (question type, score) of at least one question")
    # In the official order, by which the floats add up: sorted, then the direction.
    means = {kind: float(np.mean(scores[kind])) for kind in sorted(scores)}
    figures = {f"{kind}_{_metric(kind)}": mean for kind, mean in means.items()}
    if DIRECTIONS[0] in means:
        missing = [kind for kind in DIRECTIONS if kind not in means]
        if missing:
            raise ValueError(f"results lack {', '.join(missing)}; accepted: all three difficulties or no easy one")
        easy, medium, hard = (figures.pop(f"{kind}_accuracy") for kind in DIRECTIONS)
        figures["object_rel_direction_accuracy"] = (easy + medium + hard) / 3.0
    total = 0.0
    for figure in figures.values():
        total += figure
    figures["overall"] = total / len(figures)
    return {name: figure * 100.0 for name, figure in figures.items()}


def check_question_type(question_type: str) -> None:
    """Raises a ValueError unless it is one of `CHOICE` and `NUMBER`."""
    if question_type not in CHOICE and question_type not in NUMBER:
        raise ValueError(f"question_type is {question_type!r}; accepted: {', '.join(CHOICE + NUMBER)}")


def _metric(question_type: str) -> str:
    return "accuracy" if question_type in CHOICE else "MRA:.5:.95:.05"


def first_word(prediction: str) -> str:
    """What the official scorer takes for the answer."""
    # The order matters: "5.\n" keeps its full stop, which a number survives and a letter does not.
    return prediction.split(" ")[0].rstrip(".").strip()


def _mean_relative_accuracy(number: float | None, ground_truth: str) -> float:
    try:
        truth = float(ground_truth)
    except ValueError:
        truth = math.nan
    if not 0 < truth < math.inf:
        raise ValueError(f"ground_truth is {ground_truth!r}; accepted: a positive number")
    if number is None:
        return 0.0
    error = abs(number - truth) / truth
    return float(np.mean(error <= _TOLERANCES))


_UNITS = """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
seventeen eighteen nineteen"""
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
_WORDS = {word: value for value, word in enumerate(_UNITS.split())}
_WORDS |= {word: 10 * tens for tens, word in enumerate(_TENS.split(), start=2)}
_WORDS |= {"hundred": 100, "thousand": 1000}


def first_number(text: str) -> float | None:
    text = text.strip().lower()
    digits = re.search(r"-?\d+(?:\.\d+)?", text)
    words = list(re.finditer("[a-z]+", text))
    start = next((i for i, word in enumerate(words) if word[0] in _WORDS), None)
    if start is None or (digits and digits.start() < words[start].start()):
        return float(digits[0]) if digits else None
    # "two and a half" is 2, but "one 7 two" is 3: what is between words is not looked at.
    spoken = takewhile(lambda word: word == "and" or word in _WORDS, (word[0] for word in words[start:]))
    thousands = below = 0
    for value in (_WORDS[word] for word in spoken if word != "and"):
        if value == 1000:
            thousands, below = thousands + max(below, 1) * 1000, 0
        else:
            below = max(below, 1) * 100 if value == 100 else below + value
    return float(thousands + below)
