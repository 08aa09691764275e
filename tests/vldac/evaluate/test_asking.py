"""Asking: every question once, the lanes busy, memory bounded, nothing lost that has ended, and on from a stop."""

from __future__ import annotations

import signal
import threading
import time
import types
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.scripted import ScriptedAnswerer, ScriptedBenchmark
from vldac.evaluate.asking import Streaming, ask
from vldac.evaluate.benchmark import BenchmarkError
from vldac.evaluate.samples import SampleLog, read_samples
from vldac.generate.request import Reply

TEN = [f"object_rel_distance/{i}" for i in range(6)] + [f"route_planning/{i}" for i in range(4)]
PICTURE = 300 * 400 * 3  # bytes of a scripted one


def asked(folder, benchmark, answerer, at_once=4, **options):
    folder.mkdir(exist_ok=True)
    seen = []
    with SampleLog(folder) as log:
        questions = benchmark.questions(log.records)
        unread = ask(questions, benchmark.judge, answerer, log, at_once, lambda r: seen.append(r.id), **options)
        return list(log.records), seen, unread


class Lanes:
    """Takes requests as the engine does; each ends when a test ends it.

    Attributes:
      begun: names of the questions that it was given, in order.
      cancelled: those that are not wanted any more.
    """

    def __init__(self):
        self.begun: list[str] = []
        self.cancelled: list[str] = []
        self._listeners = {}
        self._closed = False

    def answer(self, requests):
        raise AssertionError("answers one after another")

    def submit(self, request, listener):
        if self._closed:
            raise RuntimeError("closed")
        name = request.messages[-1].text.split()[-1]
        self._listeners[name] = listener
        self.begun.append(name)
        listener("a piece")

        def cancel():
            self.cancelled.append(name)
            self.end(name, Reply("A half", "stop", 1, 1))

        return types.SimpleNamespace(cancel=cancel)

    def end(self, name: str, event: Reply | BaseException | None = None) -> None:
        self._listeners.pop(name)(event or Reply("A", "stop", 1, 1))

    def close(self) -> None:
        """Lets a test that has failed end."""
        self._closed = True
        for name in list(self._listeners):
            self.end(name, RuntimeError("closed"))


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, "it does not come to that"
        time.sleep(0.002)


def stays(condition: Callable[[], bool]) -> bool:
    time.sleep(0.05)
    return condition()


def on_disk(folder) -> list[str]:
    return list(read_samples(folder)) if (folder / "samples.jsonl").exists() else []


@pytest.fixture
def lanes():
    lanes = Lanes()
    yield lanes
    lanes.close()


@pytest.fixture
def background(lanes):
    with ThreadPoolExecutor(max_workers=1) as threads:
        yield threads
        lanes.close()


def test_every_question_is_asked_once(tmp_path):
    answerer = ScriptedAnswerer()
    ids, seen, unread = asked(tmp_path, ScriptedBenchmark(), answerer)
    assert ids == seen == TEN and not unread
    assert [words.split()[-1] for words in answerer.asked] == TEN


def test_a_slow_answer_keeps_no_lane_from_its_next_question(tmp_path, lanes, background):
    """Those behind it are asked and answered, across any number of lanes, and saved after it in their order."""
    assert isinstance(lanes, Streaming)
    result = background.submit(asked, tmp_path, ScriptedBenchmark(), lanes, at_once=3)
    until(lambda: len(lanes.begun) == 3)
    assert stays(lambda: lanes.begun == TEN[:3]), "no more at once than it may be"
    for done, name in enumerate(TEN[1:], start=1):
        until(lambda name=name: name in lanes.begun)
        lanes.end(name)
        until(lambda done=done: len(lanes.begun) == min(10, 3 + done))
    assert on_disk(tmp_path) == []
    lanes.end(TEN[0])
    assert result.result()[:2] == (TEN, TEN)


def test_an_answer_is_on_disk_while_the_next_is_written(tmp_path, lanes, background):
    result = background.submit(asked, tmp_path, ScriptedBenchmark(), lanes)
    for done, name in enumerate(TEN, start=1):
        until(lambda name=name: name in lanes.begun)
        lanes.end(name)
        until(lambda done=done: on_disk(tmp_path) == TEN[:done])
    result.result()


def test_pictures_in_memory_are_bounded(tmp_path, lanes, background):
    benchmark = ScriptedBenchmark(picture="picture")
    result = background.submit(asked, tmp_path, benchmark, lanes, at_once=20, picture_bytes=3 * PICTURE)
    until(lambda: len(lanes.begun) == 3 and len(benchmark.read) == 4)
    lanes.end(TEN[1])
    assert stays(lambda: lanes.begun == TEN[:3]), "one that has ended has its picture until it is saved"
    assert benchmark.read == TEN[:4], "one question is read ahead"
    for done, name in enumerate([TEN[0], *TEN[2:]], start=2):
        lanes.end(name)
        until(lambda done=done: lanes.begun == TEN[: min(10, 3 + done)])
    assert result.result()[0] == TEN


