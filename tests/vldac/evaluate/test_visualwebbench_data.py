"""VisualWebBench from miniature parquet files as published: what is asked and seen, how damage is told of."""

from __future__ import annotations

import hashlib
import io
import math
import os
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vldac.evaluate import tables
from vldac.evaluate.benchmark import BenchmarkError, Question
from vldac.evaluate.samples import digest
from vldac.evaluate.visualwebbench import CHOICE, PROTOCOLS, TASKS, TEXT, VisualWebBench, score
from vldac.evaluate.visualwebbench.data import decode
from vldac.evaluate.visualwebbench.prompts import prompt
from vldac.generate.request import Message, Reply, Request, images_of

pa = pytest.importorskip("pyarrow", reason="pyarrow is in the test extra")
pq = pytest.importorskip("pyarrow.parquet")

COLUMNS = {
    "element_ocr": {"bbox": [0.1, 0.25, 0.3, 0.5], "elem_desc": "Sign in"},
    "webqa": {"question": "What is {sold}?"},
    "element_ground": {"elem_desc": "the basket", "options": [[0.1, 0.2, 0.3, 0.4]]},
    "action_prediction": {
        "bbox": [0.1, 0.2, 0.3, 0.4],
        "options": ["A shop's page", 'a "form"'],
        "elem_desc": "x",
    },
    "action_ground": {"instruction": "Buy it", "options": [[0.1, 0.2, 0.3, 0.4]]},
}
TRUTH = dict.fromkeys(TEXT, "Sign in now") | dict.fromkeys(CHOICE, 1) | {"webqa": ["red shoes", "shoes"]}


