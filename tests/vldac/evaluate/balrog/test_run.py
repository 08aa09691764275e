"""Whole runs: BabyAI with scripted players, and a stand-in for Baba Is AI whose games misbehave on demand."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from vldac.evaluate.balrog import run as runner
from vldac.evaluate.balrog.run import run
from vldac.evaluate.balrog.tasks import EPISODES, TASKS, unavailable
from vldac.evaluate.benchmark import BenchmarkError
from vldac.generate.request import Reply

GOTO = {"babyai": ("BabyAI-MixedTrainLocal-v0/goto",)}
FEEDBACK = "Your previous output did not contain a valid action. Defaulted to action: "


class Scripted:
    """Answers each request by a function, and keeps the sizes of its batches and the requests."""

    def __init__(self, say):
        self.say, self.batches, self.requests = say, [], []

    def answer(self, requests):
        self.batches.append(len(requests))
        self.requests.extend(requests)
        return [Reply(self.say(request), "stop", 7, 3) for request in requests]


def walk(request):
    """Goes to what the mission names, by the text alone; looks around while it is not in view."""
    thing = re.search(r"Your goal is to go to (?:a|the) (\w+ \w+)\.", request.messages[0].text)[1]
    seen = request.messages[-1].text
    ahead = re.search(r"^a [a-z ]+ 1 step forward$", seen, re.MULTILINE)
    where = re.search(
        rf"^a {thing} (?:(\d) steps? (left|right))?(?: and )?(?:(\d) steps? forward)?$", seen, re.MULTILINE
    )
    if where is None:
        return "turn left" if ahead or request.seed % 2 else "go forward"
    _, side, forward = where.groups()
    if forward is None:
        return f"turn {side}"
    return "turn left" if ahead else "go forward"


@pytest.fixture
def baba(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent / "fakes"))


class TestBabyAI:
    @pytest.fixture(autouse=True)
    def installed(self):
        pytest.importorskip("minigrid")

    def test_who_reads_the_text_arrives(self):
        player = Scripted(walk)
        tasks = {"babyai": (*GOTO["babyai"], "BabyAI-GoToLocal-v0")}
        ended = []
        results = run(
            player, environments=("babyai",), tasks=tasks, episodes=2, processes=4, on_episode=ended.append
        )
        assert [episode.progression for episode in results.episodes] == [1, 1, 1, 1]
        assert [episode.id for episode in results.episodes] == [
            f"babyai/{task}/{number}" for task in tasks["babyai"] for number in range(2)
        ]
        assert sorted(episode.id for episode in ended) == sorted(episode.id for episode in results.episodes)
        assert results.summary["environments"]["babyai"] == {
            "progression_percentage": 100.0,
            "standard_error": 0.0,
            "episodes_played": 4,
        }
        assert results.scores == {
            "overall": 100.0,
            "overall standard_error": 0.0,
            "babyai": 100.0,
            "babyai standard_error": 0.0,
        }
        assert results.not_run == results.failed == {}
        assert any(note.startswith("babyai: minigrid's own package") for note in results.notes)
        assert (
            "the average is over 1 environments, without crafter, textworld, babaisai, minihack, nle"
            in results.notes
        )
        assert max(player.batches) == 4  # all together
        steps = sum(episode.steps for episode in results.episodes)
        assert sum(player.batches) == steps == len({request.seed for request in player.requests})
        assert sum(episode.answer_tokens for episode in results.episodes) == 3 * steps
        sample, last = results.samples[0], results.episodes[0].turns[-1]
        assert (sample.id, sample.task) == (results.episodes[0].id, "babyai")
        assert (sample.scores, sample.extracted) == ({"progression": 1.0}, last.executed)
        assert sample.messages == last.messages
        assert sample.answer.endswith(f"action: {last.executed}; reward {last.reward:g}") and last.reward > 0

    def test_who_talks_nonsense_gets_nowhere_and_is_told_so(self):
        player = Scripted(lambda request: "  Fly, to 7! ")
        results = run(player, environments=("babyai",), tasks=GOTO, episodes=1, max_steps=3)
        (episode,) = results.episodes
        assert (episode.progression, episode.steps, episode.invalid, episode.done) == (0, 3, 3, False)
        first, second, third = episode.turns
        assert (first.completion, first.parsed, first.executed) == ("Fly, to 7!", "Fly to ", "go forward")
        assert FEEDBACK not in first.messages[-1].text
        told = f"Current Observation:\n\n\n{FEEDBACK}go forward\n\nObservation:\n"
        assert second.messages[-1].text.startswith(told)
        assert [message.text for message in third.messages if message.role == "assistant"] == [
            "Fly to ",
            "Fly to ",
        ]
        assert third.messages[3].text.startswith(f"Observation:\n\n\n{FEEDBACK}")
        assert "'Fly to ' is not valid: go forward" in results.samples[0].answer
        assert "3 actions were not valid" in results.samples[0].notes
        silent = run(
            Scripted(lambda request: "fly"),
            environments=("babyai",),
            tasks=GOTO,
            episodes=1,
            max_steps=2,
            feedback_on_invalid_action=False,
        )
        assert FEEDBACK not in silent.episodes[0].turns[1].messages[-1].text

    def test_the_same_seed_is_the_same_run_however_many_play_at_a_time(self):
        def told(seed, processes):
            player = Scripted(lambda request: ("turn left", "turn right", "go forward")[request.seed % 3])
            results = run(
                player,
                environments=("babyai",),
                tasks=GOTO,
                episodes=2,
                max_steps=6,
                seed=seed,
                processes=processes,
            )
            return [(episode.seed, episode.transcript) for episode in results.episodes]

        once, again, other = told(5, 1), told(5, 2), told(6, 2)
        assert once == again
        assert [seed for seed, _ in once] == [5, 6]
        assert once[1] != other[0]  # the same game, other dice for the answers

    def test_reasoning_and_pictures(self):
        player = Scripted(lambda request: "I look around. ACTION: turn left")
        results = run(
            player,
            environments=("babyai",),
            tasks=GOTO,
            episodes=1,
            agent="cot",
            max_steps=3,
            max_image_history=1,
            temperature=0.5,
            max_tokens=77,
        )
        assert all((request.temperature, request.max_tokens) == (0.5, 77) for request in player.requests)
        turn = results.episodes[0].turns[-1]
        assert turn.parsed == turn.executed == "turn left"
        assert [message.text for message in turn.messages if message.role == "assistant"] == [
            "turn left",
            "Previous plan:\nI look around. ACTION: turn left",
        ]
        images = [
            part.shape for message in turn.messages for part in message.parts if isinstance(part, np.ndarray)
        ]
        assert images == [(112, 112, 3)]
        assert "Image observation provided.\n\nFirst think about" in turn.messages[-1].text

    def test_long_episodes_are_recorded_in_part(self):
        results = run(
            Scripted(lambda request: "turn left"),
            environments=("babyai",),
            tasks=GOTO,
            episodes=1,
            recorded_turns=5,
        )
        (episode,) = results.episodes
        assert (episode.steps, episode.done) == (64, True)
        assert [turn.number for turn in episode.turns] == [0, 1, 61, 62, 63]
        assert "[59 steps are not recorded]" in episode.transcript


class TestMisbehaviour:
    """The stand-in's level: two or three steps to the right win."""

    def test_a_game_from_outside_the_package_index(self, baba):
        player = Scripted(lambda request: "right" if len(request.messages) > 2 else "up")
        results = run(
            player,
            environments=("babaisai",),
            tasks={"babaisai": ("env/goto_win",)},
            episodes=2,
            max_image_history=1,
            alternating_roles=True,
        )
        assert [episode.progression for episode in results.episodes] == [1, 1]
        assert [episode.steps for episode in results.episodes] == [5, 4]  # the seed lays the level
        first, second = results.episodes[0].turns[:2]
        assert first.messages[-1].text.split("PLAY!\n")[1].split("\nImage")[0] == (
            "Current Observation:\n"
            "Active rules:\n"
            "ball is win\n"
            "baba is you\n"
            "\n"
            "Objects on the map:\n"
            "rule `fball` 1 step up\n"
            "rule `is` 1 step to the right and 1 step up\n"
            "rule `win` 2 steps to the right and 1 step up\n"
            "ball 4 steps to the right"
        )
        assert second.messages[-1].text.startswith(
            "Current Observation:\n[...] IS YOU rule was broken, environment resetActive rules:\nball is win\n\n"
        )
        assert [message.role for message in second.messages] == ["user", "assistant", "user"]
        assert second.messages[-1].parts[1].shape == (3, 5, 3)

    def test_what_is_known_from_before_is_not_played(self, baba):
        known = {"babaisai/env/goto_win/0", "babaisai/env/goto_win/2"}
        options = {"environments": ("babaisai",), "tasks": {"babaisai": ("env/goto_win",)}}
        results = run(Scripted(lambda request: "right"), **options, skip=known)
        assert [episode.id for episode in results.episodes] == ["babaisai/env/goto_win/1"]
        rest = run(Scripted(lambda request: "right"), **options, episodes=1, skip=known)
        assert (rest.episodes, rest.summary, rest.scores) == ((), {}, {})

    def test_lost_games_are_named_and_not_counted(self, baba):
        tasks = ("goto_win", "make_win", "make_win-distr_obj", "make_win-distr_rule", "two_room-make_you")
        began = time.monotonic()
        results = run(
            Scripted(lambda request: "right"),
            environments=("babaisai",),
            tasks={"babaisai": tuple(f"env/{task}" for task in tasks)},
            episodes=1,
            step_seconds=5.0,
            start_seconds=9.0,
        )
        assert time.monotonic() - began < 60
        assert results.failed == {
            "babaisai/env/make_win/0": "the game's process ended during its step (exit code 3)",
            "babaisai/env/make_win-distr_obj/0": "its step took over 5 s: the game's process hangs",
            "babaisai/env/make_win-distr_rule/0": "in its step: RuntimeError: the level is broken",
            "babaisai/env/two_room-make_you/0": "its start took over 9 s: the game's process hangs",
        }
        assert results.summary["environments"]["babaisai"]["episodes_played"] == 1
        assert results.summary["average_progress"] == 100
        assert "4 episodes were lost and are not counted" in results.notes

    def test_a_prompt_that_is_not_answered_costs_one_episode(self, baba):
        class Picky(Scripted):
            def answer(self, requests):
                if any(
                    "ball 3 steps" in request.messages[-1].text and len(request.messages) == 2
                    for request in requests
                ):
                    raise ValueError("the prompt has 9 tokens; accepted: up to 8")
                return super().answer(requests)

        results = run(
            Picky(lambda request: "right"),
            environments=("babaisai",),
            tasks={"babaisai": ("env/goto_win",)},
            episodes=2,
        )
        assert [episode.id for episode in results.episodes] == ["babaisai/env/goto_win/0"]
        reason = "its prompt was not answered: the prompt has 9 tokens; accepted: up to 8"
        assert results.failed == {"babaisai/env/goto_win/1": reason}

    def test_nothing_is_left_behind_when_the_model_fails(self, baba, monkeypatch):
        workers = []
        start = runner.Player.__init__

        def remember(self, *args):
            start(self, *args)
            workers.append(self.worker)

        def fail(request):
            raise RuntimeError("out of memory")

        monkeypatch.setattr(runner.Player, "__init__", remember)
        with pytest.raises(RuntimeError, match="out of memory"):
            run(Scripted(fail), environments=("babaisai",), tasks={"babaisai": ("env/goto_win",)}, episodes=3)
        assert len(workers) == 3
        assert all(worker._process.poll() is not None for worker in workers)


