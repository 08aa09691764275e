"""The weights of tasks in official figures, against the official code's own sums."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vldac.evaluate import balrog, visualwebbench, vsi_bench
from vldac.evaluate.aggregates import DIRECTION, LAYOUTS, OVERALL
from vldac.evaluate.published import PUBLISHED, of

vsi_results = st.lists(
    st.tuples(st.sampled_from(vsi_bench.CHOICE + vsi_bench.NUMBER), st.sampled_from([0.0, 0.3, 1.0])), max_size=12
)


def means(results):
    by_task = {}
    for task, score in results:
        by_task.setdefault(task, []).append(score)
    return {task: float(np.mean(scores)) for task, scores in by_task.items()}


@given(vsi_results)
@settings(max_examples=40)
def test_vsi_bench(more):
    results = [(kind, 0.4) for kind in vsi_bench.CHOICE + vsi_bench.NUMBER] + more
    tasks, official = means(results), vsi_bench.aggregate(results)
    for name, theirs in ((OVERALL, "overall"), (DIRECTION, "object_rel_direction_accuracy")):
        weights = LAYOUTS["vsi_bench"].aggregates(tasks)[name]
        assert sum(weights.values()) == pytest.approx(1)
        assert 100 * sum(weight * tasks[task] for task, weight in weights.items()) == pytest.approx(
            official[theirs]
        )


def test_vsi_bench_in_part():
    # Without an easy one the official code keeps the other difficulties apart.
    results = [("route_planning", 0.2), (vsi_bench.DIRECTIONS[1], 1.0), (vsi_bench.DIRECTIONS[2], 0.0)]
    weights = LAYOUTS["vsi_bench"].aggregates(means(results))
    assert weights == {OVERALL: dict.fromkeys(means(results), pytest.approx(1 / 3))}
    assert 100 * np.mean([score for _, score in results]) == pytest.approx(vsi_bench.aggregate(results)["overall"])
    assert LAYOUTS["vsi_bench"].aggregates([]) == {}


def test_visualwebbench_is_the_mean_of_its_tasks():
    weights = LAYOUTS["visualwebbench"].aggregates(visualwebbench.TASKS)[OVERALL]
    assert weights == dict.fromkeys(visualwebbench.TASKS, pytest.approx(1 / 7))
    # and a task's figure is the mean over its questions
    said, meant = ["red box", "the blue door.", "a"], ["red box", "blue door", "b c"]
    alone = [visualwebbench.score("heading_ocr", [a], [b])["rouge_l"] for a, b in zip(said, meant, strict=True)]
    assert np.mean(alone) == pytest.approx(visualwebbench.score("heading_ocr", said, meant)["rouge_l"])


@given(st.lists(st.tuples(st.sampled_from(balrog.ENVIRONMENTS), st.sampled_from([0.0, 0.5, 1.0])), min_size=1))
@settings(max_examples=40)
def test_balrog_is_the_mean_of_environments_whatever_the_tasks(episodes):
    by_environment = {}
    for environment, progression in episodes:
        by_environment.setdefault(environment, []).append(progression)
    layout = LAYOUTS["balrog"]
    strata = {layout.stratum(f"{name}/task-{i}") for i, name in enumerate(by_environment)} | set(by_environment)
    weights = layout.aggregates(strata)[OVERALL]
    got = 100 * sum(weight * np.mean(by_environment[name]) for name, weight in weights.items())
    assert got == pytest.approx(balrog.aggregate(by_environment)["average_progress"])


def test_published_numbers_have_a_source_and_a_caveat_and_names_that_we_have():
    names = {
        "vsi_bench": {*vsi_bench.CHOICE, *vsi_bench.NUMBER, DIRECTION, OVERALL},
        "visualwebbench": {*visualwebbench.TASKS, OVERALL},
        "balrog": {*balrog.ENVIRONMENTS, OVERALL},
    }
    for one in PUBLISHED:
        assert one.source and one.caveat
        assert set(one.scores) <= names[one.benchmark] and set(one.standard_errors) <= set(one.scores)
        assert all(0 <= value <= 100 for value in one.scores.values())
        if set(one.scores) == names[one.benchmark] and one.benchmark != "balrog":  # the mean is the tasks' mean
            weights = LAYOUTS[one.benchmark].aggregates(set(one.scores) - {OVERALL, DIRECTION})[OVERALL]
            assert sum(w * one.scores[task] for task, w in weights.items()) == pytest.approx(
                one.scores[OVERALL], abs=0.1
            )
    (gpt,) = [one for one in of("vsi_bench") if one.model == "GPT-4o"]
    eight = [value for name, value in gpt.scores.items() if name != OVERALL]
    assert len(eight) == 8 and np.mean(eight) == pytest.approx(gpt.scores[OVERALL], abs=0.1)
    assert of("spatial") == of("pages") == []


def test_published_counts_are_whole_questions():
    # What the caveats say: 60, 63 and 62 of 194; 14 and 15 of 281.
    route = [one.scores["route_planning"] for one in of("vsi_bench") if "VL-DAC" in one.source]
    assert [round(value * 1.94) for value in route] == [60, 63, 62]
    assert [value for value in route] == pytest.approx([100 * n / 194 for n in (60, 63, 62)], abs=0.01)
    clicks = [one.scores["action_prediction"] for one in of("visualwebbench")]
    assert clicks == pytest.approx([100 * n / 281 for n in (14, 15)], abs=0.01)
