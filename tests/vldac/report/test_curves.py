"""Every number that was logged is drawn where it belongs, and a drawing can stand in any page."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from vldac.report.curves import charts, series, x_axis
from vldac.report.success import results


def logged(n: int, **columns):
    """n records with `env_steps` and the given columns; None and missing numbers as in a file."""
    records = [{"iteration": i, "env_steps": 100 * (i + 1)} for i in range(n)]
    for key, values in columns.items():
        for record, value in zip(records, values, strict=True):
            record[key] = value
    return records


def points(chart) -> list[list[tuple[float, float]]]:
    """The vertices of each drawn line of data, in drawing units."""
    root = ElementTree.fromstring(chart.svg)
    lines = [p for p in root.iter("path") if "var(--after)" in p.get("style", "") and "clip-path" in p.attrib]
    return [
        [(float(x), float(y)) for x, y in re.findall(r"[ML] (\S+) (\S+)", " ".join(line.get("d").split("\n")))]
        for line in lines
    ]


def test_series_leaves_out_what_is_not_there():
    metrics = logged(5, a=[1, None, "x", True, 2.5])
    del metrics[0]["a"]
    x, y = series(metrics, "a")
    np.testing.assert_array_equal(x, [500])
    np.testing.assert_array_equal(y, [2.5])
    assert [v.size for v in series(metrics, "nothing")] == [0, 0]


def test_without_environment_steps_the_axis_is_iterations():
    metrics = logged(3, a=[1, 2, 3])
    assert x_axis(metrics) == "env_steps"
    metrics[1]["env_steps"] = None
    assert x_axis(metrics) == "iteration" and series(metrics, "a")[0].tolist() == [0, 1, 2]
    assert x_axis([]) == "iteration" and charts([]) == []


def test_a_drawing_has_the_points_in_proportion():
    (chart,) = charts(logged(4, **{"train/policy_loss": [0.0, 1.0, -1.0, 3.0]}))
    (line,) = points(chart)
    x, y = np.array(line).T
    np.testing.assert_allclose(np.diff(x), np.diff(x)[0], rtol=1e-3)
    np.testing.assert_allclose((y - y[0]) / (y[1] - y[0]), [0, 1, -1, 3], atol=1e-3)
    assert y[1] < y[0]  # up is up


def test_every_logged_number_gets_a_drawing_but_counters_and_what_has_no_number():
    metrics = logged(
        3,
        seconds=[1, 2, 3],
        custom=[1, 2, 3],
        text=["a", "b", "c"],
        unknown=[None, None, None],
        **{
            "train/loss": [1, None, 3],
            "rollout/success_rate": [0, 0.5, 1],
            "eval/w/x/success_rate": [None, 1, None],
        },
    )
    drawn = charts(metrics)
    assert [chart.key for chart in drawn] == ["rollout/success_rate", "train/loss", "custom"]
    assert [chart.main for chart in drawn] == [True, False, False]
    assert "evaluation on w/x" in [text for *_, text in drawn[0].legend]


def test_success_is_drawn_with_evaluations_and_references():
    summary = {
        "success_rate": {
            "w": {"random": [0.2, 0.1, 0.3], "before": [0.3, 0.2, 0.4], "after": [0.9, 0.8, None], "expert": None}
        }
    }
    metrics = logged(3, **{"rollout/success_rate": [None] * 3, "eval/w/success_rate": [None, 0.5, None]})
    (chart,) = charts(metrics, results(summary)[0])
    assert [text for *_, text in chart.legend] == [
        "evaluation on w",
        "random actions",
        "model before RL, with 95 % interval",
        "model after RL, with 95 % interval",
    ]
    for colour in ("--random", "--before", "--after"):
        assert f"var({colour})" in chart.svg
    assert "var(--expert)" not in chart.svg


def test_drawings_can_stand_in_one_page():
    rng = np.random.default_rng(0)
    keys = ("rollout/success_rate", "train/loss", "train/entropy")  # the last two have the same axes
    metrics = logged(40, **{key: rng.uniform(size=40) for key in keys})
    drawn = charts(metrics)
    ids = [name for chart in drawn for name in re.findall(r' id="([^"]+)"', chart.svg)]
    assert len(ids) == len(set(ids)) > 0
    for chart in drawn:
        ElementTree.fromstring(chart.svg)  # well-formed
        assert "http" not in chart.svg and "<metadata" not in chart.svg and "<!" not in chart.svg
        for reference in re.findall(r'(?:href="|url\()#([^")]+)', chart.svg):
            assert f'id="{reference}"' in chart.svg
        # all colours are the page's: readable in light and in dark
        assert not re.findall(r"#[0-9a-fA-F]{6}", re.sub(r'(href="|url\()#[^")]+', "", chart.svg))
        assert "<text" in chart.svg


def test_the_same_run_gives_the_same_drawing():
    metrics = logged(20, **{"train/loss": np.linspace(0, 1, 20).tolist()})
    assert charts(metrics) == charts(metrics)


def test_long_runs_stay_small_and_keep_their_mean():
    values = np.sin(np.arange(20_000) / 700) + 1
    (chart,) = charts(logged(20_000, **{"train/entropy": values.tolist()}))
    assert len(chart.svg) < 60_000


@pytest.mark.parametrize(
    ("key", "values", "says"),
    [
        ("train/explained_variance", [-50.0, -3.0, 0.5], "Cut off"),
        ("train/explained_variance", [-50.0, -3.0, -2.0], ""),
        ("train/logprob_mismatch", [1e-6, 1e-6, 1e-6, 0.5], "Logarithmic"),
        ("train/kl_reference", [0.0, 0.0, 0.0], ""),
        ("train/loss", [0.1, 0.1, 0.1], ""),
        ("train/loss", [-1e30, 1e30], ""),
        ("train/grad_norm", [3.0], ""),
        ("rollout/parse_failure_rate", [0.0], ""),
    ],
)
@pytest.mark.filterwarnings("error")
def test_odd_numbers_are_drawn_without_a_warning(key, values, says):
    (chart,) = charts(logged(len(values), **{key: values}))
    assert says in chart.caption and "nan" not in chart.svg
    assert ("Cut off" in chart.caption) == (says == "Cut off") and ("Log" in chart.caption) == (
        says == "Logarithmic"
    )
    assert any(points(chart))
