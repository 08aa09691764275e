"""VSI-Bench from miniature files as published: what is asked, which frames are seen, how damage is told of."""

from __future__ import annotations

import io
import json
import random
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vldac.evaluate import tables
from vldac.evaluate.benchmark import BenchmarkError, Question
from vldac.evaluate.samples import digest
from vldac.evaluate.vsi_bench import CHOICE, NUMBER, VSIBench, aggregate
from vldac.evaluate.vsi_bench.video import two_a_second, uniform
from vldac.generate.request import Message, Reply, Request, Video, images_of

av = pytest.importorskip("av", reason="av is in the test extra")
pa = pytest.importorskip("pyarrow", reason="pyarrow is in the test extra")
pq = pytest.importorskip("pyarrow.parquet")

BITS = 8


def picture(number: int) -> np.ndarray:
    """A frame that shows its number as black and white stripes, which survive compression."""
    stripes = [255 * (number >> bit & 1) for bit in range(BITS)]
    return np.broadcast_to(np.repeat(stripes, 16)[None, :, None], (32, 16 * BITS, 3)).astype(np.uint8)


def number(frame: np.ndarray) -> int:
    stripes = frame.reshape(32, BITS, 16, 3).mean((0, 2, 3)) > 127
    return int((stripes << np.arange(BITS)).sum())


