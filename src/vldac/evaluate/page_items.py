"""Samples as the browser of a page takes them, its script `browser.js`: JSON data, and where their pictures are.

* The words of all samples are in the page. Their pictures are too as long as they are small together
  (`_INSIDE` bytes); beyond that they stay in the folder `pictures/` beside it and are loaded one sample at a time,
  so that a page on thousands of videos opens at once.
"""

from __future__ import annotations

import base64
import json
import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from vldac.evaluate.aggregates import Layout
from vldac.evaluate.samples import PICTURES_FOLDER, Record
from vldac.report.template import visible

OUTCOMES = ("right", "partly", "wrong", "left out")
CHANGES = ("better", "worse", "same", "left out")
_INSIDE = 8_000_000  # bytes of pictures that a page holds itself
_WORDS = 24_000_000  # characters of samples that a page holds; long prompts are shortened to keep to it
_LEAST_WORDS, _MOST_WORDS = 1_500, 20_000  # of one text


def outcome(record: Record, layout: Layout) -> str:
    """One of `OUTCOMES`."""
    value = record.score / layout.full
    if math.isnan(value):
        return "left out"
    return "right" if value > 1 - 1e-6 else "partly" if value > 0 else "wrong"


def change(a: Record, b: Record) -> str:
    """One of `CHANGES`, from a to b."""
    if math.isnan(a.score) or math.isnan(b.score):
        return "left out"
    return "better" if b.score > a.score else "worse" if b.score < a.score else "same"


def answered(label: str, record: Record, layout: Layout) -> dict[str, Any]:
    """An answer and what it is worth.

    Args:
      label: whose it is.
      record: of it.
      layout: of the benchmark.
    """
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


def item(record: Record, outcome: str, answers: list[dict[str, Any]], limit: int) -> dict[str, Any]:
    """A question with its answers.

    Args:
      record: of the question.
      outcome: what it is filed under.
      answers: see `answered`.
      limit: characters of one text of the prompt, see `text_limit`.
    """
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
        "truth": None if record.truth is None else _cut(as_text(record.truth), _MOST_WORDS),
        "turns": turns,
        "answers": answers,
    }


def text_limit(records: Sequence[Record]) -> int:
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


def videos(items: list[dict[str, Any]]) -> list[list[str]]:
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


def pictures(page: Path, folder: Path, records: Iterable[Record]) -> tuple[dict[str, str] | None, str]:
    """File name -> what an <img> takes, and a sentence on where pictures are; None: from `pictures/`."""
    names = dict.fromkeys((name for record in records for name in record.pictures), 0)
    if not names:
        return {}, ""
    there = folder / PICTURES_FOLDER
    missing = 0
    for name in names:
        try:
            names[name] = (there / name).stat().st_size
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
            content = (there / name).read_bytes()
            uris[name] = f"data:image/webp;base64,{base64.b64encode(content).decode()}"
    return uris, f"Pictures are scaled down where they were large.{lost}"


def as_text(value: Any) -> str:
    """A text as it is, other JSON data written out."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