def test_frames_that_questions_share_count_once(tmp_path, lanes, background):
    benchmark = ScriptedBenchmark(picture="video")  # each is larger than what there may be, and asked all the same
    result = background.submit(asked, tmp_path, benchmark, lanes, at_once=20, picture_bytes=1)
    until(lambda: len(lanes.begun) == 6)
    assert stays(lambda: lanes.begun == TEN[:6]), "the next film waits until nothing of the last is needed"
    for name in TEN[:6]:
        lanes.end(name)
    until(lambda: lanes.begun == TEN)
    for name in TEN[6:]:
        lanes.end(name)
    assert result.result()[0] == TEN


def test_no_more_is_read_than_is_needed_next(tmp_path, lanes, background):
    benchmark = ScriptedBenchmark(sizes={"route_planning": 100})
    result = background.submit(asked, tmp_path, benchmark, lanes, at_once=4)
    until(lambda: len(lanes.begun) == 4 and len(benchmark.read) == 5)
    lanes.end("route_planning/0")
    until(lambda: len(lanes.begun) == 5 and len(benchmark.read) == 6)
    assert stays(lambda: len(benchmark.read) == 6)
    lanes.end("route_planning/1", RuntimeError("enough"))
    with pytest.raises(RuntimeError, match="enough"):
        result.result()


@pytest.fixture
def heard():
    """Ctrl-C is heard, even where the tests run in a shell's background, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.skipif(
    threading.current_thread() is not threading.main_thread(), reason="signals go to the main thread"
)
def test_a_ctrl_c_loses_only_what_is_being_answered(tmp_path, lanes, heard):
    def press():
        until(lambda: len(lanes.begun) == 4)
        for number in (0, 2, 3):  # 4, 5 and 6 come in their places
            lanes.end(TEN[number])
        until(lambda: len(lanes.begun) == 7)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    pressing = threading.Thread(target=press, daemon=True)
    pressing.start()
    with pytest.raises(KeyboardInterrupt):
        asked(tmp_path, ScriptedBenchmark(), lanes)
    pressing.join()
    assert on_disk(tmp_path) == [TEN[0], TEN[2], TEN[3]], "2 and 3 have ended, although 1 has not"
    assert sorted(lanes.cancelled) == [TEN[1], *TEN[4:7]], "nobody waits for them"


def test_a_failure_loses_only_what_is_being_answered(tmp_path, lanes, background):
    result = background.submit(asked, tmp_path, ScriptedBenchmark(), lanes)
    until(lambda: len(lanes.begun) == 4)
    for number, event in ((3, None), (0, None), (1, RuntimeError("out of memory"))):
        lanes.end(TEN[number], event)
    with pytest.raises(RuntimeError, match="out of memory"):
        result.result()
    assert on_disk(tmp_path) == [TEN[0], TEN[3]] and TEN[2] in lanes.cancelled


def test_an_answerer_of_one_at_a_time_loses_none_that_it_gave(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        asked(tmp_path, ScriptedBenchmark(sizes={"route_planning": 64}), ScriptedAnswerer(stop_after=31), 32)
    assert on_disk(tmp_path) == [f"route_planning/{i}" for i in range(31)]


def test_it_goes_on_where_it_was_stopped(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        asked(tmp_path, ScriptedBenchmark(), ScriptedAnswerer(stop_after=5))
    answerer, benchmark = ScriptedAnswerer(), ScriptedBenchmark()
    ids, seen, _ = asked(tmp_path, benchmark, answerer)
    assert len(ids) == 10 and len(answerer.asked) == 5, "the five that are saved are not asked again"
    assert benchmark.read == TEN[5:], "nor are their pictures read"
    assert sorted(seen) == sorted(ids)


def test_another_question_under_a_saved_id_is_refused(tmp_path):
    asked(tmp_path, ScriptedBenchmark(), ScriptedAnswerer())
    with pytest.raises(
        BenchmarkError, match="'object_rel_distance/0' is another question than the one that is saved"
    ):
        asked(tmp_path, ScriptedBenchmark(words="What else?"), ScriptedAnswerer())


def test_what_the_model_can_not_take_is_named_and_costs_nothing_before_it(tmp_path):
    benchmark = ScriptedBenchmark(sizes={"route_planning": 12})
    answerer = ScriptedAnswerer(limit=len("Which one? route_planning/9"))
    with pytest.raises(BenchmarkError, match=r"'route_planning/10' can not be asked: a prompt of 28 characters"):
        asked(tmp_path, benchmark, answerer)
    with SampleLog(tmp_path) as log:
        assert len(log.records) == 10


def test_what_is_damaged_is_left_out_and_named(tmp_path):
    benchmark = ScriptedBenchmark(damaged=("object_rel_distance/1", "route_planning/0"))
    ids, _, unread = asked(tmp_path, benchmark, ScriptedAnswerer())
    assert len(ids) == 8
    assert unread == {f"film of {name} is damaged; get it again": 1 for name in benchmark.damaged}
    names = tuple(f"route_planning/{i}" for i in range(2))
    with pytest.raises(BenchmarkError, match="film of route_planning/0 is damaged"):
        asked(tmp_path / "b", ScriptedBenchmark(sizes={"route_planning": 2}, damaged=names), ScriptedAnswerer())
