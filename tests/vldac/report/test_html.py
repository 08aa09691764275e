"""The report opens from disk, says what the files say, and runs nothing that a model wrote."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from vldac.metrics import MetricsWriter, RunFileError, write_summary
from vldac.report import Episode, save_episodes, write_report
from vldac.report.template import visible

VOID = {"meta", "link", "img", "br", "wbr", "input", "hr"}
ATTACK = "<script>alert(1)</script><img src=x onerror=alert(2)>\" onload='alert(3)' {{ 7 * 7 }} </style>&amp;"

CONFIG = {
    "name": "test",
    "world": "family/seen",
    "iterations": 4,
    "model": {"preset": "nano"},
    "rollout": {"worlds": 32, "steps": 8, "deep": {"flag": True, "nothing": None}},
    "evaluation": {"unseen": ["family/unseen"]},
}
SUMMARY = {
    "success_rate": {
        "family/seen": {
            "random": [0.23, 0.18, 0.29],
            "before": [0.31, 0.26, 0.37],
            "after": [0.97, 0.94, 0.98],
            "expert": [1.0, 0.99, 1.0],
        },
        "family/unseen": {"before": [0.4, 0.34, 0.46], "after": [0.42, 0.36, 0.48]},
    },
    "steps_to_goal": {
        "family/seen": {"before": [22.3, 20.1, 24.5], "after": [9.7, 9.1, 10.3], "expert": [7.9, 7.6, 8.2]}
    },
    "mean_return": {"family/seen": {"after": [0.91, 0.88, 0.94]}},
    "parse_failure_rate": {"family/seen": {"before": 0.127, "after": 0.0041}},
    "env_steps": 10240,
    "peak_memory_mib": 1723.4,
    "seconds": {
        "compile": 41,
        "imitation": 52.0,
        "rollout": 38.0,
        "update": 118.5,
        "evaluation": 33,
        "total": 301.0,
    },
    "versions": {"jax": "0.10.2", "python": "3.11.7"},
    "episodes": 256,
    "model": "nano, 1.2 M parameters",
    "worlds": {"family/seen": {"instruction": "Go to the red box.", "actions": ["left", "on"], "max_steps": 50}},
}


class Page(HTMLParser):
    """A strict reader: every tag closed in order, texts and attributes kept."""

    def __init__(self, path: Path):
        super().__init__(convert_charrefs=True)
        self.source = path.read_text(encoding="utf-8")
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.scripts = ""
        self.styles = ""
        self.feed(self.source)
        self.close()
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        assert len(dict(attrs)) == len(attrs), f"an attribute twice in {tag}"
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self.texts.append("" if tag == "wbr" else " ")

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"
        self.texts.append(" ")

    def handle_data(self, data):
        inside = self.open[-1] if self.open else ""
        if inside == "script":
            self.scripts += data
        elif inside == "style":
            self.styles += data
        else:
            self.texts.append(data)

    @property
    def text(self) -> str:
        """All that a reader sees, white space as one blank."""
        return " ".join("".join(self.texts).split())

    def of(self, tag: str, cls: str = "") -> list[dict[str, str | None]]:
        return [a for t, a in self.elements if t == tag and (not cls or cls in (a.get("class") or "").split())]


def episode(steps: int, success: bool, words: str = "box left", world: str = "family/seen", title: str = "no. 1"):
    frames = np.random.default_rng(steps).integers(0, 256, (steps, 6, 8, 3), dtype=np.uint8)
    return Episode(
        frames=frames,
        answers=[f'{{"thoughts": "{words}", "action": "left"}}'] * (steps - 1) + [words],
        thoughts=[words] * steps,
        actions=["left"] * (steps - 1) + [None],
        rewards=np.float32([0.0] * (steps - 1) + [0.75]),
        success=success,
        world=world,
        title=title,
    )


def write_run(run: Path, iterations: int = 4) -> None:
    run.mkdir(parents=True)
    (run / "config.json").write_text(json.dumps(CONFIG))
    with MetricsWriter(run) as writer:
        for i in range(1, iterations + 1):
            writer.write(
                {
                    "iteration": i,
                    "env_steps": 256 * i,
                    "seconds": 2.0 * i,
                    "rollout/success_rate": i / 8,
                    "train/kl_reference": np.nan if i == 1 else 0.01 * i,
                }
            )


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """The folder of a finished run."""
    run = tmp_path_factory.mktemp("runs") / "whole"
    write_run(run)
    write_summary(run, SUMMARY)
    save_episodes(run, "before", [episode(5, False)])
    save_episodes(run, "after", [episode(3, True), episode(4, True, world="family/unseen")])
    return run


@pytest.fixture(scope="module")
def page(whole) -> Page:
    path = write_report(whole)
    assert path == whole / "report.html"
    return Page(path)


def without(whole: Path, folder: Path, *names: str) -> Path:
    """A copy of the whole run that lacks files."""
    run = folder / "run"
    shutil.copytree(whole, run)
    for name in names:
        shutil.rmtree(run / name) if (run / name).is_dir() else (run / name).unlink()
    return run


def test_the_headline_says_what_came_out(page):
    assert "Success on family/seen rose from 31 % [26, 37] to 97 % [94, 98]" in page.text
    assert "the model needs 23 % more steps than the expert" in page.text
    assert "Never trained on: no clear change: success on family/unseen went from 40 % [34, 46]" in page.text
    assert "What is not here" not in page.text and "could not be read" not in page.text


def test_every_number_of_the_summary_is_there(page):
    numbers = """
        23 % [18, 29] | 31 % [26, 37] | 97 % [94, 98] | 100 % [99, 100] | 40 % [34, 46] | 42 % [36, 48]
        | 22.3 [20.1, 24.5] | 9.7 [9.1, 10.3] | 7.9 [7.6, 8.2] | 0.91 [0.88, 0.94] | 13 % | 0.4 % | 10,240
        | compile 41.0 s 14 % | warm start 52.0 s 17 % | 38.0 s | 1 min 58 s 39 % | 33.0 s | other 18.5 s 6 %
        | total 5 min 01 s | At most 1,723 MiB | jax 0.10.2 | python 3.11.7
        | 256 fresh episodes | nano, 1.2 M parameters
        | “Go to the red box.” Actions: left , on . An episode ends after 50 steps"""
    assert [number for number in map(str.strip, numbers.split("|")) if number not in page.text] == []


def test_the_trained_world_is_told_from_the_unseen_one(page):
    assert re.search(r"family/seen trained on random actions 23 %", page.text)
    assert re.search(r"family/unseen unseen model before RL 40 %", page.text)


def test_config_is_complete_under_the_names_of_the_command_line(page):
    for row in (
        "iterations 4",
        "model.preset nano",
        "rollout.worlds 32",
        "rollout.deep.flag true",
        "rollout.deep.nothing null",
        'evaluation.unseen ["family/unseen"]',
    ):
        assert row in page.text
    folder = r"[\w-]+/whole"
    assert re.search(
        rf"python -m experiments\.run --config {folder}/config\.json --name whole-again "
        rf"python -m experiments\.run --resume {folder} ",
        page.text,
    )


def test_episodes_show_frames_and_words_step_by_step(page):
    assert [a["data-steps"] for a in page.of("article", "episode")] == ["5", "3", "4"]
    images = page.of("img")
    assert len(images) == 12 and len({image["src"] for image in images}) == 12
    assert "Before RL goal not reached in 5 steps" in page.text and "After RL goal reached in 3 steps" in page.text
    assert page.text.count("no action reward +0.75") == 3  # the last step of each
    assert page.text.count("box left left") == 9  # thought and action of the others
    assert page.text.count('{"thoughts": "box left", "action": "left"}') == 9


def test_curves_are_drawn(page):
    assert len(page.of("svg")) == 2 and "KL divergence" in page.text


def test_nothing_is_loaded_from_anywhere(page):
    for tag, attributes in page.elements:
        for name in ("src", "href", "xlink:href", "srcset", "action", "poster", "data", "background"):
            value = attributes.get(name) or ""
            assert value == "" or value.startswith(("data:", "#")), (tag, name, value)
        assert "url(" not in (attributes.get("style") or ""), tag
    assert "url(" not in page.styles and "@import" not in page.styles
    assert not re.search(r"fetch\(|XMLHttpRequest|import\(|WebSocket|https?:", page.scripts)
    assert "http://" not in page.source and "https://" not in page.source
    assert {tag for tag, _ in page.elements} & {"iframe", "object", "embed", "base", "form"} == set()


def test_the_only_script_is_the_player_and_the_policy_names_its_hash(page):
    assert len(page.of("script")) == 1 and page.of("script")[0] == {}
    digest = base64.b64encode(hashlib.sha256(page.scripts.encode()).digest()).decode()
    (policy,) = [a["content"] for a in page.of("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; img-src data:;") and f"script-src 'sha256-{digest}'" in policy


def test_what_a_model_wrote_is_text(tmp_path):
    run = tmp_path / f"run {ATTACK.replace('/', '')}"
    write_run(run)
    config = {**CONFIG, "name": ATTACK, ATTACK: ATTACK, "world": ATTACK}
    (run / "config.json").write_text(json.dumps(config))
    with MetricsWriter(run, resume_from_iteration=4) as writer:
        writer.write({"iteration": 5, "env_steps": 1500, ATTACK: 1.0, f"eval/{ATTACK}/success_rate": 0.5})
    summary = {
        key: {ATTACK: {ATTACK: [0.5, 0.4, 0.6], "before": [0.5, 0.4, 0.6]}}
        for key in ("success_rate", "steps_to_goal", "mean_return")
    }
    write_summary(
        run,
        {
            **summary,
            "versions": {ATTACK: ATTACK},
            "model": ATTACK,
            "seconds": {ATTACK: 3.0},
            "worlds": {ATTACK: {"instruction": ATTACK, "actions": [ATTACK], "max_steps": ATTACK}},
        },
    )
    save_episodes(run, "before", [episode(3, False, words=ATTACK, world=ATTACK, title=ATTACK)])
    (run / "episodes" / "after.npz").write_bytes(b"")

    page = Page(write_report(run))
    assert len(page.of("script")) == 1 and "alert" not in page.scripts and "alert" not in page.styles
    assert len(page.of("img")) == 3 and len(page.of("style")) == 1
    for tag, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on")], tag
        assert all("alert" not in (value or "") for value in attributes.values()), (tag, attributes)
    # thoughts of 3 steps and 3 answers, word for word
    assert page.text.count(" ".join(ATTACK.split())) >= 6 and "{{ 7 * 7 }}" in page.text


def test_control_characters_are_made_visible_and_half_characters_do_not_stop_the_report(tmp_path):
    run = tmp_path / "run"
    write_run(run)
    save_episodes(run, "after", [episode(2, True, words="a\x00b\x1b[31m\ud800c\x85 line\nbreak")])
    page = Page(write_report(run))
    assert "a␀b␛[31m\ufffdc\ufffd line break" in page.text
    assert visible("a\n\tb") == "a\n␉b"


def test_nothing_is_written_without_a_trace_or_against_the_line():
    """Of no width; turning the direction round; a second alphabet that no font has."""
    for hidden in ("\u200b", "\ufeff", "\u202e", "\u2066", "\U000e0061"):
        assert visible(f"turn_{hidden}left") == "turn_\ufffdleft"
    family = "👩\u200d👧"
    assert visible(family) == family


def test_very_long_answers_and_episodes_are_shortened_and_say_so(tmp_path):
    run = tmp_path / "run"
    write_run(run)
    save_episodes(run, "after", [episode(100, False, words="y" * 5000)] + [episode(2, True)] * 6)
    page = Page(write_report(run))
    assert len(page.of("img")) == 60 + 3 * 2 and page.source.count("40 steps left out") == 1
    assert [a["data-step"] for a in page.of("li") if "data-step" in a][38:43] == ["39", "40", "81", "82", "83"]
    assert "3000 more characters" in page.text and "3 more are in the folder episodes/" in page.text
    assert page.source.count("y" * 2001) == 0


@pytest.mark.parametrize(
    ("lacking", "says"),
    [
        (["summary.json"], "No policy has been evaluated on whole episodes"),
        (["metrics.jsonl"], "0 of 4 iterations have been logged"),
        (["episodes"], "No episodes from after RL were saved"),
        (["config.json"], "There is no config.json"),
        (["summary.json", "metrics.jsonl", "episodes", "config.json"], "A run that has logged nothing yet"),
    ],
)
def test_a_run_that_lacks_something_says_so(whole, tmp_path, lacking, says):
    page = Page(write_report(without(whole, tmp_path, *lacking)))
    assert says in page.text


def test_an_interrupted_run_is_told_as_such(tmp_path):
    run = tmp_path / "run"
    write_run(run, iterations=3)
    seen = {policy: SUMMARY["success_rate"]["family/seen"][policy] for policy in ("random", "before", "expert")}
    write_summary(run, {"success_rate": {"family/seen": seen}, "interrupted": True, "iterations": 3})
    page = Page(write_report(run))
    assert "Success on family/seen was 31 % [26, 37] before RL; it has not been measured after it" in page.text
    for sentence in (
        "The run was interrupted",
        "3 of 4 iterations have been logged.",
        "The evaluation on family/seen is not complete: no model after RL.",
        "No episodes from before RL were saved.",
    ):
        assert sentence in page.text
    assert "Wall clock 6.0 s so far" in page.text and page.of("script") == []


def test_without_a_summary_the_headline_names_world_and_progress(whole, tmp_path):
    page = Page(write_report(without(whole, tmp_path, "summary.json")))
    assert "An unfinished run on family/seen: 4 of 4 iterations, not evaluated yet" in page.text


def test_a_run_that_was_to_have_no_evaluation_is_not_called_unfinished(whole, tmp_path):
    run = without(whole, tmp_path, "summary.json", "episodes/before.npz", "episodes/after.npz")
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(config | {"evaluation": {"episodes": 0}}))
    page = Page(write_report(run))
    assert "A run on family/seen without evaluation: 4 of 4 iterations" in page.text
    assert "started without evaluation" in page.text
    for wrong in ("unfinished", "No episodes from", "No policy has been evaluated"):
        assert wrong not in page.text


def test_no_gain_is_not_sold_as_one(whole, tmp_path):
    run = without(whole, tmp_path, "summary.json")
    rates = {"family/seen": {"before": [0.31, 0.26, 0.37], "after": [0.36, 0.3, 0.42]}}
    write_summary(run, {"success_rate": rates})
    page = Page(write_report(run))
    assert "No clear change: success on family/seen went from 31 % [26, 37] to 36 % [30, 42]" in page.text
    assert "rose" not in page.text and "this may be luck" in page.text


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", b"{"),
        ("config.json", b"[]"),
        ("summary.json", b"\xff"),
        ("summary.json", b'{"success_rate": {"w": 3}}'),
        (
            "summary.json",
            b'{"success_rate": {"w": {"after": [1]}}, "seconds": [], "versions": 3, "worlds": {"a": 1}}',
        ),
        ("metrics.jsonl", b"{}\n{}\n"),
        ("episodes/after.npz", b"PK"),
    ],
)
def test_a_broken_file_costs_its_section_and_is_named(whole, tmp_path, name, content):
    run = without(whole, tmp_path)
    (run / name).write_bytes(content)
    page = Page(write_report(run))
    assert "Files that could not be read" in page.text and f"{name}: " in page.text
    assert "Run it again" in page.text


def test_numbers_of_another_kind_do_not_stop_the_report(whole, tmp_path):
    run = without(whole, tmp_path)
    odd = {
        "env_steps": "many",
        "seconds": {"total": None, "update": "x", "rollout": 0},
        "episodes": [],
        "worlds": [],
    }
    write_summary(run, {**odd, "parse_failure_rate": 3, "success_rate": {"w": {}}})
    assert "has not been measured yet" in Page(write_report(run)).text


def test_a_folder_that_is_not_there_or_a_full_disk_is_one_message(whole, tmp_path, monkeypatch):
    with pytest.raises(RunFileError, match=r"cannot read .*nowhere: there is no such run folder"):
        write_report(tmp_path / "nowhere")
    run = without(whole, tmp_path)
    write_report(run)
    before = (run / "report.html").read_bytes()
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(RunFileError, match=r"cannot write .*report\.html: No space left on device"):
        write_report(run)
    assert (run / "report.html").read_bytes() == before


def test_the_same_files_give_the_same_report(whole, page):
    assert write_report(whole).read_text(encoding="utf-8") == page.source
