"""An evaluation, or a comparison of two, in sentences and figures: the same in a terminal and on a page."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from vldac.evaluate.aggregates import OVERALL
from vldac.evaluate.bootstrap import Estimate
from vldac.evaluate.comparison import verdict
from vldac.evaluate.results import from_json
from vldac.evaluate.statistics import Interval
from vldac.report.numbers import score_with_interval


def headline(results: Mapping[str, Any]) -> str:
    """The overall figure with its interval, in a sentence."""
    name = results["benchmark"]
    if figure := results["scores"].get(OVERALL):
        whole = "" if results["complete"] else " on the part that was run"
        return f"{with_interval(figure)} on {name}{whole}"
    for key in (OVERALL, f"{OVERALL} (partial)"):
        if (official := results["official"].get(key)) is not None:
            return f"{official:.1f} % on {name}{'' if results['complete'] else ' on the part that was run'}"
    return f"{results['items']} answers on {name}, which do not make an overall score"


def warnings(results: Mapping[str, Any]) -> list[str]:
    """Why this is not the whole benchmark, and what else is to be known, in sentences."""
    not_run = [f"{name} was not run, which is no zero: {reason}" for name, reason in results["not_run"].items()]
    return [*results["partial"], *not_run, *results["notes"]]


def comparison_headline(comparison: Mapping[str, Any]) -> str:
    """Whether B differs from A, in a sentence."""
    figure = comparison["scores"].get(OVERALL)
    if figure is None or figure["difference"]["estimate"] is None:
        return f"{len(comparison['changed'])} of {comparison['items']} items changed; there is no overall score"
    difference = from_json(figure["difference"])
    said = {"better": "B is better", "worse": "B is worse"}.get(
        verdict(figure["difference"]), "No clear difference"
    )
    return f"{said}: {figure['a']:.1f} % and {figure['b']:.1f} %, {points(difference)} points"


def with_interval(figure: Mapping[str, Any]) -> str:
    """ "31.2 % [29.9, 32.5]" of a figure as `results.json` has it; "–" if it is not known."""
    estimate = from_json(figure)
    return score_with_interval(Interval(estimate.estimate, estimate.low, estimate.high))


def points(difference: Estimate) -> str:
    """ "+1.5 [−1.0, +4.1]" of a difference in percent."""
    if math.isnan(difference.estimate):
        return "–"
    return f"{_signed(difference.estimate)} [{_signed(difference.low)}, {_signed(difference.high)}]"


def error(figure: Mapping[str, Any]) -> str:
    """The standard error of a figure."""
    value = figure["standard_error"]
    return "–" if value is None else f"{value:.1f}"


def p_value(p: float | None) -> str:
    """ "0.031", "<0.001", "" where there is none."""
    return "" if p is None else "<0.001" if p < 0.001 else f"{p:.3f}"


def _signed(value: float) -> str:
    return f"{value:+.1f}".replace("-", "−") if math.isfinite(value) else "?"
