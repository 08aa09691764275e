"""An evaluation, or a comparison of two, as a page that opens from disk: figures, and every sample to look at.

* The words of all samples are in the page. Their pictures are too as long as they are small together
  (`_INSIDE` bytes); beyond that they stay in the folder `pictures/` beside it and are loaded one sample at a time,
  so that a page on thousands of videos opens at once.
* What a model wrote is data: it reaches the page as JSON, and the script sets it as text. The page's own security
  policy forbids any other script, by hash.
* Built from the folder's files alone, so it can be written again at any time.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from vldac.evaluate.aggregates import LAYOUTS, OVERALL, Layout
from vldac.evaluate.comparison import flat, verdict
from vldac.evaluate.results import Evaluated, from_json
from vldac.evaluate.samples import PICTURES_FOLDER, Record
from vldac.metrics import write_atomically
from vldac.report.html import prose, visible
from vldac.report.numbers import duration

PAGE_FILE = "report.html"
_INSIDE = 8_000_000  # bytes of pictures that a page holds itself
_WORDS = 24_000_000  # characters of samples that a page holds; long prompts are shortened to keep to it
_LEAST_WORDS, _MOST_WORDS = 1_500, 20_000  # of one text
_OUTCOMES = ("right", "partly", "wrong", "left out")
_CHANGES = ("better", "worse", "same", "left out")


def write_results_page(evaluated: Evaluated) -> Path:
    """Writes `report.html` into the folder of an evaluation.

    Returns:
      The file.

    Raises:
      RunFileError: it can not be written.
    """
    results, layout = evaluated.results, LAYOUTS[evaluated.benchmark]
    records = list(evaluated.records.values())
    limit = _limit(records)
    items = [
        _item(record, _outcome(record, layout), [_answer("Answer", record, layout)], limit) for record in records
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
        outcomes=_OUTCOMES,
        folder=evaluated.folder,
        records=records,
    )


def write_comparison_page(path: Path, comparison: Mapping[str, Any], a: Evaluated, b: Evaluated) -> Path:
    """Writes a page on two evaluations of the same items, as `comparison.compare` found them to differ.

    Args:
      path: the page's; pictures that do not fit into it are loaded from a's folder only if that is where it is.
      comparison: of `a` and `b`.

    Returns:
      The file.

    Raises:
      RunFileError: it can not be written.
    """
    layout = LAYOUTS[a.benchmark]
    records = list(a.records.values())
    limit = _limit(records)
    items = [
        _item(
            record,
            _change(record, b.records[record.id]),
            [
                _answer(f"A: {a.model}", record, layout),
                _answer(f"B: {b.model}", b.records[record.id], layout),
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
        outcomes=_CHANGES,
        folder=a.folder,
        records=records,
    )


# --- what is said ------------------------------------------------------------------------------------------


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
    if math.isnan(estimate.estimate):
        return "–"
    return f"{estimate.estimate:.1f} % [{_bound(estimate.low)}, {_bound(estimate.high)}]"


def points(difference: Any) -> str:
    """ "+1.5 [−1.0, +4.1]" of an `Estimate` in percent."""
    if math.isnan(difference.estimate):
        return "–"
    return f"{_signed(difference.estimate)} [{_signed(difference.low)}, {_signed(difference.high)}]"


def error(figure: Mapping[str, Any]) -> str:
    """The standard error of a figure."""
    value = figure["standard_error"]
    return "–" if value is None else f"{value:.1f}"


# --- tables ------------------------------------------------------------------------------------------------


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


def p_value(p: float | None) -> str:
    """ "0.031", "<0.001", "" where there is none."""
    return "" if p is None else "<0.001" if p < 0.001 else f"{p:.3f}"


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
    return [(title, [(k, _text(v)) for k, v in flat(rows).items()]) for title, rows in facts.items() if rows]


# --- samples -----------------------------------------------------------------------------------------------


def _outcome(record: Record, layout: Layout) -> str:
    value = record.score / layout.full
    if math.isnan(value):
        return "left out"
    return "right" if value > 1 - 1e-6 else "partly" if value > 0 else "wrong"


def _change(a: Record, b: Record) -> str:
    if math.isnan(a.score) or math.isnan(b.score):
        return "left out"
    return "better" if b.score > a.score else "worse" if b.score < a.score else "same"


def _answer(label: str, record: Record, layout: Layout) -> dict[str, Any]:
    value = 100 * record.score / layout.full
    facts = ["left out of the mean" if math.isnan(value) else f"score {value:.4g} %"]
    facts += [f"{name} {score:.4g}" for name, score in list(record.scores.items())[1:] if not math.isnan(score)]
    if record.reply:
        facts.append(
            f"{record.reply.get('prompt_tokens')} tokens of prompt, {record.reply.get('answer_tokens')} of answer"
        )
    extracted = None if record.extracted is None else _cut(record.extracted, _MOST_WORDS)
    return {
        "label": visible(label),
        "text": _cut(record.answer, _MOST_WORDS),
        "extracted": extracted,
        "facts": " · ".join(facts),
        "notes": visible(record.notes),
    }


def _item(record: Record, outcome: str, answers: list[dict[str, Any]], limit: int) -> dict[str, Any]:
    turns = [
        {
            "role": turn["role"],
            "parts": [_cut(part, limit) if isinstance(part, str) else part for part in turn["parts"]],
        }
        for turn in record.messages
    ]
    return {
        "id": record.id,
        "task": record.task,
        "outcome": outcome,
        "truth": None if record.truth is None else _cut(_text(record.truth), _MOST_WORDS),
        "turns": turns,
        "answers": answers,
    }


def _limit(records: Sequence[Record]) -> int:
    """Characters of one text of a prompt, so that a page with many long prompts still opens."""
    texts = sum(len(turn["parts"]) for record in records for turn in record.messages)
    return max(_LEAST_WORDS, min(_MOST_WORDS, _WORDS // max(1, texts)))


def _cut(text: str, limit: int) -> str:
    """A long text without its middle, and what is hidden made visible."""
    if text and not text.strip():
        return f"blanks only: {text[:100]!r}"
    if len(text) > limit:
        half = limit // 2
        left = len(text) - 2 * half
        text = f"{text[:half]}\n… {left:,} more characters, see samples.jsonl …\n{text[-half:]}"
    return visible(text)


def _videos(items: list[dict[str, Any]]) -> list[list[str]]:
    """Every list of frames once; in the items its number takes its place, as many questions may share a video."""
    numbers: dict[tuple[str, ...], int] = {}
    for item in items:
        for turn in item["turns"]:
            turn["parts"] = [
                part | {"video": numbers.setdefault(tuple(part["video"]), len(numbers))}
                if isinstance(part, dict) and "video" in part
                else part
                for part in turn["parts"]
            ]
    return [list(names) for names in numbers]


def _pictures(page: Path, folder: Path, records: Iterable[Record]) -> tuple[dict[str, str] | None, str]:
    """File name -> what an <img> takes, and a sentence on where pictures are; None: from `pictures/`."""
    names: dict[str, int] = {}
    for record in records:
        for turn in record.messages:
            for part in turn["parts"]:
                if isinstance(part, dict):
                    names |= dict.fromkeys([part["picture"]] if "picture" in part else part["video"], 0)
    if not names:
        return {}, ""
    there = folder / PICTURES_FOLDER
    missing = 0
    for name in names:
        try:
            names[name] = (there / Path(name).name).stat().st_size
        except OSError:
            missing += 1
    lost = f" {missing} of them are missing." if missing else ""
    if sum(names.values()) > _INSIDE:
        if page.parent.resolve() == folder.resolve():
            return None, f"Pictures are scaled down, and lie beside this page in {PICTURES_FOLDER}/.{lost}"
        where = os.path.relpath(there, page.parent)
        return {name: f"{where}/{name}" for name in names}, f"Pictures are scaled down, and lie in {where}/.{lost}"
    uris = {}
    for name, size in names.items():
        if size:
            content = (there / Path(name).name).read_bytes()
            uris[name] = f"data:image/webp;base64,{base64.b64encode(content).decode()}"
    return uris, f"Pictures are scaled down where they were large.{lost}"


def _write(
    path: Path,
    *,
    items: list[dict[str, Any]],
    outcomes: Sequence[str],
    folder: Path,
    records: Sequence[Record],
    **content: Any,
) -> Path:
    environment = Environment(
        loader=ChoiceLoader([PackageLoader("vldac.evaluate"), PackageLoader("vldac.report")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"prose": prose, "visible": visible}
    script, css = (_source(environment, name) for name in ("browser.js", "results.css"))
    pictures, note = _pictures(path, folder, records)
    data = json.dumps(
        {"items": items, "videos": _videos(items), "pictures": pictures, "outcomes": list(outcomes)},
        ensure_ascii=True,
    )
    page = environment.get_template("results.html").render(
        **content,
        browse_note=note,
        css=Markup(_source(environment, "report.css") + css),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        # "<" would end the script element in "</script>", and begin a comment in "<!--".
        data=Markup(data.replace("<", "\\u003c")),
    )
    write_atomically(path, page.encode("utf-8", errors="replace"))
    return path


def _source(environment: Environment, name: str) -> str:
    return environment.loader.get_source(environment, name)[0]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _bound(value: float) -> str:
    return f"{value:.1f}" if math.isfinite(value) else "?"


def _signed(value: float) -> str:
    return f"{value:+.1f}".replace("-", "−") if math.isfinite(value) else "?"