def encode(pixels: np.ndarray | Image.Image, form: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(buffer, form, **options)
    return buffer.getvalue()


def plain(value: int) -> np.ndarray:
    return np.full((8, 12, 3), value, np.uint8)


def row(task: str, number: int, **changes) -> dict:
    made = {
        "id": f"{task}_{number + 1}",
        "task_type": task,
        "website": "shop.example",
        "image": {"bytes": encode(plain(number)), "path": f"{number}.png"},
        "image_size": [12, 8],
        "answer": TRUTH[task],
    } | COLUMNS.get(task, {})
    if task in ("element_ground", "action_ground"):
        made["raw_image"] = {"bytes": encode(plain(200)), "path": "raw.png"}
    return made | changes


def write(root: Path, task: str, rows: list[dict], shard: str = "00000-of-00001", **options) -> Path:
    (root / task).mkdir(parents=True, exist_ok=True)
    path = root / task / f"test-{shard}.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path, **({"row_group_size": 2} | options))
    return path


@pytest.fixture
def root(tmp_path) -> Path:
    """Five questions a task, in row groups of two, those of webqa in two files."""
    for task in TASKS:
        rows = [row(task, number) for number in range(5)]
        if task == "webqa":
            write(tmp_path, task, rows[:3], "00000-of-00002")
            write(tmp_path, task, rows[3:], "00001-of-00002")
        else:
            write(tmp_path, task, rows)
    return tmp_path


def say(text: str, finish_reason: str = "stop") -> Reply:
    return Reply(text, finish_reason, 10, 3)


def parts(question: Question) -> tuple:
    (message,) = question.request.messages
    assert message.role == "user"
    return message.parts


def test_no_screenshot_is_read_for_questions_that_are_saved(root, monkeypatch):
    benchmark = VisualWebBench(root, tasks=["webqa"])
    whole = list(benchmark.questions())
    table, read = benchmark._tables["webqa"], []
    image = table.image
    monkeypatch.setattr(table, "image", lambda index: read.append(index) or image(index))
    again = list(benchmark.questions([one.id for one in whole[1:]]))
    assert read == [0] and [digest(one) for one in again] == [digest(one) for one in whole]
    assert [len(images_of(one.request.messages)) for one in again] == [1, 0, 0, 0, 0]


def test_each_task_is_asked_in_the_files_order_with_its_own_screenshot(root):
    benchmark = VisualWebBench(root)
    questions = list(benchmark.questions())
    assert len(benchmark) == 35 and not benchmark.partial
    assert [one.id for one in questions[:6]] == [*(f"web_caption/000{i}" for i in range(5)), "heading_ocr/0000"]
    assert len({one.id for one in questions}) == 35
    for i, one in enumerate(questions):
        image, text = parts(one)
        assert np.array_equal(image, plain(i % 5))  # never raw_image
        assert text == prompt(one.task, row(one.task, 0))
        assert one.truth == TRUTH[one.task]
        assert one.data["id"] == f"{one.task}_{i % 5 + 1}"
        assert (one.request.max_tokens, one.request.temperature) == (512, 0)
    assert "web_caption holds 5 questions, published are 134" in benchmark.notes[0]


def test_prompts_are_upstreams_to_the_letter():
    # The beginnings of SHA-256 of upstream's utils/prompts.py, filled in with these values by run.py's rules.
    values = {
        "question": "Q {x}?",
        "bbox": [0.1, 0.2, 0.3, 0.45],
        "options": ["it's", "b"],
        "elem_desc": "E",
        "instruction": "I",
    }
    digests = {
        "web_caption": "61ea53c2bd1e6ad5",
        "heading_ocr": "5324e607601d51e8",
        "webqa": "c37a5b708d6b063d",
        "element_ocr": "489f73998b531990",
        "element_ground": "d5cd76040c4a464a",
        "action_prediction": "35c3643e62bc787f",
        "action_ground": "3a74386df02200a8",
    }
    got = {task: hashlib.sha256(prompt(task, values).encode()).hexdigest()[:16] for task in TASKS}
    assert got == digests
    # Lists stand there as Python writes them, and what is in braces in a question stays.
    assert "bounding box is [0.1, 0.2, 0.3, 0.45].\n" in prompt("element_ocr", values)
    assert "bounding box:\n[\"it's\", 'b']\n\nYou" in prompt("action_prediction", values)
    assert prompt("webqa", values).startswith("Q {x}?\nYou should")


def test_no_program_is_started_for_an_image(tmp_path, monkeypatch):
    """Pillow hands Encapsulated PostScript to Ghostscript, whatever the column says that it holds."""
    ghostscript = tmp_path / "gs"
    ghostscript.write_text(f"#!/bin/sh\ntouch '{tmp_path}/started'\n")
    ghostscript.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    script = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n%%EOF\n"
    with pytest.raises(BenchmarkError, match="x row 0: image is damaged"):
        decode(script, "x row 0")
    assert not (tmp_path / "started").exists()


def rotated() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera lay on its side
    return encode(np.arange(96, dtype=np.uint8).reshape(8, 12), "PNG", exif=exif)


def palette() -> Image.Image:
    image = Image.new("P", (12, 8), 1)
    image.putpalette([9, 8, 7, 10, 20, 30])
    return image


@pytest.mark.parametrize(
    ("data", "want"),
    [
        (
            encode(Image.new("RGBA", (12, 8), (10, 20, 30, 0))),
            [10, 20, 30],
        ),  # what is see-through keeps its colour
        (encode(palette()), [10, 20, 30]),
        (encode(Image.new("L", (12, 8), 77)), [77, 77, 77]),
        (encode(Image.new("CMYK", (12, 8), (0, 0, 0, 0)), "JPEG"), [255, 255, 255]),
        (encode(Image.new("1", (12, 8), 1)), [255, 255, 255]),
        (encode(np.full((8, 12), 258, np.uint16)), None),  # whatever Pillow makes of 16 bits, as upstream
    ],
)
def test_a_picture_of_any_kind_becomes_rgb(root, data, want):
    write(root, "webqa", [row("webqa", 0, image={"bytes": data, "path": None})], "00000-of-00002")
    image, _ = parts(next(VisualWebBench(root, tasks=["webqa"]).questions()))
    assert image.shape == (8, 12, 3) and image.dtype == np.uint8
    assert (image == (want or np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))).all()


