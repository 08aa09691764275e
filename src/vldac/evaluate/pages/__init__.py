"""Page understanding in the style of VisualWebBench on this project's own shop: no file, no download.

    benchmark = Pages(questions_per_task=32)
    for question in benchmark.questions():      # a page is drawn when its question is reached
        sample = benchmark.judge(question, reply)
    benchmark.summary(samples)                  # VisualWebBench's own figures, by its own names

`visits` are the pages as data, `reading` what they say, `marks` what is drawn on them, `questions` and `webqa`
what is asked.
"""

from vldac.evaluate.pages.benchmark import TASKS, Pages

__all__ = ["TASKS", "Pages"]