def mp4(frames: int, codec: str = "libx264", first: int = 0, into: Path | None = None, **options: str) -> bytes:
    """A video of so many numbered frames, 10 a second, with frames that refer to later ones."""
    buffer = io.BytesIO()
    with av.open(into or buffer, "w", format="mp4", options=options) as container:
        stream = container.add_stream(codec, rate=10)
        stream.width, stream.height, stream.pix_fmt = 16 * BITS, 32, "yuv420p"
        for i in range(frames):
            frame = av.VideoFrame.from_ndarray(picture(first + i), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return into.read_bytes() if into else buffer.getvalue()


@pytest.fixture(scope="module")
def videos() -> dict[str, bytes]:
    return {
        "arkitscenes/41069025": mp4(100),
        "scannet/scene0011_00": mp4(20, codec="mpeg4", first=100),
        "scannetpp/0a7cc12c0e": mp4(40, first=150),
    }


def row(number: int, kind: str, video: str, truth: str, **changes) -> dict:
    dataset, scene = video.split("/")
    options = ["A. left", "B. right", "C. back"] if kind in CHOICE else None
    return {
        "id": number,
        "dataset": dataset,
        "scene_name": scene,
        "question_type": kind,
        "question": f"Question {number}?",
        "ground_truth": truth,
        "options": options,
        "pruned": number % 2 == 0,
    } | changes


@pytest.fixture
def rows(videos) -> list[dict]:
    """Two questions of each type, of different videos, their ids out of order."""
    names = list(videos)
    made = []
    for i, kind in enumerate(CHOICE + NUMBER):
        truth = "B" if kind in CHOICE else "4"
        made += [row(i, kind, names[i % 3], truth), row(100 - i, kind, names[(i + 1) % 3], truth)]
    return made[::-1]


def write_lines(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_parquet(path: Path, rows: list[dict]) -> None:
    pq.write_table(pa.Table.from_pylist(rows), path)


def write_videos(root: Path, videos: dict[str, bytes], how: str = "folder") -> None:
    for name, data in videos.items():
        dataset = name.split("/")[0]
        if how == "folder":
            (root / dataset).mkdir(exist_ok=True)
            (root / f"{name}.mp4").write_bytes(data)
        else:
            method = zipfile.ZIP_DEFLATED if how == "deflated" else zipfile.ZIP_STORED
            inside = name.split("/")[1] if how == "flat" else name
            with zipfile.ZipFile(root / f"{dataset}.zip", "a", method) as archive:
                archive.writestr(f"{inside}.mp4", data)


@pytest.fixture
def root(tmp_path, rows, videos) -> Path:
    write_lines(tmp_path / "test.jsonl", rows)
    write_videos(tmp_path, videos)
    return tmp_path


def say(text: str, finish_reason: str = "stop") -> Reply:
    return Reply(text, finish_reason, 10, 3)


def seen(question) -> list[int]:
    return [number(frame) for frame in question.request.messages[0].parts[0].frames]


@given(st.integers(1, 9000), st.integers(1, 64))
@settings(max_examples=200)
def test_frames_are_spread_from_the_first_to_the_last(frames, count):
    got = uniform(frames, count).tolist()
    if frames <= count:
        assert got == list(range(frames))
    else:
        step = (frames - 1) / max(count - 1, 1)
        assert got == [int(i * step) for i in range(count - 1)] + [frames - 1] * (count > 1) or got == [0]
        assert len(got) == count


@given(st.integers(2, 9000), st.sampled_from([10.0, 24.0, 29.97, 30.0, 60.0]), st.integers(1, 64))
@settings(max_examples=200)
def test_two_a_second_is_what_qwen_vl_utils_and_lmms_eval_choose(frames, fps, count):
    torch = pytest.importorskip("torch")
    wanted = frames / fps * 2.0
    wanted = min(min(max(wanted, 4), frames - frames % 2, 768), frames)
    wanted = int(wanted) - int(wanted) % 2
    first = torch.linspace(0, frames - 1, wanted).round().long().tolist()
    then = sorted({int(i) for i in np.linspace(0, wanted - 1, count)})
    assert two_a_second(frames, fps, count).tolist() == [first[i] for i in then]


def test_sampling_by_hand():
    assert uniform(100, 5).tolist() == [0, 24, 49, 74, 99]
    assert uniform(3, 5).tolist() == [0, 1, 2]
    # 10 s of 10 frames: 20 of them first, 0, 5.2, 10.4, ... 99, of which 0, 4, 9, 14 and 19 remain.
    assert two_a_second(100, 10.0, 5).tolist() == [0, 21, 47, 73, 99]
    assert two_a_second(1, 10.0, 5).tolist() == [0]
    assert two_a_second(100, 0.0, 5).tolist() == uniform(100, 5).tolist()  # a video that does not tell its rate


@pytest.mark.parametrize("how", ["folder", "stored", "deflated", "flat"])
@pytest.mark.parametrize("table", ["jsonl", "parquet"])
def test_the_same_is_asked_however_the_files_lie(tmp_path, rows, videos, how, table):
    if table == "jsonl":
        write_lines(tmp_path / "test.jsonl", rows)
    else:  # in two shards, and in another order, as the published files differ, too
        write_parquet(tmp_path / "test-00000-of-00002.parquet", rows[::-2])
        write_parquet(tmp_path / "test-00001-of-00002.parquet", rows[-2::-2])
    write_videos(tmp_path, videos, how)
    benchmark = VSIBench(tmp_path, frames=3)
    questions = list(benchmark.questions())
    assert len(questions) == len(benchmark) == 20 and not benchmark.partial
    assert [one.id for one in questions[:3]] == ["0", "3", "6"]
    assert {one.id for one in questions} == {str(row["id"]) for row in rows}
    for one in questions:
        dataset = one.data["dataset"]
        want = {"arkitscenes": [0, 49, 99], "scannet": [100, 109, 119], "scannetpp": [150, 169, 189]}[dataset]
        assert seen(one) == want
        assert one.truth == ("B" if one.task in CHOICE else "4")
    assert "20 questions of full, published are 5130" in benchmark.notes[0]


def test_a_scene_may_be_written_as_a_number(root, rows):
    write_lines(root / "test.jsonl", [one | {"scene_name": 41069025, "dataset": "arkitscenes"} for one in rows])
    assert next(VSIBench(root, frames=1).questions()).data["scene_name"] == "41069025"


def test_a_video_is_given_by_its_frames_before_the_words(root):
    question = next(VSIBench(root).questions())
    (message,) = question.request.messages
    video, text = message.parts
    assert message.role == "user" and isinstance(video, Video)
    assert video.frames.shape == (32, 32, 128, 3) and video.frames.dtype == np.uint8
    assert video.fps == pytest.approx(3.2)  # 32 of 100, which are 10 a second
    assert seen(question) == [int(i * 99 / 31) for i in range(32)]
    assert (question.request.max_tokens, question.request.temperature) == (16, 0)
    assert text == (
        "These are frames of a video.\nQuestion 0?\nOptions:\nA. left\nB. right\nC. back\n"
        "Answer with the option's letter from the given choices directly."
    )


def test_colours_keep_their_places(root):
    path = root / "arkitscenes/41069025.mp4"
    colours = np.array([[200, 30, 60], [20, 160, 90]], np.uint8)
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"crf": "1"})
        stream.width, stream.height, stream.pix_fmt = 64, 32, "yuv420p"
        for colour in colours:
            pixels = np.broadcast_to(colour, (32, 64, 3)).copy()
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
    video, _ = next(VSIBench(root).questions()).request.messages[0].parts
    assert np.abs(video.frames.mean((1, 2)) - colours).max() < 6