def test_a_picture_is_turned_upright(root):
    write(root, "webqa", [row("webqa", 0, image={"bytes": rotated(), "path": None})], "00000-of-00002")
    image, _ = parts(next(VisualWebBench(root, tasks=["webqa"]).questions()))
    assert image.shape == (12, 8, 3)
    assert np.array_equal(image[..., 0], np.rot90(np.arange(96, dtype=np.uint8).reshape(8, 12), -1))


def test_a_proof_asks_the_first_of_each_task(root):
    benchmark = VisualWebBench(root, tasks=("webqa", "heading_ocr"), limit=4)
    ids = [one.id for one in benchmark.questions()]
    assert ids == [f"{task}/000{i}" for task in ("heading_ocr", "webqa") for i in range(4)]
    assert benchmark.partial and len(benchmark) == 8
    assert VisualWebBench(root, tasks=("webqa",)).partial


def test_tasks_that_are_not_asked_need_not_be_there(tmp_path):
    write(tmp_path, "webqa", [row("webqa", 0)])
    assert [one.task for one in VisualWebBench(tmp_path, tasks=["webqa"]).questions()] == ["webqa"]


def test_screenshots_are_read_a_row_group_at_a_time(root, monkeypatch):
    benchmark = VisualWebBench(root, tasks=["web_caption"])
    opened, read = [], pq.ParquetFile.read_row_group

    def spy(file, group, **options):
        opened.append((group, *options["columns"]))
        return read(file, group, **options)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", spy)
    questions = benchmark.questions()
    assert opened == []
    next(questions)
    assert opened == [(0, "image.bytes")]
    assert len(list(questions)) == 4
    assert opened == [(group, "image.bytes") for group in range(3)]


def judged(root, task, text, **options):
    benchmark = VisualWebBench(root, tasks=[task], limit=1, **options)
    return benchmark.judge(next(benchmark.questions()), say(text))


def test_an_answer_is_judged_as_the_official_code_would(root):
    sample = judged(root, "web_caption", '\n<meta name="description" content="Sign in">\n')
    assert sample.extracted == "Sign in"
    assert list(sample.scores)[:3] == ["rouge_l", "rouge_1", "rouge_2"]
    alone = score("web_caption", ["Sign in"], ["Sign in now"])
    assert {name: sample.scores[name] for name in alone} == alone
    assert sample.scores["unprocessed/rouge_l"] < sample.scores["rouge_l"]  # what post-processing is worth
    assert "qwen_vl/rouge_l" not in sample.scores  # the same as the one that counts
    assert judged(root, "element_ground", "The answer is B.").extracted == "B"
    assert judged(root, "element_ground", "b").scores == {"accuracy": 100}
    assert judged(root, "element_ground", "the second").extracted is None
    assert judged(root, "webqa", "shoes").scores["f1"] > 99.99


def test_protocols_differ_in_what_counts_and_in_length(root):
    text = "b) the form"
    assert judged(root, "action_prediction", text).scores == {"accuracy": 0, "qwen_vl/accuracy": 100}
    sample = judged(root, "action_prediction", text, protocol="qwen_vl")
    assert sample.scores == {"accuracy": 100, "openai/accuracy": 0, "unprocessed/accuracy": 0}
    assert next(iter(sample.scores)) == "accuracy" and sample.extracted == "B"
    sample = judged(root, "element_ocr", "It says: Sign in now", protocol="lmms_eval")
    assert sample.extracted == "It says: Sign in now"
    assert sample.scores["openai/rouge_l"] > 99 > sample.scores["rouge_l"]
    tokens = {
        name: next(VisualWebBench(root, tasks=["webqa"], protocol=name).questions()).request.max_tokens
        for name in PROTOCOLS
    }
    assert tokens == {"openai": 512, "qwen_vl": 512, "lmms_eval": 16}


