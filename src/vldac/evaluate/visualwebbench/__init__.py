"""VisualWebBench: seven tasks on screenshots of web pages, from captions to what a click would do.

    benchmark = VisualWebBench("data/VisualWebBench")      # every file is checked here
    question = next(benchmark.questions())
    sample = benchmark.judge(question, reply)

`scoring` holds the official scorer and is imported without any optional package; the files need `pyarrow` (the
`benchmarks` extra).
"""

from vldac.evaluate.visualwebbench.benchmark import PROTOCOLS, VisualWebBench
from vldac.evaluate.visualwebbench.scoring import (
    ADAPTERS,
    CHOICE,
    TASKS,
    TEXT,
    postprocess,
    score,
    score_lmms_eval,
)

__all__ = [
    "ADAPTERS",
    "CHOICE",
    "PROTOCOLS",
    "TASKS",
    "TEXT",
    "VisualWebBench",
    "postprocess",
    "score",
    "score_lmms_eval",
]
