"""What a run was measured on is in its report, and a damaged file costs the section only."""

from __future__ import annotations

import json

import pytest

from vldac.report import write_report
from vldac.report.benchmarks import load_benchmarks, save_benchmark


def results(estimate, complete=True, name="spatial"):
    scores = {} if estimate is None else {"overall": {"estimate": estimate, "low": 1.0, "high": 99.0}}
    model = {"kind": "run", "checkpoint": 40}
    return {"benchmark": name, "scores": scores, "items": 320, "complete": complete, "model": model}


def test_the_report_links_to_every_evaluation(tmp_path):
    run, there = tmp_path / "runs" / "a", tmp_path / "results" / "a [b] spatial"
    run.mkdir(parents=True)
    save_benchmark(run, there, results(10.0))
    save_benchmark(run, tmp_path / "results" / "web", results(None, complete=False, name="<b>pages"))
    save_benchmark(run, there, results(34.7))  # again
    first, second = load_benchmarks(run)
    assert (
        first.overall == "34.7 % [1.0, 99.0]" and first.page == "../../results/a%20%5Bb%5D%20spatial/report.html"
    )
    assert second.overall == "–" and not second.complete
    page = write_report(run).read_text()
    assert f'href="{first.page}"' in page and "34.7 % [1.0, 99.0]" in page and "in part" in page
    assert "&lt;b&gt;pages" in page and "<b>pages" not in page


def test_a_bound_that_is_not_known_is_a_question_mark(tmp_path):
    """One item has a score and no interval."""
    one = results(50.0)
    one["scores"]["overall"] |= {"low": None, "high": None}
    save_benchmark(tmp_path, tmp_path / "there", one)
    assert load_benchmarks(tmp_path)[0].overall == "50.0 % [?, ?]"


def test_a_damaged_file_costs_the_section_only(tmp_path):
    for damaged in ("{]", '{"x": 3}', '{"x": {"benchmark": "a"}}', '{"x": {"overall": [1, 2]}}'):
        (tmp_path / "benchmarks.json").write_text(damaged)
        page = write_report(tmp_path).read_text()
        assert "benchmarks.json" in page and "<h2>Benchmarks</h2>" not in page
    with pytest.raises(ValueError, match="'x' is no evaluation"):
        load_benchmarks(tmp_path)


def test_no_address_but_a_page_beside(tmp_path):
    entry = {"benchmark": "a", "overall": [None, None, None], "items": 1, "checkpoint": None, "complete": True}
    for where in ("javascript:alert(1)", "/etc", "//example.org"):
        (tmp_path / "benchmarks.json").write_text(json.dumps({where: entry}))
        (row,) = load_benchmarks(tmp_path)
        assert ":" not in row.page and not row.page.startswith("/")
