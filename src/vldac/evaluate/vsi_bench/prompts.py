"""What VSI-Bench asks, word for word.

Source: vision-x-nyu/thinking-in-space lmms_eval/tasks/vsibench/vsibench.yaml and utils.py, the settings for open
models. (Those for GPT and Gemini end questions of numbers with another sentence.)
"""

from __future__ import annotations

from collections.abc import Sequence

from vldac.evaluate.vsi_bench.scoring import CHOICE, check_question_type

BEFORE = "These are frames of a video."
AFTER_CHOICE = "Answer with the option's letter from the given choices directly."
AFTER_NUMBER = "Please answer the question using a single word or phrase."


def prompt(question: str, question_type: str, options: Sequence[str] = ()) -> str:
    """The text that follows the video.

    Args:
      question: the data set's.
      question_type: one of `scoring.CHOICE` and `scoring.NUMBER`.
      options: the data set's, letters included ("A. left"); numbers have none.

    Raises:
      ValueError: an unknown question type.
    """
    check_question_type(question_type)
    if question_type in CHOICE:
        return "\n".join([BEFORE, question, "Options:", *options, AFTER_CHOICE])
    return "\n".join([BEFORE, question, AFTER_NUMBER])