def test_numbers_are_asked_for_in_other_words(root):
    question = next(one for one in VSIBench(root, frames=1).questions() if one.task in NUMBER)
    assert question.request.messages[0].parts[1] == (
        f"These are frames of a video.\nQuestion {question.id}?\n"
        "Please answer the question using a single word or phrase."
    )


def test_all_frames_of_a_short_video_are_seen_once(root):
    short = [one for one in VSIBench(root).questions() if one.data["dataset"] == "scannet"]
    assert all(seen(one) == list(range(100, 120)) for one in short) and short


def test_frames_that_an_edit_list_hides_are_not_counted(root, videos):
    # Ten frames are shown before time 0, so to say: players skip them, and the header counts them.
    path = root / "arkitscenes/41069025.mp4"
    with (
        av.open(io.BytesIO(videos["arkitscenes/41069025"])) as old,
        av.open(path, "w", options={"avoid_negative_ts": "disabled"}) as new,
    ):
        source = old.streams.video[0]
        stream = new.add_stream_from_template(source)
        tenth = int(1 / (10 * source.time_base))
        for packet in old.demux(source):
            if packet.size:
                packet.pts, packet.dts, packet.stream = packet.pts - 10 * tenth, packet.dts - 10 * tenth, stream
                new.mux(packet)
    with av.open(path) as container:
        assert container.streams.video[0].frames == 100
    assert seen(next(VSIBench(root, frames=3).questions())) == [10, 54, 99]


def test_lmms_evals_sampling_may_be_asked_for(root):
    question = next(VSIBench(root, frames=5, sampling="two_a_second").questions())
    assert seen(question) == [0, 21, 47, 73, 99]


def test_each_video_is_decoded_once(root, monkeypatch):
    benchmark = VSIBench(root, frames=2)
    read, names = benchmark._videos.read, []
    monkeypatch.setattr(benchmark._videos, "read", lambda *name: names.append(name[:2]) or read(*name))
    frames = {id(one.request.messages[0].parts[0]) for one in list(benchmark.questions())}
    assert len(names) == len(set(names)) == len(frames) == 3


def test_a_video_whose_questions_are_saved_is_not_decoded_again(root, monkeypatch):
    """They come without it, and are known for the same ones all the same; a video of others is there for these."""
    whole = {one.id: one for one in VSIBench(root, frames=2).questions()}
    by_video = {}
    for one in whole.values():
        by_video.setdefault(one.data["dataset"], []).append(one.id)
    saved = {*by_video["arkitscenes"], *by_video["scannet"][1:]}
    benchmark = VSIBench(root, frames=2)
    read, names = benchmark._videos.read, []
    monkeypatch.setattr(benchmark._videos, "read", lambda *name: names.append(name[0]) or read(*name))
    questions = list(benchmark.questions(saved))
    assert names == ["scannet", "scannetpp"]
    assert [one.id for one in questions] == list(whole)
    for one in questions:
        assert len(images_of(one.request.messages)) == (0 if one.id in saved else 2)
        assert digest(one) == digest(whole[one.id])


