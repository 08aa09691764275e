"""From samples to results.json: figures that the official code confirms, nothing flattering, nothing hidden."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from tests.scripted import sample
from vldac.evaluate.aggregates import LAYOUTS
from vldac.evaluate.benchmark import Sample
from vldac.evaluate.bootstrap import NOTHING, mean
from vldac.evaluate.results import as_json, estimates, from_json, load, shared_pictures, summarise, write_json
from vldac.evaluate.samples import SampleLog
from vldac.generate.request import Message, Reply, Video
from vldac.metrics import RunFileError


def records(folder, rows, reply=None):
    with SampleLog(folder) as log:
        for number, (task, score) in enumerate(rows):
            log.add(sample(f"{task}/{number}", task, score), reply=reply)
        return log.records


def test_figures_are_in_percent_whatever_the_scorers_unit(tmp_path):
    half = records(tmp_path, [("webqa", 100.0), ("webqa", 0.0), ("heading_ocr", 50.0)])
    figures = estimates(half.values(), LAYOUTS["visualwebbench"])
    assert {name: one.estimate for name, one in figures.items()} == {"webqa": 50, "heading_ocr": 50, "overall": 50}
    assert figures["webqa"][1:] == pytest.approx(mean([1.0, 0.0]).scaled(100.0)[1:])


def test_episodes_are_pooled_by_environment(tmp_path):
    played = records(
        tmp_path, [("babyai/goto", 1.0), ("babyai/open", 0.0), ("babyai/open", 0.0), ("crafter", 0.1)]
    )
    figures = estimates(played.values(), LAYOUTS["balrog"])
    assert figures["babyai"].estimate == pytest.approx(100 / 3) and figures["babyai"].items == 3
    assert figures["overall"].estimate == pytest.approx((100 / 3 + 10) / 2)


def test_ours_is_given_only_where_the_official_code_agrees(tmp_path):
    rows = records(tmp_path, [("webqa", 100.0), ("webqa", math.nan)])
    facts = {"model": {"name": "m"}, "configuration": {}}
    for official in ({"overall": 100.0}, {"overall (partial)": 100.0}, {}):
        found = summarise("visualwebbench", rows, official, **facts)
        assert found["scores"]["overall"]["estimate"] == 100 and found["official"] == official
        assert found["notes"] == ["1 of 2 answers are left out of the means, as the official scorer does."]
    found = summarise("visualwebbench", rows, {"overall": 50.0}, **facts)
    assert "overall" not in found["scores"] and "the official code gives 50.000000" in found["notes"][0]


def test_what_is_missing_is_said(tmp_path):
    rows = records(tmp_path, [("webqa", 100.0)], reply=Reply("A", "length", 3, 16))
    found = summarise(
        "visualwebbench",
        rows,
        {},
        model={"name": "m"},
        configuration={},
        partial=["half"],
        not_run={"x": "no file"},
    )
    assert found["partial"] == ["half"] and found["not_run"] == {"x": "no file"} and not found["complete"]
    assert "1 of 1 answers ran into the limit of tokens" in found["notes"][0]
    assert summarise("visualwebbench", rows, {}, model={"name": "m"}, configuration={})["complete"]
    caveats = [one["caveat"] for one in found["published"]]
    assert len(caveats) == 2 and all("below chance" in caveat for caveat in caveats)


def test_unknown_bounds_are_null_in_json():
    assert json.loads(json.dumps(as_json(NOTHING), allow_nan=False))["estimate"] is None
    assert str(from_json(as_json(NOTHING))) == str(NOTHING)
    one = mean([0.5])
    assert math.isnan(from_json(as_json(one)).standard_error) and from_json(as_json(one))[2:] == one[2:]


def test_results_are_read_from_a_folder_or_the_file(tmp_path):
    rows = records(tmp_path, [("webqa", 100.0)])
    write_json(tmp_path / "results.json", summarise("pages", rows, {}, model={"name": "m"}, configuration={}))
    for path in (tmp_path, tmp_path / "results.json"):
        found = load(path)
        assert (found.folder, found.benchmark, found.model, list(found.records)) == (
            tmp_path,
            "pages",
            "m",
            ["webqa/0"],
        )
    (tmp_path / "results.json").write_text('{"benchmark": "chess"}')
    with pytest.raises(RunFileError, match="not the results of an evaluation"):
        load(tmp_path)
    with pytest.raises(RunFileError, match="there are no results"):
        load(tmp_path / "nowhere")


def test_questions_on_one_film_are_said_to_be_no_independent_evidence(tmp_path, tmp_path_factory):
    rng = np.random.default_rng(0)
    with SampleLog(tmp_path) as log:
        for film in range(10):
            video = Video(rng.integers(0, 256, (2, 8, 8, 3), np.uint8))
            for number in range(4):  # right or wrong together
                prompt = (Message("user", (video, "?")),)
                name = f"{film}/{number}"
                log.add(Sample(name, "route_planning", prompt, "A", "A", "A", {"official": float(film % 2)}))
        said = shared_pictures(log.records.values(), LAYOUTS["vsi_bench"])
    assert "40 questions are about 10 videos or pictures" in said
    assert f"error of {100 * math.sqrt(0.25 / 9):.2f};" in said, "ten films, half of them right"
    assert (
        shared_pictures(records(tmp_path_factory.mktemp("b"), [("webqa", 1.0)] * 3).values(), LAYOUTS["pages"])
        == ""
    )


def test_episodes_that_end_on_the_same_picture_are_not_called_the_same(tmp_path):
    prompt = (Message("user", (np.zeros((8, 8, 3), np.uint8), "?")),)
    with SampleLog(tmp_path) as log:
        for number in range(6):
            log.add(
                Sample(f"babyai/{number}", "babyai", prompt, "", None, None, {"progression": float(number % 2)})
            )
        assert shared_pictures(log.records.values(), LAYOUTS["balrog"]) == ""
        assert "about 1 videos" not in str(
            summarise("balrog", log.records, {}, model={"name": "m"}, configuration={})["notes"]
        )
