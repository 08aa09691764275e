"""Samples on disk: none is lost, none is there twice, and what a model wrote comes back as it was."""

from __future__ import annotations

import json
import math
import os

import numpy as np
import pytest
from PIL import Image

from tests.scripted import ScriptedBenchmark, sample
from vldac.evaluate.benchmark import Sample
from vldac.evaluate.samples import SampleLog, digest, read_samples
from vldac.generate.request import Message, Reply, Video
from vldac.metrics import RunFileError

EVIL = "</script><script>alert(1)</script> \u2028 \x1b[31m \ud800 '\"&"


def test_a_sample_comes_back_as_it_was(tmp_path):
    films = np.random.default_rng(0).integers(0, 256, (2, 20, 30, 3), np.uint8)
    page = np.zeros((2000, 1500, 3), np.uint8)
    messages = (Message("system", ("be brief",)), Message("user", (Video(films, 2.0), EVIL, page)))
    before = Sample("a/1", "a", messages, EVIL, None, [1, "b"], {"x": 0.5, "y": math.nan}, "cut")
    with SampleLog(tmp_path) as log:
        log.add(before, asked="d", reply=Reply(EVIL, "length", 7, 3))
    record = read_samples(tmp_path)["a/1"]
    assert record.answer == EVIL and record.truth == [1, "b"] and record.extracted is None
    assert record.score == 0.5 and math.isnan(record.scores["y"])
    assert record.reply == {"finish_reason": "length", "prompt_tokens": 7, "answer_tokens": 3}
    after = record.sample()
    assert [turn.text for turn in after.messages] == ["be brief", EVIL] and after.notes == "cut"
    video, text, picture = record.messages[1]["parts"]
    assert text == EVIL and video["fps"] == 2.0
    for name, frame in zip(video["video"], films, strict=True):
        with Image.open(tmp_path / "pictures" / name) as image:
            np.testing.assert_array_equal(np.asarray(image.convert("RGB")), frame)  # small ones keep every pixel
    with Image.open(tmp_path / "pictures" / picture["picture"]) as image:
        assert image.size == (960, 1280)  # large ones are scaled down


def test_frames_of_a_video_are_kept_once(tmp_path):
    film = Video(np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), np.uint8))
    with SampleLog(tmp_path) as log:
        for number in range(4):
            log.add(Sample(str(number), "a", (Message("user", (film, "?")),), "", None, "", {"x": 0.0}))
    assert len(list((tmp_path / "pictures").iterdir())) == 3


def test_a_half_written_last_line_is_dropped_and_nothing_else(tmp_path):
    with SampleLog(tmp_path) as log:
        for number in range(3):
            log.add(sample(str(number), "a", 1.0))
    path = tmp_path / "samples.jsonl"
    whole = path.read_bytes()
    last = whole.rindex(b"\n", 0, -1) + 1
    for cut in (last, last + 1, (last + len(whole)) // 2, len(whole) - 1):
        path.write_bytes(whole[:cut])
        assert list(read_samples(tmp_path)) == ["0", "1"]
        with SampleLog(tmp_path) as log:
            assert list(log.records) == ["0", "1"]
            log.add(sample("2", "a", 1.0))
        assert path.read_bytes() == whole


def test_a_damaged_line_is_an_error_that_names_it(tmp_path):
    path = tmp_path / "samples.jsonl"
    with SampleLog(tmp_path) as log:
        log.add(sample("0", "a", 1.0))
        log.add(sample("1", "a", 1.0))
    lines = path.read_bytes().splitlines()
    changed = (
        {"answer": 3},
        {"extracted": 3},
        {"reply": []},
        {"scores": {"a": "much"}},
        {"scores": {"a": []}},
        {"messages": 3},
        {"messages": ["Which?"]},
        {"messages": [{"role": "user"}]},
        {"messages": [{"role": "user", "parts": [3]}]},
        {"messages": [{"role": "user", "parts": [{"video": "a.webp"}]}]},
        {"messages": [{"role": "user", "parts": [{"picture": "../a.webp"}]}]},
        {"messages": [{"role": "user", "parts": [{"video": ["a.webp", ".."], "fps": 1.0}]}]},
    )
    changed = [json.dumps(json.loads(lines[0]) | change).encode() for change in changed]
    for damaged in (b"{]", b"3", b"{}", lines[1].replace(b'"answer"', b'"anwser"'), b"[" * 100_000, *changed):
        path.write_bytes(damaged + b"\n" + lines[1] + b"\n")
        with pytest.raises(RunFileError, match="line 1 is damaged"):
            SampleLog(tmp_path)
        assert path.read_bytes().startswith(damaged), "what can not be read is not overwritten"
    path.write_bytes(lines[0] + b"\n" + lines[0] + b"\n")
    with pytest.raises(RunFileError, match="line 2: '0' is there twice"):
        read_samples(tmp_path)
    with pytest.raises(RunFileError, match=r"cannot read .*samples\.jsonl"):
        read_samples(tmp_path / "nowhere")


def test_an_id_is_saved_once(tmp_path):
    with SampleLog(tmp_path) as log:
        log.add(sample("0", "a", 1.0))
        with pytest.raises(ValueError, match="id is '0', which is saved already"):
            log.add(sample("0", "a", 0.0))


def test_one_evaluation_at_a_time_writes_to_a_folder(tmp_path):
    with SampleLog(tmp_path), pytest.raises(RunFileError, match="another evaluation is writing to it"):
        SampleLog(tmp_path)
    SampleLog(tmp_path).close()  # free again


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_is_one_clear_line(tmp_path):
    (tmp_path / "samples.jsonl").write_bytes(b"")
    with SampleLog(tmp_path) as log:
        log.add(sample("0", "a", 1.0))
        real, log._file = log._file, open("/dev/full", "wb", buffering=0)  # noqa: SIM115
        with pytest.raises(RunFileError, match=r"cannot write .*samples\.jsonl: No space left"):
            log.add(sample("1", "a", 1.0))
        log._file.close()
        log._file = real
        assert list(log.records) == ["0"]
    assert list(read_samples(tmp_path)) == ["0"]


def test_what_the_official_scorer_leaves_out_has_no_score(tmp_path):
    with SampleLog(tmp_path) as log:
        assert math.isnan(log.add(sample("1", "a", math.nan)).score)
    assert json.loads((tmp_path / "samples.jsonl").read_text())["scores"] == {"official": None}
    assert math.isnan(read_samples(tmp_path)["1"].score)


def test_a_digest_tells_questions_apart():
    one, other = (next(ScriptedBenchmark(words=words).questions()) for words in ("Which?", "What?"))
    again = next(ScriptedBenchmark(words="Which?").questions())
    assert digest(one) == digest(again) != digest(other)