def test_what_a_reader_should_know_is_noted(root):
    benchmark = VisualWebBench(root, tasks=["webqa"])
    question = next(benchmark.questions())
    assert benchmark.judge(question, say("shoes")).notes == ""
    assert benchmark.judge(question, say("boots")).notes == ""
    assert benchmark.judge(question, say("so", "length")).notes == "cut off after 3 tokens"
    assert "left out of the official mean" in benchmark.judge(question, say("...")).notes
    assert math.isnan(benchmark.judge(question, say("...")).scores["f1"])
    assert benchmark.judge(question, say("boots")).scores["f1"] == 0
    assert benchmark.judge(question, say("")).notes == ""  # an empty answer counts, as wrong


@given(text=st.text(), task=st.sampled_from(TASKS), protocol=st.sampled_from(list(PROTOCOLS)))
@settings(max_examples=100)
def test_no_answer_is_too_odd_to_judge(text, task, protocol):
    benchmark = VisualWebBench.__new__(VisualWebBench)  # no file is needed to judge
    benchmark._adapter = {"lmms_eval": "none"}.get(protocol, protocol)
    question = Question("1", task, Request((Message("user", ("?",)),)), TRUTH[task])
    scores = benchmark.judge(question, say(text)).scores
    assert next(iter(scores)) == ("rouge_l" if task in TEXT else "f1" if task == "webqa" else "accuracy")
    assert all(0 <= value <= 100 or (task == "webqa" and math.isnan(value)) for value in scores.values())


ANSWERS = {
    "web_caption": ('<meta name="description" content="Sign in">', "Sign"),
    "heading_ocr": ("Sign in now", "now"),
    "element_ocr": ("Text: Sign", "7"),
    "webqa": ("...", "red boots"),
    "element_ground": ("B", "A"),
    "action_prediction": ("b) it", "B"),
    "action_ground": ("(B)", "C"),
}


def answer_all(benchmark):
    """The two answers of a task in turn, so that its five questions are answered differently."""
    return [benchmark.judge(one, say(ANSWERS[one.task][int(one.id[-1]) % 2])) for one in benchmark.questions()]


def test_the_summary_is_the_official_one_over_all_questions(root):
    benchmark = VisualWebBench(root)
    got = benchmark.summary(answer_all(benchmark))
    for adapter, prefix in (("openai", ""), ("qwen_vl", "qwen_vl/"), ("none", "unprocessed/")):
        counted = []
        for task in TASKS:
            responses = [ANSWERS[task][i % 2] for i in range(5)]
            want = score(task, responses, [TRUTH[task]] * 5, adapter)
            assert {f"{prefix}{task}_{name}": value for name, value in want.items()}.items() <= got.items()
            counted.append(want.get("rouge_l", want.get("f1", want.get("accuracy"))))
        assert got[f"{prefix}overall"] == pytest.approx(sum(counted) / 7)
    assert list(got)[:2] == ["web_caption_rouge_l", "web_caption_rouge_1"]
    # Three of five answers to webqa have no sentence: the mean is that of the other two.
    assert got["webqa_f1"] == score("webqa", ["red boots"], [TRUTH["webqa"]])["f1"] > 0


def test_a_part_is_never_called_the_whole(root):
    benchmark = VisualWebBench(root)
    samples = answer_all(benchmark)
    assert benchmark.summary([]) == {}
    got = benchmark.summary(samples[1:])
    assert "overall" not in got and "overall (partial)" in got
    assert "web_caption_rouge_l (partial)" in got and "web_caption_rouge_l" not in got
    assert "webqa_f1" in got
    few = VisualWebBench(root, tasks=["webqa"])
    got = few.summary(answer_all(few))
    assert "webqa_f1" in got and "overall" not in got and got["overall (partial)"] == got["webqa_f1"]
    few = VisualWebBench(root, limit=2)
    assert "overall" not in few.summary(answer_all(few))


def error(root, **options) -> str:
    with pytest.raises(BenchmarkError) as caught:
        VisualWebBench(root, **options)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def test_a_folder_that_is_not_there_is_named(root):
    assert error(root / "none").startswith(f"{root}/none: the folder is not there")
    (root / "element_ocr/test-00000-of-00001.parquet").unlink()
    assert error(root).startswith(f"{root}/element_ocr: no test-*.parquet; download the folder element_ocr from")
    write(root, "element_ocr", [row("element_ocr", 0)])
    path = root / "element_ocr/test-00000-of-00001.parquet"
    pq.write_table(pq.read_table(path).slice(0, 0), path)
    assert "element_ocr: no question in test-00000-of-00001.parquet" in error(root)


