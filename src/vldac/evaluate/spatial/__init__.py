"""Spatial questions in the style of VSI-Bench on films of this project's own rooms: no file, no download.

    benchmark = Spatial(questions_per_task=32)
    for question in benchmark.questions():      # a scene is filmed when its first question is reached
        sample = benchmark.judge(question, reply)
    benchmark.summary(samples)                  # VSI-Bench's own figures, by its own names

`geometry` and `scenes` are the plan and its truth, `sight` what is shown of it, `film` the pictures, `questions`
what is asked.
"""

from vldac.evaluate.spatial.benchmark import TASKS, Spatial

__all__ = ["TASKS", "Spatial"]
