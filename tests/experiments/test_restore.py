"""Which checkpoint of a run is used, and that whoever asks the model is told."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments import benchmarks, evaluate
from experiments.build import build
from experiments.models import load_engine
from experiments.restore import initial_params, restore_state, saved_part
from experiments.run import parse
from tests.runs import SMALL, damage
from tests.scripted import ScriptedAnswerer, ScriptedBenchmark
from vldac import train
from vldac.checkpoint import Checkpointer


@pytest.fixture
def run(whole, tmp_path) -> Path:
    """A run of six iterations, to write into; its checkpoints are those after 2, 4 and 6."""
    return shutil.copytree(whole[0], tmp_path / "run")


def test_an_evaluation_is_of_the_checkpoint_that_is_restored(run, capsys):
    def used():
        facts = evaluate.model_facts(str(run))
        return facts["checkpoint"], facts["folder"]

    assert used() == (6, "00000006")
    with Checkpointer(run / "checkpoints") as checkpoints:
        checkpoints.save(6, {"once": np.ones(3)}, blocking=True)
    assert used() == (6, "00000006-1"), "the same iteration saved again"
    again = damage(run)
    assert used() == (6, "00000006"), "what is not whole is not used"
    shutil.rmtree(again)
    damage(run)
    assert used() == (4, "00000004")
    assert "00000006: " in capsys.readouterr().err


def test_answers_of_another_checkpoint_are_not_taken_for_this_ones(run, tmp_path, monkeypatch):
    monkeypatch.setattr(benchmarks, "open_benchmark", lambda options: ScriptedBenchmark())
    command = evaluate.Evaluate(model=str(run), folder=tmp_path / "results")
    evaluation = evaluate.prepare(command, lambda model, **options: ScriptedAnswerer())
    command.target.mkdir(parents=True)
    configuration = {"configuration": evaluation.configuration, "model": evaluation.model}
    evaluate.results.write_json(command.target / evaluate.CONFIG_FILE, configuration)
    damage(run)
    with pytest.raises(ValueError, match=r"model\.checkpoint is 4, and 6 in"):
        evaluate.prepare(command, lambda model, **options: ScriptedAnswerer())


def test_a_run_that_saves_while_it_is_loaded_is_not_evaluated(run, tmp_path, monkeypatch):
    monkeypatch.setattr(benchmarks, "open_benchmark", lambda options: ScriptedBenchmark())

    def load(model, **options):
        with Checkpointer(run / "checkpoints") as checkpoints:
            checkpoints.save(8, {"late": np.ones(3)}, blocking=True)
        return ScriptedAnswerer()

    command = evaluate.Evaluate(model=str(run), folder=tmp_path / "results")
    with pytest.raises(ValueError, match="run has changed while it was loaded; accepted: the same command again"):
        evaluate.prepare(command, load)
    assert not command.target.exists()


def test_who_asks_a_run_is_told_once_what_was_passed_over(run, capsys):
    newest = damage(run)
    with load_engine(str(run), lanes=1, max_length=128):
        told = capsys.readouterr().err
    assert told.startswith(f"warning: {newest}: ") and told.count("passed over") == 1
    evaluate.model_facts(str(run))
    assert capsys.readouterr().err == ""


def test_a_taught_adapter_of_before_it_was_the_references_is_still_restored(tmp_path):
    """Such a checkpoint has no adapter for the reference: the run goes on as it began, without."""
    words = [*SMALL, "--model.lora.rank", "2", "--folder", str(tmp_path)]
    parts = build(parse(["number_line", *words]).config)
    untaught = dataclasses.replace(parts.setup, taught=False)
    state = train.init(untaught, initial_params(parts), jax.random.key(1))
    with Checkpointer(tmp_path / "checkpoints") as checkpoints:
        checkpoints.save(0, saved_part(state), {"seconds": {}}, blocking=True)
        old = restore_state(parts, checkpoints).state
        taught = train.init(parts.setup, initial_params(parts), jax.random.key(1))
        checkpoints.save(1, saved_part(taught), {"seconds": {}}, blocking=True)
        new = restore_state(parts, checkpoints).state
    assert parts.setup.taught and old.reference is None
    jax.tree.map(np.testing.assert_array_equal, new.reference, taught.reference)