def test_games_know_nothing_of_jax():
    code = "import sys, vldac.evaluate.balrog.worker; print('jax' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        == "False\n"
    )


def test_255_official_episodes():
    assert sum(len(TASKS[name]) * count for name, count in EPISODES.items()) == 255
    assert len(TASKS["babaisai"]) == len(set(TASKS["babaisai"])) == 40


class TestNotRun:
    def test_what_is_not_there_is_said_and_is_no_zero(self, monkeypatch, tmp_path):
        pytest.importorskip("minigrid")
        there = {"minigrid"}
        monkeypatch.setattr("importlib.util.find_spec", lambda name: object() if name in there else None)
        results = run(Scripted(walk), tasks=GOTO, episodes=1, max_steps=1, max_image_history=1)
        assert set(results.summary["environments"]) == {"babyai"}
        missing = "not installed: pip install 'vldac[balrog]'"
        assert results.not_run == {
            "crafter": f"crafter {missing}",
            "textworld": "TextWorld has no pictures: the official runs of vision-language models leave it out",
            "babaisai": "the package `baba` is not on the package index: install nacloos/baba-is-ai from its "
            "repository",
            "minihack": f"minihack and nle {missing}",
            "nle": f"nle {missing}",
        }

    def test_games_and_levels_are_looked_for(self, monkeypatch, tmp_path):
        monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
        hunt, hard = "treasure_hunter", "MiniHack-Boxoban-Hard-v0"
        assert "textworld_games" in unavailable("textworld", hunt)
        assert f"{str(tmp_path)!r}; it has no *.z8" in unavailable("textworld", hunt, textworld_games=tmp_path)
        (tmp_path / "deep" / hunt).mkdir(parents=True)
        (tmp_path / "deep" / hunt / "a.z8").touch()
        assert unavailable("textworld", hunt, textworld_games=tmp_path) is None
        assert "boxoban_dir" in unavailable("minihack", hard)
        assert "it has no *.txt in hard" in unavailable("minihack", hard, boxoban_dir=tmp_path)
        (tmp_path / "hard").mkdir()
        (tmp_path / "hard" / "000.txt").touch()
        assert unavailable("minihack", hard, boxoban_dir=tmp_path) is None
        assert unavailable("minihack", "MiniHack-Quest-Easy-v0") is None

    def test_nothing_to_play_is_an_error(self, monkeypatch):
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        with pytest.raises(BenchmarkError, match="nothing of BALROG can be played here: nle: nle not installed"):
            run(Scripted(walk), environments=("nle",))

    def test_a_part_that_is_missing_is_noted(self):
        notes = runner._notes({"minihack": [1.0]}, {"minihack/a": "why", "nle": "why"}, {})
        assert "minihack lacks 1 of its tasks: minihack/a" in notes


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"environments": ("minigrid",)}, "environments has 'minigrid'; accepted: babyai, crafter"),
        ({"environments": ()}, r"environments is \[\]; accepted: at least one"),
        ({"environments": ("nle", "nle")}, "accepted: at least one, each once"),
        (
            {"tasks": {"nle": ("NetHack-v9",)}},
            r"tasks of nle are \['NetHack-v9'\]; accepted: some of NetHackChallenge",
        ),
        ({"agent": "dummy"}, "agent is 'dummy'; accepted: naive, cot, robust_naive, robust_cot"),
        ({"episodes": 0}, "episodes of babyai is 0; accepted: 1 or more"),
        ({"episodes": {"nle": 0}}, "episodes of nle is 0; accepted: 1 or more"),
        ({"processes": 0}, "processes is 0; accepted: 1 or more"),
        ({"max_steps": 0}, "max_steps is 0; accepted: 1 or more"),
        ({"recorded_turns": 1}, "recorded_turns is 1; accepted: 2 or more"),
        (
            {"max_text_history": 0},
            "max_text_history is 0 and max_image_history 0; accepted: 0 or more, one at least 1",
        ),
        ({"max_cot_history": -1}, "max_cot_history is -1; accepted: 0 or more"),
    ],
)
def test_bad_options_are_named(options, said):
    with pytest.raises(ValueError, match=said):
        run(Scripted(walk), **options)