@pytest.mark.parametrize(
    ("task", "column"),
    [("web_caption", "image"), ("webqa", "question"), ("action_prediction", "options"), ("heading_ocr", "answer")],
)
def test_a_column_that_is_missing_is_named(root, task, column):
    whole = row(task, 0)
    del whole[column]
    shard = "00000-of-00002" if task == "webqa" else "00000-of-00001"
    path = write(root, task, [whole], shard)
    assert f"{path}: no column {column} among id, task_type" in error(root)


def test_pictures_that_are_not_in_the_file_are_told_of(root):
    path = write(root, "web_caption", [row("web_caption", 0, image={"path": "0.png"})])
    assert error(root) == f"{path}: column image holds no bytes; download the benchmark's own file"
    write(root, "web_caption", [row("web_caption", 0, image="0.png")])
    assert "column image holds no bytes" in error(root)


@pytest.mark.parametrize(
    ("task", "changes", "says"),
    [
        ("web_caption", {"answer": "..."}, "answer is '...'; accepted: a text that is not empty or of"),
        ("web_caption", {"answer": None}, "answer is None; accepted: a text"),
        ("webqa", {"question": None}, "question is None; accepted: a text"),
        ("webqa", {"answer": None}, "answer is None; accepted: a list of texts"),
        ("element_ocr", {"bbox": [0.1, 0.2]}, "bbox is [0.1, 0.2]; accepted: four numbers"),
        ("heading_ocr", {"answer": ""}, "answer is ''; accepted: a text that is not empty"),
        ("element_ground", {"elem_desc": None}, "elem_desc is None; accepted: a text"),
        ("action_prediction", {"options": None}, "options is None; accepted: a list of texts"),
        ("action_ground", {"answer": None}, "answer is None; accepted: the index of an option"),
        ("action_ground", {"answer": -1}, "answer is -1"),
    ],
)
def test_a_row_that_can_not_be_asked_is_named(root, task, changes, says):
    shard = "00000-of-00002" if task == "webqa" else "00000-of-00001"
    path = write(root, task, [row(task, 0), row(task, 1), row(task, 2, **changes)], shard)
    assert f"{path} row 2: {says}" in error(root)


def test_what_is_merely_odd_is_asked_as_by_the_official_code(root):
    write(root, "element_ground", [row("element_ground", 0, elem_desc="")])
    write(root, "webqa", [row("webqa", 0, question="", answer=[""])], "00000-of-00002")
    benchmark = VisualWebBench(root, tasks=["element_ground", "webqa"])
    questions = list(benchmark.questions())
    assert questions[0].task == "webqa" and parts(questions[0])[1].startswith("\nYou should")
    assert math.isnan(benchmark.judge(questions[0], say("a")).scores["f1"])  # nothing to compare with
    assert "matches the description: \n" in parts(questions[-1])[1]


