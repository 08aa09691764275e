"""Two models on the same items: the right test, and a refusal wherever items differ."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from tests.scripted import sample
from vldac.evaluate.benchmark import Sample
from vldac.evaluate.comparison import DifferentItems, compare, holm, verdict
from vldac.evaluate.results import load, summarise, write_json
from vldac.evaluate.samples import SampleLog
from vldac.generate.request import Message


def evaluated(folder, rows, benchmark="vsi_bench", name="m", configuration=None, **facts):
    """An evaluation of `rows`, (task, score) or whole samples."""
    folder.mkdir()
    with SampleLog(folder) as log:
        for number, row in enumerate(rows):
            log.add(row if isinstance(row, Sample) else sample(f"{row[0]}/{number}", *row))
        found = summarise(
            benchmark, log.records, {}, model={"name": name}, configuration=configuration or {}, **facts
        )
    write_json(folder / "results.json", found)
    return load(folder)


def test_differences_changes_and_tests(tmp_path):
    rng = np.random.default_rng(0)
    route = rng.integers(0, 2, 60).astype(float)
    better = np.where(np.arange(60) < 12, 1.0, route)
    sizes, larger = rng.choice([0.0, 0.3, 1.0], 40), rng.choice([0.1, 0.3, 0.9], 40)
    rows = lambda a, b: [("route_planning", x) for x in a] + [("room_size_estimation", x) for x in b]  # noqa: E731
    a, b = evaluated(tmp_path / "a", rows(route, sizes)), evaluated(tmp_path / "b", rows(better, larger), name="n")
    found = compare(a, b)
    task = found["scores"]["route_planning"]
    gained = int(np.sum(better > route))
    assert (task["better"], task["worse"], task["same"], task["items"]) == (gained, 0, 60 - gained, 60)
    assert task["p"] == pytest.approx(stats.binomtest(0, gained, 0.5).pvalue) == task["p_holm"]
    assert task["difference"]["estimate"] == pytest.approx(100 * gained / 60)
    assert task["difference"]["standard_error"] == pytest.approx(100 * stats.sem(better - route))
    assert "p" not in found["scores"]["room_size_estimation"], "McNemar's test is for right and wrong"
    overall = found["scores"]["overall"]
    assert overall["b"] - overall["a"] == pytest.approx(overall["difference"]["estimate"])
    assert overall["a"] == pytest.approx(50 * (route.mean() + sizes.mean()))
    assert len(found["changed"]) == gained + int(np.sum(sizes != larger))
    assert found["b"]["model"] == "n" and found["items"] == 100
    assert verdict(task["difference"]) == "better"
    back = compare(b, a)["scores"]
    assert verdict(back["route_planning"]["difference"]) == "worse"
    assert back["overall"]["difference"]["estimate"] == pytest.approx(-overall["difference"]["estimate"])


def test_a_model_against_itself_is_no_difference_and_no_certainty(tmp_path):
    rows = [("route_planning", float(i % 3 == 0)) for i in range(30)]
    a, b = evaluated(tmp_path / "a", rows), evaluated(tmp_path / "b", rows)
    found = compare(a, b)
    difference = found["scores"]["overall"]["difference"]
    assert difference["estimate"] == 0 and difference["low"] < -5 and difference["high"] > 5
    assert verdict(difference) == "no clear difference" and found["changed"] == []
    assert found["scores"]["route_planning"]["p"] == 1


def test_the_order_of_answers_does_not_matter(tmp_path):
    rows = [sample(f"q{i}", "route_planning", float(i % 2)) for i in range(8)]
    a, b = evaluated(tmp_path / "a", rows), evaluated(tmp_path / "b", rows[::-1])
    assert compare(a, b)["changed"] == []


def test_other_items_are_refused_and_named(tmp_path):
    rows = [sample(f"q{i}", "route_planning", 1.0) for i in range(8)]
    a = evaluated(tmp_path / "a", rows)
    fewer = evaluated(tmp_path / "fewer", rows[:3])
    for pair in ((a, fewer), (fewer, a)):
        with pytest.raises(
            DifferentItems, match=r"5 of 8 items of .*a are not in .*fewer: 'q3', 'q4', 'q5' and 2 more"
        ):
            compare(*pair)
    other = evaluated(
        tmp_path / "other", [*rows[:7], Sample("q7", "route_planning", (), "A", "A", "C", {"x": 1.0})]
    )
    with pytest.raises(DifferentItems, match=r"1 items have another task or truth in .*other than in .*a: 'q7'"):
        compare(a, other)
    page = evaluated(tmp_path / "page", rows, benchmark="pages")
    with pytest.raises(DifferentItems, match=r"a is of vsi_bench and .*page of pages"):
        compare(a, page)


def test_items_that_one_of_them_leaves_out_are_not_changes(tmp_path):
    a = evaluated(tmp_path / "a", [("webqa", 100.0), ("webqa", math.nan), ("webqa", 0.0)], "visualwebbench")
    b = evaluated(tmp_path / "b", [("webqa", 100.0), ("webqa", 100.0), ("webqa", 100.0)], "visualwebbench")
    task = compare(a, b)["scores"]["webqa"]
    assert (task["a"], task["b"], task["better"], task["same"], task["items"]) == (50, 100, 1, 1, 3)


def test_what_was_asked_differently_is_said(tmp_path):
    rows = [("route_planning", 1.0), ("object_counting", 0.5)]
    a = evaluated(tmp_path / "a", rows, configuration={"vsi": {"frames": 32}, "lanes": 4, "seed": 0})
    b = evaluated(
        tmp_path / "b", rows, configuration={"vsi": {"frames": 16}, "lanes": 8, "seed": 0}, partial=["x"]
    )
    found = compare(a, b)
    assert found["settings"] == {"vsi.frames": [32, 16]}, "lanes change the speed only"
    assert any("vsi.frames differ" in note for note in found["notes"])
    assert any("b is not the whole benchmark" in note for note in found["notes"])
    assert any("about 10 of 100" in note for note in found["notes"]), "two tasks: 1 - 0.95 ** 2"


def test_holm_against_the_obvious_version():
    p = [0.01, 0.04, 0.03, 0.005, 0.9]

    def slow(i):
        ranked = sorted(p)
        steps = [(len(p) - rank) * value for rank, value in enumerate(ranked) if value <= p[i]]
        return min(1.0, max(steps))

    assert holm(p) == pytest.approx([slow(i) for i in range(len(p))])
    assert holm([]) == []


def test_a_difference_on_few_films_is_said_to_be_that(tmp_path):
    def rows(gained):
        rng = np.random.default_rng(0)
        for film in range(8):
            prompt = (Message("user", (rng.integers(0, 256, (8, 8, 3), np.uint8), "?")),)
            for number in range(3):  # whoever knows a film knows all of it
                score = float(film % 2 or film in gained)
                yield Sample(f"{film}/{number}", "route_planning", prompt, "A", "A", "A", {"x": score})

    a, b = evaluated(tmp_path / "a", list(rows(()))), evaluated(tmp_path / "b", list(rows((0, 2))))
    (said,) = [note for note in compare(a, b)["notes"] if "24 questions are about 8 videos or pictures" in note]
    gains = np.array([1, 0, 1, 0, 0, 0, 0, 0])
    assert f"error of {100 * stats.sem(gains):.2f};" in said
    assert f"gives {100 * stats.sem(gains.repeat(3)):.2f}." in said
