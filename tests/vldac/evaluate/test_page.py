"""The pages: whatever a model wrote stays text, numbers come with what must be known, and no address is opened."""

from __future__ import annotations

import html
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from tests.scripted import sample
from vldac.evaluate import page_items, words
from vldac.evaluate.benchmark import Sample
from vldac.evaluate.comparison import compare
from vldac.evaluate.page import write_comparison_page, write_results_page
from vldac.evaluate.results import load, summarise, write_json
from vldac.evaluate.samples import SampleLog
from vldac.evaluate.statistics import wilson
from vldac.generate.request import Message, Video

EVIL = "</script><script>alert('x')</script><img src=x onerror=alert(1)> <!-- {{ 7*7 }} \ud800 \x1b[31m"


class Reader(HTMLParser):
    """Collects tags, and the text of scripts."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.scripts, self.words = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.scripts.append("") if tag == "script" else None

    def handle_data(self, data):
        if self.tags and self.tags[-1][0] == "script":
            self.scripts[-1] += data
        self.words.append(data)


def folder_of(path, rows, name="the model", benchmark="vsi_bench", **facts):
    path.mkdir()
    with SampleLog(path) as log:
        for row in rows:
            log.add(row)
        found = summarise(benchmark, log.records, {}, model={"name": name}, configuration={"k": EVIL}, **facts)
    write_json(path / "results.json", found)
    return load(path)


def asked(name, score, answer="A", parts=("Which?",), task="route_planning"):
    return Sample(name, task, (Message("user", tuple(parts)),), answer, answer, "A", {"official": score})


def read(path):
    reader = Reader(path.read_text(encoding="utf-8"))
    return reader, json.loads(reader.scripts[0])


def test_what_a_model_or_a_file_says_is_only_text(tmp_path):
    evil = asked(EVIL, 1.0, EVIL, (EVIL, np.zeros((8, 8, 3), np.uint8)))
    evaluated = folder_of(tmp_path / "a", [evil], name=EVIL, not_run={EVIL: EVIL}, partial=[EVIL])
    other = folder_of(tmp_path / "b", [asked(EVIL, 0.0, EVIL)], name=EVIL)
    for path in (
        write_results_page(evaluated),
        write_comparison_page(tmp_path / "b" / "comparison.html", compare(evaluated, other), evaluated, other),
    ):
        reader, data = read(path)
        assert [tag for tag, _ in reader.tags].count("script") == 2, "the data and the browser, and nothing else"
        assert not any(tag in ("img", "iframe", "link") and attrs.get("src") for tag, attrs in reader.tags)
        assert not any(key.startswith("on") for _, attrs in reader.tags for key in attrs)
        text = path.read_text(encoding="utf-8")
        assert html.escape("<img src=x") in text, "it is shown, escaped"
        (item,) = data["items"]
        assert item["answers"][0]["text"].startswith("</script><script>alert('x')") and "49" not in item["id"]
        assert "\x1b" not in item["answers"][0]["text"] and "\u241b[31m" in item["answers"][0]["text"]
        assert "innerHTML" not in reader.scripts[1] and "eval" not in reader.scripts[1]


def test_the_page_opens_no_address(tmp_path):
    text = write_results_page(folder_of(tmp_path / "a", [asked("q", 1.0)])).read_text(encoding="utf-8")
    assert not re.search(r"https?://", text)
    assert "default-src 'none'" in text


def test_every_sample_is_there_with_its_outcome(tmp_path):
    rows = [asked("r", 1.0), asked("p", 0.3), asked("w", 0.0, ""), asked("l", np.nan), asked("b", 0.0, "\n \n")]
    _, data = read(write_results_page(folder_of(tmp_path / "a", rows)))
    assert {item["id"]: item["outcome"] for item in data["items"]} == {
        "r": "right",
        "p": "partly",
        "w": "wrong",
        "l": "left out",
        "b": "wrong",
    }
    assert data["items"][4]["answers"][0]["text"] == r"blanks only: '\n \n'"
    assert (
        data["items"][0]["turns"] == [{"role": "user", "parts": ["Which?"]}] and data["items"][0]["truth"] == "A"
    )


def test_few_pictures_are_in_the_page_and_many_beside_it(tmp_path, monkeypatch):
    film = Video(np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), np.uint8))
    evaluated = folder_of(tmp_path / "a", [asked("q", 1.0, parts=(film, "Which?"))])
    other = folder_of(tmp_path / "b", [asked("q", 0.0)])
    _, data = read(write_results_page(evaluated))
    assert data["items"][0]["turns"][0]["parts"] == [{"video": 0, "fps": 0.0}, "Which?"]
    (names,) = data["videos"]
    assert len(names) == 3 and all(data["pictures"][name].startswith("data:image/webp;base64,") for name in names)
    monkeypatch.setattr(page_items, "_INSIDE", 10)
    _, data = read(write_results_page(evaluated))
    assert data["pictures"] is None
    assert all((tmp_path / "a" / "pictures" / name).is_file() for name in names)
    found = compare(evaluated, other)
    _, data = read(write_comparison_page(tmp_path / "b" / "comparison.html", found, evaluated, other))
    assert (tmp_path / "b" / data["pictures"][names[0]]).resolve().is_file()
    (tmp_path / "a" / "pictures" / names[0]).unlink()
    assert "1 of them are missing" in write_results_page(evaluated).read_text()


def test_long_prompts_are_shortened_and_say_so(tmp_path):
    _, data = read(write_results_page(folder_of(tmp_path / "a", [asked("q", 1.0, parts=("x" * 50_000,))])))
    text = data["items"][0]["turns"][0]["parts"][0]
    assert len(text) < 21_000 and "30,000 more characters, see samples.jsonl" in text


def test_figures_stand_beside_published_ones_with_their_caveats(tmp_path):
    rows = [asked(f"q{i}", float(i < 60)) for i in range(194)]
    evaluated = folder_of(tmp_path / "a", rows, not_run={"babaisai": "not installed"}, partial=["Only a part."])
    words = html.unescape(write_results_page(evaluated).read_text())
    _, low, high = wilson(60, 194)
    assert f"30.9 % [{100 * low:.1f}, {100 * high:.1f}]" in words.replace("\u00a0", " ")
    assert "three questions" in words and "VL-DAC, arXiv 2508.04280, table 3" in words
    assert "which is no zero: not installed" in words and "Only a part." in words
    ours = folder_of(tmp_path / "b", [asked("q", 1.0)], benchmark="spatial")
    assert "others have published" not in write_results_page(ours).read_text()


def test_a_comparison_shows_both_answers_and_what_changed(tmp_path):
    a = folder_of(tmp_path / "a", [asked("x", 0.0, "B"), asked("y", 1.0), asked("z", 1.0)], name="base")
    b = folder_of(tmp_path / "b", [asked("z", 1.0), asked("x", 1.0), asked("y", 0.0, "C")], name="trained")
    found = compare(a, b)
    path = write_comparison_page(tmp_path / "c.html", found, a, b)
    _, data = read(path)
    assert {item["id"]: item["outcome"] for item in data["items"]} == {"x": "better", "y": "worse", "z": "same"}
    assert [answer["text"] for answer in data["items"][0]["answers"]] == ["B", "A"]
    assert "No clear difference" in path.read_text() and words.comparison_headline(found).startswith("No clear")


@pytest.mark.parametrize("count", [0, 1])
def test_nothing_answered_is_no_crash(tmp_path, count):
    evaluated = folder_of(tmp_path / "a", [sample("q", "a", np.nan)] * count, benchmark="pages")
    assert "do not make an overall score" in words.headline(evaluated.results)
    _, data = read(write_results_page(evaluated))
    assert len(data["items"]) == count
