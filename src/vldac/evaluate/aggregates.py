"""How each benchmark's official figures are made of its tasks' means.

Every one of them is a weighted sum of means over items, so that standard errors, intervals and comparisons
need one implementation. The weights are written down here a second time, beside the official `summary`s;
`vldac.evaluate.results` holds the two against each other on every set of answers.

* VSI-Bench: the mean over tasks, in which the three difficulties of relative direction are one task.
* VisualWebBench: the mean over tasks.
* BALROG: the mean over environments; within one all episodes count alike, whatever their task.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from vldac.evaluate.vsi_bench import DIRECTIONS

OVERALL = "overall"
DIRECTION = "object_rel_direction"


@dataclass(frozen=True)
class Layout:
    """What there is to know of a benchmark's figures beyond its samples.

    Attributes:
      full: a sample's score where everything is right, in the unit of the benchmark's own scorer.
      by_environment: items are pooled by what stands before the first "/" of their task, not by task.
      directions: the three difficulties of relative direction are one task.
      task_name, item_name: what a task and an item are called, for people.
    """

    full: float
    by_environment: bool = False
    directions: bool = False
    task_name: str = "task"
    item_name: str = "question"

    def stratum(self, task: str) -> str:
        """The name that a task's items are pooled under."""
        return task.partition("/")[0] if self.by_environment else task

    def aggregates(self, strata: Iterable[str]) -> dict[str, dict[str, float]]:
        """The figures that are made of several strata, by name: the weight of each stratum in it.

        Args:
          strata: those that there are items of. The official means are over what there is, too.
        """
        strata = sorted(set(strata))
        if not strata:
            return {}
        # Where one of the difficulties is missing the others are tasks of their own.
        grouped = self.directions and set(DIRECTIONS) <= set(strata)
        tasks = [stratum for stratum in strata if not (grouped and stratum in DIRECTIONS)]
        share = 1 / (len(tasks) + grouped)
        weights = dict.fromkeys(tasks, share)
        if not grouped:
            return {OVERALL: weights}
        third = {direction: 1 / 3 for direction in DIRECTIONS}
        return {DIRECTION: third, OVERALL: weights | {name: share / 3 for name in DIRECTIONS}}


LAYOUTS = {
    "vsi_bench": Layout(full=1.0, directions=True),
    "visualwebbench": Layout(full=100.0),
    "balrog": Layout(full=1.0, by_environment=True, task_name="environment", item_name="episode"),
    "spatial": Layout(full=1.0, directions=True),
    "pages": Layout(full=100.0),
}
"""By the name of the benchmark."""