def test_a_proof_asks_the_first_of_each_task_by_id(root, rows):
    benchmark = VSIBench(root, tasks=("route_planning", "object_counting"), limit=1, frames=1)
    asked = list(benchmark.questions())
    first = {kind: min(row["id"] for row in rows if row["question_type"] == kind) for kind in CHOICE + NUMBER}
    assert {one.task: one.id for one in asked} == {
        "route_planning": str(first["route_planning"]),
        "object_counting": str(first["object_counting"]),
    }
    assert len(benchmark) == 2 and benchmark.partial


def test_only_videos_that_will_be_asked_about_have_to_be_there(root, rows):
    kept = next(row for row in rows if row["question_type"] == "route_planning" and row["id"] < 50)
    for path in root.glob("*/*.mp4"):
        if path.stem != kept["scene_name"]:
            path.unlink()
    assert [one.id for one in VSIBench(root, tasks=["route_planning"], limit=1).questions()] == [str(kept["id"])]


def test_subsets_are_read_from_their_files_or_off_the_marks(tmp_path, rows, videos):
    write_videos(tmp_path, videos)
    odd, even = ([row for row in rows if row["id"] % 2 == rest] for rest in (1, 0))

    def ids(subset):
        return sorted(int(one.id) for one in VSIBench(tmp_path, subset=subset, frames=1).questions())

    debiased, pruned = sorted(row["id"] for row in odd), sorted(row["id"] for row in even)
    write_lines(tmp_path / "test.jsonl", rows)
    assert (ids("debiased"), ids("pruned")) == (debiased, pruned)
    # A file without marks, and the list of ids beside it.
    write_lines(tmp_path / "test.jsonl", [{k: v for k, v in row.items() if k != "pruned"} for row in rows])
    with pytest.raises(
        BenchmarkError, match=r"test.jsonl line 1: does not say .*; download test_debiased.parquet"
    ):
        VSIBench(tmp_path, subset="debiased")
    (tmp_path / "pruned_ids.txt").write_text("\n".join(str(number) for number in pruned))
    assert (ids("debiased"), ids("pruned")) == (debiased, pruned)
    # The parquet files, which together are the whole.
    (tmp_path / "test.jsonl").unlink()
    with pytest.raises(BenchmarkError, match=r"test_debiased.parquet: not there; download it"):
        VSIBench(tmp_path, subset="debiased")
    write_parquet(tmp_path / "test_debiased.parquet", odd)
    write_parquet(tmp_path / "test_pruned.parquet", even)
    assert (ids("debiased"), ids("pruned"), ids("full")) == (debiased, pruned, sorted(debiased + pruned))


def test_both_scorers_judge_and_the_official_one_comes_first(root):
    by_task = {one.task: one for one in VSIBench(root, frames=1).questions()}
    benchmark = VSIBench(root, frames=1)
    counting, route = by_task["object_counting"], by_task["route_planning"]
    sample = benchmark.judge(counting, say("There are 4"))
    assert list(sample.scores.items()) == [("official", 0.0), ("lmms_eval", 1.0)]
    assert (sample.extracted, sample.answer, sample.truth) == ("There", "There are 4", "4")
    assert sample.messages is counting.request.messages and sample.notes == ""
    # Blanks around it are not the model's answer; "A.\n" would not be read otherwise.
    assert benchmark.judge(route, say(" B.\n")).scores == {"official": 1.0, "lmms_eval": 1.0}
    assert benchmark.judge(route, say("")).extracted is None
    assert "cut off after 3 tokens" in benchmark.judge(route, say("B is", "length")).notes


@given(text=st.text(), finish=st.sampled_from(["stop", "length"]))
@settings(max_examples=50)
def test_no_answer_is_too_odd_to_judge(text, finish):
    benchmark = VSIBench.__new__(VSIBench)  # no file is needed to judge
    for kind, truth in (("object_counting", "4"), ("route_planning", "B")):
        question = Question("1", kind, Request((Message("user", ("?",)),)), truth)
        assert set(benchmark.judge(question, say(text, finish)).scores) == {"official", "lmms_eval"}