def test_a_file_that_is_damaged_is_named_before_a_question_is_asked(root):
    path = root / "web_caption/test-00000-of-00001.parquet"
    whole = path.read_bytes()
    for data in (whole[: len(whole) // 2], whole[:4] + bytes(len(whole) - 12) + whole[-8:], b"<html>"):
        path.write_bytes(data)
        assert error(root).startswith(f"{path}: damaged (")
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    assert "a Git LFS pointer" in error(root)


@pytest.mark.parametrize("image", [None, {"bytes": None, "path": "3.png"}])
def test_a_picture_that_is_null_is_named_before_a_question_is_asked(root, image):
    rows = [row("web_caption", number) for number in range(5)]
    rows[3]["image"] = image
    path = write(root, "web_caption", rows)
    assert error(root) == f"{path} row 3: image is null; download the file again"
    # A file that does not count what is null: told of when it is reached.
    write(root, "web_caption", rows, write_statistics=False)
    asked = ask_all(VisualWebBench(root, tasks=["web_caption"]))
    assert [isinstance(one, BenchmarkError) for one in asked] == [False, False, False, True, False]
    assert str(asked[3]) == f"{path} row 3: image is null; download the file again"


def ask_all(benchmark):
    """Each question, or the error in its place."""
    asked, questions = [], benchmark.questions()
    while True:
        try:
            asked.append(next(questions))
        except StopIteration:
            return asked
        except BenchmarkError as error:
            asked.append(error)


@pytest.mark.parametrize(
    "data", [encode(plain(1))[:-30], encode(plain(1))[:20], b"no picture", encode(plain(1), "JPEG")[:100]]
)
def test_a_picture_that_is_damaged_is_told_of_when_it_is_reached_and_the_others_go_on(root, data):
    rows = [row("web_caption", number) for number in range(5)]
    rows[1]["image"] = {"bytes": data, "path": None}
    path = write(root, "web_caption", rows)
    asked = ask_all(VisualWebBench(root, tasks=["web_caption"]))
    assert [isinstance(one, BenchmarkError) for one in asked] == [False, True, False, False, False]
    assert str(asked[1]).startswith(f"{path} row 1: image is damaged (")
    assert len(str(asked[1]).splitlines()) == 1


def changed(data: bytes, rng: random.Random) -> bytes:
    """Some bytes changed, lost or added."""
    at, length = rng.randrange(len(data)), rng.choice([1, 7, 100])
    new = rng.choice([b"", bytes(length), rng.randbytes(length), rng.randbytes(1)])
    return rng.choice([data[:at] + new, data[:at] + new + data[at + length :], data[:at] + new + data[at:]])


def test_whatever_bytes_change_there_are_questions_or_one_line_that_names_the_file(tmp_path):
    path, rng, told = write(tmp_path, "webqa", [row("webqa", number) for number in range(4)]), random.Random(0), 0
    whole = path.read_bytes()
    for _ in range(100):
        path.write_bytes(changed(whole, rng))
        try:
            answers = ask_all(VisualWebBench(tmp_path, tasks=["webqa"]))
        except BenchmarkError as error:
            answers = [error]
        errors = [str(one) for one in answers if isinstance(one, BenchmarkError)]
        assert all(len(one.splitlines()) == 1 and str(path) in one for one in errors)
        told += bool(errors)
    assert told > 50


def test_a_row_group_that_is_damaged_is_told_of_when_it_is_reached(root):
    path = root / "web_caption/test-00000-of-00001.parquet"
    with pq.ParquetFile(path) as file:
        names = [file.metadata.schema.column(i).path for i in range(file.metadata.num_columns)]
        column = file.metadata.row_group(1).column(names.index("image.bytes"))
    start = column.dictionary_page_offset or column.data_page_offset
    data = bytearray(path.read_bytes())
    data[start : start + column.total_compressed_size] = bytes([255]) * column.total_compressed_size
    path.write_bytes(data)
    asked = ask_all(VisualWebBench(root, tasks=["web_caption"]))
    assert [isinstance(one, BenchmarkError) for one in asked] == [False, False, True, True, False]
    assert str(asked[2]).startswith(f"{path}: damaged (row group 1: ")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"protocol": "gpt"}, "protocol is 'gpt'; accepted: openai, qwen_vl, lmms_eval"),
        ({"tasks": ["captions"]}, "tasks is captions; accepted: web_caption"),
        ({"limit": 0}, "limit is 0; accepted: 1 or more"),
    ],
)
def test_options_out_of_range_are_named(root, options, says):
    with pytest.raises(ValueError, match=says):
        VisualWebBench(root, **options)


def test_a_missing_package_is_named_with_its_extra(root, monkeypatch):
    def missing(name):
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(tables.importlib, "import_module", missing)
    assert "the package pyarrow is missing" in error(root) and "pip install 'vldac[benchmarks]'" in error(root)
