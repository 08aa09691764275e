"""VSI-Bench: videos of rooms, and questions on what is where, how many and how far.

    benchmark = VSIBench("data/VSI-Bench")          # every file is checked here
    question = next(benchmark.questions())
    sample = benchmark.judge(question, reply)

`scoring` holds the official scorer and is imported without any optional package; videos need `av`, parquet files
`pyarrow` (the `benchmarks` extra).
"""

from vldac.evaluate.vsi_bench.benchmark import SAMPLINGS, VSIBench, judge
from vldac.evaluate.vsi_bench.data import SUBSETS
from vldac.evaluate.vsi_bench.scoring import CHOICE, DIRECTIONS, NUMBER, aggregate, score, score_lmms_eval

__all__ = [
    "CHOICE",
    "DIRECTIONS",
    "NUMBER",
    "SAMPLINGS",
    "SUBSETS",
    "VSIBench",
    "aggregate",
    "judge",
    "score",
    "score_lmms_eval",
]