def test_the_summary_is_the_official_one(root):
    benchmark = VSIBench(root, frames=1)
    answers = {kind: ("B", "A", "4", "5", "There are 4")[i % 5] for i, kind in enumerate(CHOICE + NUMBER)}
    samples = [benchmark.judge(one, say(answers[one.task] + "\n")) for one in benchmark.questions()]
    for prefix, name in (("", "official"), ("lmms_eval/", "lmms_eval")):
        want = aggregate([(one.task, one.scores[name]) for one in samples])
        got = benchmark.summary(samples)
        assert {prefix + key: value for key, value in want.items()}.items() <= got.items()
        assert len(got) == 2 * len(want) == 18
    assert next(iter(got)) == "obj_appearance_order_accuracy"


def test_a_part_is_never_called_the_whole(root):
    benchmark = VSIBench(root, frames=1)
    samples = [benchmark.judge(one, say("B" if one.task in CHOICE else "4")) for one in benchmark.questions()]
    counting = [one for one in samples if one.task == "object_counting"]
    easy = [one for one in samples if one.task == "object_rel_direction_easy"]
    assert benchmark.summary([]) == {}
    got = benchmark.summary(samples[:-1])
    assert "overall" not in got and got["overall (partial)"] == 100
    missing = samples[-1].task
    assert not any(name.startswith(missing) and "partial" not in name for name in got)
    assert len([name for name in got if name.endswith("(partial)")]) == 2 * 2  # its task and the mean, twice
    # One task that is complete, one of which half is there.
    got = benchmark.summary(counting + easy[:1])
    assert got["object_counting_MRA:.5:.95:.05"] == 100
    assert got["object_rel_direction_easy_accuracy (partial)"] == 100
    # A question answered twice is not two answered.
    assert "overall" not in benchmark.summary(samples[:-1] + samples[:1])


def error(root, **options) -> str:
    with pytest.raises(BenchmarkError) as caught:
        VSIBench(root, **options)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def test_a_folder_that_is_not_there_or_empty_is_named(tmp_path):
    assert error(tmp_path / "none").startswith(f"{tmp_path}/none: the folder is not there")
    (tmp_path / "file").touch()
    assert "the folder is a file" in error(tmp_path / "file")
    assert "neither test.jsonl nor test-*.parquet; download one" in error(tmp_path)
    (tmp_path / "test.jsonl").write_text("\n")
    assert "no question in the files of full" in error(tmp_path)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"id": "x"}, "id is 'x'; accepted: a whole number"),
        ({"id": True}, "id is True"),
        ({"id": 100}, "id 100 is that of"),
        ({"dataset": "../../etc"}, "dataset is '../../etc'; accepted: a name"),
        ({"scene_name": ".."}, "scene_name is '..'"),
        ({"scene_name": "a/b"}, "scene_name is 'a/b'"),
        ({"scene_name": None}, "scene_name is None"),
        ({"question_type": "object_count"}, "question_type is 'object_count'; accepted: object_rel"),
        ({"question": None}, "question is None"),
        ({"ground_truth": None}, "ground_truth is None"),
        (
            {"ground_truth": "0", "question_type": "object_counting"},
            "ground_truth is '0'; accepted: a positive number",
        ),
        ({"options": None, "question_type": "route_planning"}, "options is None; accepted: a list"),
        ({"options": [], "question_type": "route_planning"}, "options is []"),
    ],
)
def test_a_row_that_can_not_be_asked_is_named(root, rows, changes, says):
    write_lines(root / "test.jsonl", [*rows[:2], rows[2] | changes, *rows[3:]])
    line = 19 if changes.get("id") == 100 else 3  # line 19 is the second to say 100
    assert f"test.jsonl line {line}: {says}" in error(root)


