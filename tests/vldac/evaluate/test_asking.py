"""Asking: every question once, in groups that keep memory bounded, and on from where it was stopped."""

from __future__ import annotations

import pytest

from tests.scripted import ScriptedAnswerer, ScriptedBenchmark
from vldac.evaluate.asking import ask
from vldac.evaluate.benchmark import BenchmarkError
from vldac.evaluate.samples import SampleLog


def asked(folder, benchmark, answerer, group=4, **options):
    seen = []
    with SampleLog(folder) as log:
        unread = ask(
            benchmark.questions(), benchmark.judge, answerer, log, group, lambda r: seen.append(r.id), **options
        )
        return list(log.records), seen, unread


def test_every_question_is_asked_once_in_groups(tmp_path):
    benchmark, answerer = ScriptedBenchmark(), ScriptedAnswerer()
    ids, seen, unread = asked(tmp_path, benchmark, answerer)
    assert (
        ids == seen == [f"object_rel_distance/{i}" for i in range(6)] + [f"route_planning/{i}" for i in range(4)]
    )
    assert answerer.calls == [4, 4, 2] and not unread


def test_a_group_is_bounded_by_the_bytes_of_its_pictures(tmp_path):
    answerer = ScriptedAnswerer()
    asked(tmp_path / "", ScriptedBenchmark(picture="picture"), answerer, group_bytes=3 * 300 * 400 * 3)
    assert answerer.calls == [3, 3, 3, 1]
    # one that is larger by itself is asked all the same; frames that questions share count once
    shared = ScriptedAnswerer()
    (tmp_path / "b").mkdir()
    asked(tmp_path / "b", ScriptedBenchmark(picture="video"), shared, group_bytes=1)
    assert shared.calls == [4, 2, 4]


def test_no_more_is_read_than_is_needed_next(tmp_path):
    benchmark = ScriptedBenchmark(sizes={"route_planning": 100})
    with pytest.raises(KeyboardInterrupt):
        asked(tmp_path, benchmark, ScriptedAnswerer(stop_after=8))
    assert len(benchmark.read) <= 8 + 4 + 4 + 1  # answered, refused, the group after, and the one that fills it


def test_it_goes_on_where_it_was_stopped(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        asked(tmp_path, ScriptedBenchmark(), ScriptedAnswerer(stop_after=5))
    answerer = ScriptedAnswerer()
    ids, seen, _ = asked(tmp_path, ScriptedBenchmark(), answerer)
    assert len(ids) == 10 and len(answerer.asked) == 6, "the four that are saved are not asked again"
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
    (tmp_path / "b").mkdir()
    with pytest.raises(BenchmarkError, match="film of route_planning/0 is damaged"):
        asked(tmp_path / "b", ScriptedBenchmark(sizes={"route_planning": 2}, damaged=names), ScriptedAnswerer())
