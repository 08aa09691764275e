"""An evaluation, or a comparison of two, as a page that opens from disk: figures, and every sample to look at.

* What a model wrote is data: it reaches the page as JSON, and the script sets it as text. The page's own security
  policy forbids any other script, by hash.
* Built from the folder's files alone, so it can be written again at any time.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from vldac.evaluate import page_items
from vldac.evaluate.aggregates import LAYOUTS, OVERALL, Layout
from vldac.evaluate.comparison import flat
from vldac.evaluate.results import Evaluated, from_json
from vldac.evaluate.samples import Record
from vldac.evaluate.words import comparison_headline, error, headline, p_value, points, warnings, with_interval
from vldac.metrics import write_atomically
from vldac.report.numbers import duration
from vldac.report.template import script_hash, source, templates

PAGE_FILE = "report.html"


def write_results_page(evaluated: Evaluated) -> Path:
    """Writes `report.html` into the folder of an evaluation.

    Returns:
      The file.

    Raises:
      RunFileError: it can not be written.
    """
    results, layout = evaluated.results, LAYOUTS[evaluated.benchmark]
    records = list(evaluated.records.values())
    limit = page_items.text_limit(records)
    items = [
        page_items.item(
            record, page_items.outcome(record, layout), [page_items.answered("Answer", record, layout)], limit
        )
        for record in records
    ]
    return _write(
        evaluated.folder / PAGE_FILE,
        title=f"{evaluated.model} on {evaluated.benchmark}",
        kicker=f"{evaluated.model} on {evaluated.benchmark}",
        headline=headline(results),
        warnings=warnings(results),
        tables=[_scores_table(results, layout), *_published_table(evaluated)],
        browse_title="Every sample",
        facts=_facts(results),
        items=items,
        outcomes=page_items.OUTCOMES,
        folder=evaluated.folder,
        records=records,
    )


def write_comparison_page(path: Path, comparison: Mapping[str, Any], a: Evaluated, b: Evaluated) -> Path:
    """Writes a page on two evaluations of the same items, as `comparison.compare` found them to differ.

    Args:
      path: the page's; pictures that do not fit into it are loaded from a's folder.
      comparison: of `a` and `b`.

    Returns:
      The file.

    Raises:
      RunFileError: it can not be written.
    """
    layout = LAYOUTS[a.benchmark]
    records = list(a.records.values())
    limit = page_items.text_limit(records)
    items = [
        page_items.item(
            record,
            page_items.change(record, b.records[record.id]),
            [
                page_items.answered(f"A: {a.model}", record, layout),
                page_items.answered(f"B: {b.model}", b.records[record.id], layout),
            ],
            limit,
        )
        for record in records
    ]
    settings = [(name, f"{x!r} / {y!r}") for name, (x, y) in comparison["settings"].items()]
    sides = [(f"{side.upper()} {key}", str(value)) for side in "ab" for key, value in comparison[side].items()]
    return _write(
        path,
        title=f"{b.model} against {a.model} on {a.benchmark}",
        kicker=f"B: {b.model} against A: {a.model}, on {a.benchmark}",
        headline=comparison_headline(comparison),
        warnings=[],
        tables=[_comparison_table(comparison)],
        browse_title="Every item, answered by both",
        facts=[("The two evaluations", sides), *([("Settings that differ", settings)] if settings else [])],
        items=items,
        outcomes=page_items.CHANGES,
        folder=a.folder,
        records=records,
    )


def _scores_table(results: Mapping[str, Any], layout: Layout) -> dict[str, Any]:
    rows = []
    for name, figure in results["scores"].items():
        bar: Any = ""
        if figure["estimate"] is not None:
            low, high = (
                max(0.0, figure["low"] or 0.0),
                min(100.0, 100.0 if figure["high"] is None else figure["high"]),
            )
            bar = {"low": low, "width": high - low, "estimate": figure["estimate"], "signed": False}
        cells = [name, with_interval(figure), bar, error(figure), str(figure["items"])]
        rows.append({"cells": cells, "strong": name == OVERALL})
    columns = [layout.task_name.capitalize(), "Score", "", "Standard error", f"{layout.item_name.capitalize()}s"]
    notes = [
        "In brackets: 95 % intervals. Tasks of right and wrong have Wilson's, others Student's; figures made of "
        "several tasks a bootstrap within each task. They cover the luck of the items, taken as independent, not "
        "that of training: another seed is another model."
    ]
    return {"title": "Scores", "columns": columns, "rows": rows, "notes": notes, "caveats": []}


def _published_table(evaluated: Evaluated) -> list[dict[str, Any]]:
    results = evaluated.results
    if not results["published"]:
        return []
    names = [name for name in results["scores"] if any(name in one["scores"] for one in results["published"])]
    names += [OVERALL] if OVERALL not in names else []
    # Those that most have published come first: the table is wider than the page.
    count = {name: sum(name in one["scores"] for one in results["published"]) for name in names}
    names = sorted(names, key=lambda name: (name != OVERALL, -count[name]))
    rows = []
    for one in results["published"]:
        cells = [one["model"]]
        for name in names:
            value, spread = one["scores"].get(name), one["standard_errors"].get(name)
            cells.append(
                "–" if value is None else f"{value:.1f}" + (f" ± {spread:.2f}" if spread is not None else "")
            )
        rows.append({"cells": cells, "strong": False})
    ours = [f"{evaluated.model}, measured here"]
    for name in names:
        figure = results["scores"].get(name)
        ours.append("–" if figure is None or figure["estimate"] is None else f"{figure['estimate']:.1f}")
    return [
        {
            "title": "Beside what others have published",
            "columns": ["Model", *names],
            "rows": [{"cells": ours, "strong": True}, *rows],
            "notes": ["Other harnesses measure other things: read each number with its caveat."],
            "caveats": _by_caveat(results["published"]),
        }
    ]


def _by_caveat(published: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, str]]:
    """(models, sources, caveat) for each caveat, which several may share."""
    shared: dict[str, list[Mapping[str, Any]]] = {}
    for one in published:
        shared.setdefault(one["caveat"], []).append(one)
    return [
        ("; ".join(one["model"] for one in ones), "; ".join(dict.fromkeys(one["source"] for one in ones)), caveat)
        for caveat, ones in shared.items()
    ]


def _comparison_table(comparison: Mapping[str, Any]) -> dict[str, Any]:
    scores = comparison["scores"]
    differences = {name: from_json(figures["difference"]) for name, figures in scores.items()}
    reach = max(
        [5.0]
        + [abs(bound) for one in differences.values() for bound in (one.low, one.high) if math.isfinite(bound)]
    )
    rows = []
    for name, figures in scores.items():
        one = differences[name]
        bar: Any = ""
        if math.isfinite(one.low):
            low, high, middle = ((value / reach + 1) * 50 for value in (one.low, one.high, one.estimate))
            bar = {"low": low, "width": high - low, "estimate": middle, "signed": True}
        values = ["–" if figures[side] is None else f"{figures[side]:.1f}" for side in "ab"]
        changes = (
            [str(figures[key]) for key in ("better", "worse", "items")] if "better" in figures else ["", "", ""]
        )
        p = [p_value(figures.get(key)) for key in ("p", "p_holm")]
        rows.append({"cells": [name, *values, points(one), bar, *changes, *p], "strong": name == OVERALL})
    columns = ["Task", "A", "B", "B − A, points", "", "Better", "Worse", "Items", "McNemar p", "after Holm"]
    notes = [
        "In brackets: 95 % intervals of the difference on the same items. Better and worse: items that B is "
        "worth more and less on. McNemar's exact test where scores are right or wrong; after Holm: with all "
        "tasks at once. Where the interval and the test disagree few items changed, and the test is the stricter.",
        *comparison["notes"],
    ]
    return {"title": "Differences", "columns": columns, "rows": rows, "notes": notes, "caveats": []}


def _facts(results: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    facts = {
        "Official figures": {name: "–" if v is None else f"{v:.6g}" for name, v in results["official"].items()},
        "Model": results["model"],
        "Configuration": flat(results["configuration"]),
        "Versions": results["versions"],
    }
    if results["seconds"] is not None:
        facts["Time"] = {"answering, in the last session": duration(results["seconds"])}
    facts["Statistics"] = {"method": results["statistics"]}
    return [
        (title, [(k, page_items.as_text(v)) for k, v in flat(rows).items()])
        for title, rows in facts.items()
        if rows
    ]


def _write(
    path: Path,
    *,
    items: list[dict[str, Any]],
    outcomes: Sequence[str],
    folder: Path,
    records: Sequence[Record],
    **content: Any,
) -> Path:
    environment = templates("vldac.evaluate", "vldac.report")
    script = source(environment, "browser.js")
    sources, note = page_items.pictures(path, folder, records)
    data = json.dumps(
        {"items": items, "videos": page_items.videos(items), "pictures": sources, "outcomes": list(outcomes)},
        ensure_ascii=True,
    )
    page = environment.get_template("results.html").render(
        **content,
        browse_note=note,
        css=source(environment, "report.css") + source(environment, "results.css"),
        script=script,
        script_hash=script_hash(script),
        # "<" would end the script element in "</script>", and begin a comment in "<!--".
        data=Markup(data.replace("<", "\\u003c")),
    )
    write_atomically(path, page.encode("utf-8", errors="replace"))
    return path