def test_a_line_that_is_no_json_is_named_by_its_number(root, rows):
    text = (root / "test.jsonl").read_bytes().splitlines()
    for line in (text[4][:-5], b"[1]", b"\xff\xfe{}"):
        (root / "test.jsonl").write_bytes(b"\n".join([*text[:4], line, *text[5:]]))
        assert "test.jsonl: damaged (line 5 is no JSON" in error(root)
    write_lines(root / "test.jsonl", [{k: v for k, v in row.items() if k != "scene_name"} for row in rows])
    assert "test.jsonl line 1: no scene_name" in error(root)


def test_a_table_that_is_damaged_is_named(root, rows):
    (root / "test.jsonl").unlink()
    path = root / "test-00000-of-00001.parquet"
    write_parquet(path, [{k: v for k, v in row.items() if k != "options"} for row in rows])
    assert f"{path}: no column options among id, dataset" in error(root)
    write_parquet(path, rows)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert error(root).startswith(f"{path}: damaged (")
    path.write_bytes(whole[:4] + bytes(len(whole) // 2) + whole[4 + len(whole) // 2 :])
    assert error(root).startswith(f"{path}: damaged (")
    path.write_bytes(b"")
    assert error(root) == f"{path}: the file is empty; download it again"
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    assert "a Git LFS pointer, not the file; run `git lfs pull`" in error(root)


def test_videos_that_are_missing_are_named_before_a_question_is_asked(root):
    (root / "scannet/scene0011_00.mp4").unlink()
    assert error(root) == (
        f"{root}/scannet/scene0011_00.mp4: not there, nor in scannet.zip; put scannet.zip of the benchmark into "
        f"{root}, unzipped or as it is"
    )
    (root / "arkitscenes/41069025.mp4").unlink()
    assert "41069025.mp4 and 1 more: not there, nor in arkitscenes.zip" in error(root)


def test_a_video_that_is_none_is_named_before_a_question_is_asked(root, videos):
    path = root / "scannet/scene0011_00.mp4"
    whole = videos["scannet/scene0011_00"]
    for data in (whole[: len(whole) // 2], b"not a video", b"#EXTM3U\n#EXTINF:1,\nother.mp4\n#EXT-X-ENDLIST\n"):
        path.write_bytes(data)
        assert error(root).startswith(f"{path}: damaged (the video")
    path.write_bytes(b"")
    assert "the file is empty" in error(root)


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


def test_a_video_cut_off_is_told_of_when_it_is_reached_and_the_others_go_on(root):
    # The index comes first in such a file, so that nothing is missing until the frames are read.
    path = root / "scannet/scene0011_00.mp4"
    whole = mp4(60, into=path, movflags="faststart")
    path.write_bytes(whole[:-400])
    asked = ask_all(VSIBench(root, frames=2))
    broken = [one for one in asked if isinstance(one, BenchmarkError)]
    assert len(asked) == 20 and 0 < len(broken) < 20
    assert all(str(one).startswith(f"{path}: damaged (the video ") for one in broken)
    assert "of 60 frames" in str(broken[0])


def test_frames_that_can_not_be_decoded_are_told_of(root):
    path = root / "scannet/scene0011_00.mp4"
    whole = bytearray(mp4(60, into=path, movflags="faststart"))
    start = whole.index(b"mdat") + 4
    whole[start + 20 : start + 900] = bytes(880)
    path.write_bytes(whole)
    broken = [one for one in ask_all(VSIBench(root, frames=60)) if isinstance(one, BenchmarkError)]
    assert broken and all(str(one).startswith(f"{path}: damaged (") for one in broken)


def changed(data: bytes, rng: random.Random) -> bytes:
    """Some bytes changed, lost or added."""
    at, length = rng.randrange(len(data)), rng.choice([1, 7, 100])
    new = rng.choice([b"", bytes(length), rng.randbytes(length), rng.randbytes(1)])
    return rng.choice([data[:at] + new, data[:at] + new + data[at + length :], data[:at] + new + data[at:]])


@pytest.mark.parametrize("name", ["arkitscenes/41069025.mp4", "scannet.zip", "test-0.parquet", "test.jsonl"])
def test_whatever_bytes_change_there_are_questions_or_one_line_that_names_the_file(tmp_path, videos, name):
    rows = [row(1, "object_counting", "arkitscenes/41069025", "4"), row(2, "route_planning", "scannet/s", "B")]
    if name == "test.jsonl":
        write_lines(tmp_path / name, rows)
    else:
        write_parquet(tmp_path / "test-0.parquet", rows)
    write_videos(tmp_path, {"arkitscenes/41069025": videos["arkitscenes/41069025"]})
    write_videos(tmp_path, {"scannet/s": videos["scannet/scene0011_00"]}, "deflated")
    path, rng, told = tmp_path / name, random.Random(0), 0
    whole = path.read_bytes()
    for _ in range(40):
        path.write_bytes(changed(whole, rng))
        try:
            answers = ask_all(VSIBench(tmp_path, frames=3))
        except BenchmarkError as error:
            answers = [error]
        errors = [str(one) for one in answers if isinstance(one, BenchmarkError)]
        assert all(len(one.splitlines()) == 1 and str(tmp_path) in one for one in errors)
        told += bool(errors)
    assert told > 20


def test_a_zip_that_is_damaged_is_named(tmp_path, rows, videos):
    write_lines(tmp_path / "test.jsonl", rows)
    write_videos(tmp_path, videos, "deflated")
    path = tmp_path / "scannet.zip"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert error(tmp_path).startswith(f"{path}: damaged (File is not a zip file)")
    # A member that changed on the way: its checksum tells, when it is reached.
    changed = bytearray(whole)
    middle = len(whole) // 2
    changed[middle] ^= 255
    path.write_bytes(changed)
    broken = [one for one in ask_all(VSIBench(tmp_path, frames=1)) if isinstance(one, BenchmarkError)]
    assert broken and all(f"{path}: damaged (scannet/scene0011_00.mp4: " in str(one) for one in broken)
    # A member that needs a password.
    locked = bytearray(whole)
    locked[whole.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(locked)
    assert f"{path}: scannet/scene0011_00.mp4 is encrypted" in error(tmp_path)
    path.unlink()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("scannet/scene0011_00.mp4", videos["scannet/scene0011_00"])
    assert "neither stored nor deflated; unzip it into scannet/" in error(tmp_path)
    path.unlink()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("scannet/other.mp4", b"x")
    assert "scene0011_00.mp4: not there, nor in scannet.zip" in error(tmp_path)


def test_a_large_member_goes_through_a_file_without_a_name(tmp_path, rows, videos, monkeypatch):
    monkeypatch.setattr("vldac.evaluate.vsi_bench.video.IN_MEMORY", 10)
    write_lines(tmp_path / "test.jsonl", rows)
    write_videos(tmp_path, videos, "stored")
    before = sorted(tmp_path.rglob("*"))
    assert seen(next(VSIBench(tmp_path, frames=2).questions())) == [0, 99]
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"subset": "all"}, "subset is 'all'; accepted: full, debiased, pruned"),
        ({"frames": 0}, "frames is 0; accepted: 1 or more"),
        ({"sampling": "random"}, "sampling is 'random'; accepted: uniform, two_a_second"),
        ({"tasks": ["route"]}, "tasks is route; accepted: object_rel_direction_easy"),
        ({"limit": 0}, "limit is 0; accepted: 1 or more"),
    ],
)
def test_options_out_of_range_are_named(root, options, says):
    with pytest.raises(ValueError, match=says):
        VSIBench(root, **options)


@pytest.mark.parametrize("how", ["folder", "stored"])
def test_a_missing_package_is_named_with_its_extra(tmp_path, rows, videos, monkeypatch, how):
    write_lines(tmp_path / "test.jsonl", rows)
    write_videos(tmp_path, videos, how)

    def missing(name):
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(tables.importlib, "import_module", missing)
    assert error(tmp_path) == "the package av is missing (No module named 'av'); pip install 'vldac[benchmarks]'"
