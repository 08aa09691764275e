"""What a run that goes on says of itself: what it cost in all, and only what was measured when it could be."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path
from unittest.mock import Mock

import jax
import numpy as np
import pytest

from experiments import job
from experiments.build import build
from experiments.config import read_config
from experiments.restore import policy_params
from experiments.run import main
from tests.runs import SMALL, TRAINING_ALONE, damage
from vldac import memory
from vldac.metrics import read_summary, write_summary


@pytest.fixture
def ended(whole, tmp_path) -> Path:
    """A run that is done, to go on with."""
    return shutil.copytree(whole[0], tmp_path / "run")


def test_a_run_that_is_done_keeps_its_summary_to_the_byte(ended):
    before = (ended / "summary.json").read_bytes()
    assert main(["--resume", str(ended)]) == 0
    assert (ended / "summary.json").read_bytes() == before


def test_what_earlier_processes_took_is_counted(ended):
    """It goes on from the fourth of six iterations, and the summary has timed the sixth."""
    known = read_summary(ended)
    known["seconds"] |= {"update": 1e6, "total": 2e6}
    known["device_memory_bytes"] |= {"counted by the compiler": 2**60, "at the worst moment": 2**61}
    write_summary(ended, known | {"peak_memory_mib": 1e9})
    damage(ended)
    assert main(["--resume", str(ended)]) == 0
    summary = read_summary(ended)
    assert summary["seconds"]["update"] > 1e6 and summary["seconds"]["total"] > 2e6
    for phase, seconds in known["seconds"].items():
        assert summary["seconds"][phase] >= seconds, phase
    assert summary["device_memory_bytes"]["counted by the compiler"] == 2**60
    assert summary["device_memory_bytes"]["at the worst moment"] == 2**61
    assert summary["peak_memory_mib"] == 1e9 and summary["iterations"] == 6


def test_a_trained_model_is_not_measured_as_that_before_rl(ended, capsys):
    """Of its summary the figures after RL alone are left: facts, and what others reach, are found again."""
    was = read_summary(ended)
    after = {world: {"after": measured["after"]} for world, measured in was["success_rate"].items()}
    write_summary(ended, {"success_rate": after})
    assert main(["--resume", str(ended)]) == 0
    told, summary = " ".join(capsys.readouterr().out.split()), read_summary(ended)
    for world, measured in summary["success_rate"].items():
        assert measured == {name: was["success_rate"][world][name] for name in ("random", "expert", "after")}
        assert f"{world}: no figures from before RL are left" in told
    for fact in ("model", "episodes", "worlds"):
        assert summary[fact] == was[fact]
    assert list(summary["success_rate"]) == list(was["success_rate"])


@pytest.mark.parametrize("last", [True, False])
def test_a_run_that_is_told_to_stop_is_interrupted_only_if_something_is_left(ended, capsys, monkeypatch, last):
    """Told so as the last of its worlds is measured, or the first."""
    summary = read_summary(ended)
    for measured in summary["success_rate"].values():
        del measured["after"]
    write_summary(ended, summary)
    play, told = job.Job._play, list(summary["success_rate"])[-1 if last else 0]

    def stopped(self, name, *args):
        if name == told:
            signal.raise_signal(signal.SIGINT)
        return play(self, name, *args)

    monkeypatch.setattr(job.Job, "_play", stopped)
    assert main(["--resume", str(ended)]) == 0
    assert read_summary(ended)["interrupted"] is not last
    assert ("Stopped and saved" in capsys.readouterr().out) is not last


@pytest.mark.parametrize(
    "model",
    [
        pytest.param([], marks=pytest.mark.slow, id="whole"),
        pytest.param(["--model.lora.rank", "2"], id="adapter"),
    ],
)
def test_a_warm_start_that_is_stopped_goes_on_to_the_same_weights(tmp_path, capsys, monkeypatch, model):
    monkeypatch.setattr(job, "_CHUNK", 1)

    def start(name, *arguments, updates):
        """Stopped after so many updates, or with the warm start."""
        wishes = iter([False] * updates)
        monkeypatch.setattr(job.Interrupt, "wanted", property(lambda self: next(wishes, True)))
        assert main([*map(str, arguments)]) == 0
        return tmp_path / name, capsys.readouterr().out

    def new(name, updates):
        settings = [*SMALL, *TRAINING_ALONE, *model, "--imitation.steps", 3, "--world", "cards/number_line"]
        return start(name, *settings, "--folder", tmp_path, "--name", name, updates=updates)

    whole, _ = new("whole", updates=3)
    run, told = new("stopped", updates=2)
    assert "Stopped and saved" in told and not (run / "checkpoints").exists()
    taken = read_summary(run)["seconds"]
    run, told = start("stopped", "--resume", run, updates=1)
    assert "Going on after update 2 of the warm start." in told and not (run / "warm_start").exists()
    assert all(seconds >= taken[phase] for phase, seconds in read_summary(run)["seconds"].items())
    ours, theirs = (policy_params(build(read_config(path / "config.json")), path) for path in (run, whole))
    assert ours.iteration == theirs.iteration == 0
    jax.tree.map(np.testing.assert_array_equal, ours.params, theirs.params)


def no_memory(*args):
    raise jax.errors.JaxRuntimeError(
        "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 123 GiB.\nallocator: ..."
    )


@pytest.mark.parametrize("when", ["compiled", "run"])
def test_a_device_without_memory_left_is_told_of_in_a_line_and_loses_nothing(ended, capsys, monkeypatch, when):
    damage(ended)
    program = Mock(jax.stages.Compiled, side_effect=no_memory, memory_analysis=lambda: None)
    compile = no_memory if when == "compiled" else lambda: program
    monkeypatch.setattr(job, "lower_learn", lambda *args: Mock(jax.stages.Lowered, compile=compile))
    assert main(["--resume", str(ended)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: the training needs more memory than the device has (RESOURCE_EXHAUSTED: Out of")
    assert "123 GiB. allocator: ...); what helps: " in line and "--optimizer.microbatch" in line
    if when == "run":
        monkeypatch.undo()
        assert main(["--resume", str(ended)]) == 0 and read_summary(ended)["iterations"] == 6


def test_what_else_a_device_says_is_passed_on():
    with pytest.raises(jax.errors.JaxRuntimeError, match=r"^INTERNAL"), memory.fitting("it", "nothing"):
        raise jax.errors.JaxRuntimeError("INTERNAL: an illegal address")
