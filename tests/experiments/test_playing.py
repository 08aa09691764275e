"""BALROG on the command line: episodes are saved as they end, none is played twice, what is not run is no zero."""

from __future__ import annotations

import json
import sys
import types

import pytest

from experiments import evaluate
from tests.scripted import ScriptedAnswerer, sample
from vldac.evaluate import balrog
from vldac.evaluate.balrog import run as runner
from vldac.evaluate.balrog import tasks

TASKS = {"babyai": ("goto", "open"), "crafter": ("default",), "babaisai": ("x",)}
EPISODES = {"babyai": 2, "crafter": 3, "babaisai": 3}
NOT_HERE = "the package is not on the index"


@pytest.fixture
def games(monkeypatch, tmp_path):
    """games.played are the ids that were played; after games.stop of them Ctrl-C; games.lost are lost."""
    state = types.SimpleNamespace(played=[], stop=None, lost=(), options=None)

    def run(answerer, *, environments, tasks, episodes, skip, on_episode, **options):
        state.options = options
        failed = {}
        for environment in environments:
            for task in tasks[environment]:
                for number in range(episodes or EPISODES[environment]):
                    name = f"{environment}/{task}/{number}"
                    if name in skip:
                        continue
                    if state.stop is not None and len(state.played) == state.stop:
                        raise KeyboardInterrupt
                    if name in state.lost:
                        failed[name] = "it hangs"
                        continue
                    state.played.append(name)
                    made = sample(name, environment, 0.5 if environment == "crafter" else float(number))
                    on_episode(types.SimpleNamespace(sample=lambda made=made: made))
        return types.SimpleNamespace(failed=failed)

    def unavailable(environment, task, **options):
        return NOT_HERE if environment == "babaisai" else None

    monkeypatch.setattr(balrog, "ENVIRONMENTS", (*TASKS, "textworld"))
    monkeypatch.setattr(tasks, "TASKS", TASKS)
    monkeypatch.setattr(tasks, "EPISODES", EPISODES)
    monkeypatch.setattr(runner, "unavailable", unavailable)
    monkeypatch.setattr(runner, "run", run)
    models = types.SimpleNamespace(
        NANO="nano", is_run=lambda model: False, load_engine=lambda model, **options: ScriptedAnswerer()
    )
    monkeypatch.setitem(sys.modules, "experiments.models", models)
    monkeypatch.chdir(tmp_path)
    return state


def run(*more):
    code = evaluate.main(["--model", "nano", "--benchmark", "balrog", *more])
    try:
        with open("results/nano-balrog/results.json") as file:
            return code, json.load(file)
    except FileNotFoundError:
        return code, None


def test_what_is_not_run_is_no_zero(games):
    code, found = run("--balrog.agent", "cot", "--balrog.images", "1")
    assert code == 0 and games.options["agent"] == "cot" and games.options["max_image_history"] == 1
    assert found["not_run"] == {"babaisai": NOT_HERE} and not found["complete"]
    assert found["scores"]["babyai"]["estimate"] == 50 and found["scores"]["babyai"]["items"] == 4
    assert found["scores"]["overall"]["estimate"] == 50, "the mean of two environments, not of three"
    assert found["official"]["overall"] == 50 and "babaisai" not in found["scores"]


def test_a_stopped_evaluation_plays_the_rest(games):
    games.stop = 3
    code, found = run()
    assert code == 0 and "Stopped after 3 of 7 answers" in found["partial"][0]
    games.stop = None
    _, found = run()
    assert len(games.played) == len(set(games.played)) == 7 == found["items"]
    assert not found["partial"]
    assert not any("the average is over" in note for note in found["notes"]), (
        "it would be that of the last session"
    )
    _, again = run()
    assert len(games.played) == 7 and again["scores"] == found["scores"] and again["notes"] == found["notes"]


def test_what_deviates_is_told_of_all_that_was_played_whichever_session_it_was_stopped_in(games):
    games.stop = 4  # all of babyai
    _, found = run()
    told = [note.partition(":")[0] for note in found["notes"]]
    assert "babyai" in told and "crafter" not in told
    games.stop = None
    _, found = run()
    told = [note.partition(":")[0] for note in found["notes"]]
    assert "babyai" in told and "crafter" in told


def test_a_lost_episode_is_named_and_tried_again(games):
    games.lost = ("crafter/default/1",)
    _, found = run()
    assert "Episode crafter/default/1 was lost and is not counted: it hangs" in found["partial"]
    assert found["scores"]["crafter"]["items"] == 2
    games.lost = ()
    _, found = run()
    assert not found["partial"] and found["scores"]["crafter"]["items"] == 3


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--tasks", "chess"], "tasks has 'chess'"),
        (["--tasks", "babaisai"], NOT_HERE),
        (["--limit", "3"], "none with balrog, but --balrog.episodes"),
        (["--balrog.episodes", "0"], "balrog.episodes is 0"),
        (["--balrog.images", "0", "--balrog.texts", "0"], "balrog.texts is 0"),
        (["--balrog.boxoban-dir", "nowhere"], "balrog.boxoban_dir is 'nowhere'; accepted: a folder that exists"),
        (["--data", "x"], "data is 'x'; accepted: only with"),
    ],
)
def test_what_is_wrong_is_one_line_and_nothing_is_written(games, tmp_path, capsys, flags, said):
    code, _ = run(*flags)
    error = capsys.readouterr().err
    assert code == 2 and said in error and error.count("\n") == 1
    assert not (tmp_path / "results").exists()


def test_part_of_it_is_said_to_be_that(games):
    _, found = run("--tasks", "babyai", "--balrog.episodes", "1")
    assert found["items"] == 2 and not found["complete"] and len(found["partial"]) == 2
