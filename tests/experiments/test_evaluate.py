"""The commands: refusals before anything is written, going on after a stop, and what they leave behind."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

from experiments import benchmarks, compare, evaluate
from experiments.benchmarks import Options, VSIOptions
from tests.scripted import ScriptedAnswerer, ScriptedBenchmark
from vldac.evaluate.results import load

ROOT = Path(__file__).parents[2]


@pytest.fixture
def scripted(monkeypatch, tmp_path):
    """scripted.benchmark is asked, scripted.answerer answers, scripted.loaded says how it was loaded, and
    scripted.areas whether it has a `max_pixels`."""
    state = types.SimpleNamespace(
        benchmark=ScriptedBenchmark(), answerer=ScriptedAnswerer(), loaded=[], areas=True
    )

    def load_engine(model, **options):
        state.loaded.append(options)
        return state.answerer

    models = types.SimpleNamespace(
        NANO="nano",
        is_run=lambda model: False,
        load_engine=load_engine,
        scales_to_areas=lambda model: state.areas,
    )
    monkeypatch.setitem(sys.modules, "experiments.models", models)
    monkeypatch.setattr(benchmarks, "open_benchmark", lambda options: state.benchmark)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    return state


def run(*more, benchmark="vsi_bench"):
    return evaluate.main(["--model", "nano", "--benchmark", benchmark, "--data", "data", *more])


def test_it_leaves_figures_samples_and_a_page(scripted, tmp_path, capsys):
    scripted.answerer.answers = lambda words: scripted.benchmark.truth(words.split()[-1])
    assert run() == 0
    folder = tmp_path / "results" / "nano-vsi_bench"
    assert {path.name for path in folder.iterdir()} == {
        "config.json",
        "results.json",
        "samples.jsonl",
        "report.html",
    }
    found = json.loads((folder / "results.json").read_text())
    assert found["scores"]["overall"]["estimate"] == 100 and found["complete"] and found["items"] == 10
    assert found["scores"]["overall"]["low"] < 100, "ten right answers are no certainty"
    assert found["official"]["overall"] == 100 and found["versions"]["jax"] and found["configuration"]["seed"] == 0
    assert scripted.loaded[0]["max_length"] == benchmarks.MAX_LENGTH["vsi_bench"]
    shown = capsys.readouterr().out
    assert "100.0 %" in shown and "three" in shown and "report.html" in shown


def test_it_goes_on_after_ctrl_c_and_loads_nothing_when_all_is_done(scripted, tmp_path, capsys):
    scripted.answerer.stop_after = 5
    assert run("--lanes", "1") == 0
    folder = tmp_path / "results" / "nano-vsi_bench"
    found = json.loads((folder / "results.json").read_text())
    assert not found["complete"] and "Stopped after 5 of 10 answers" in found["partial"][0]
    scripted.answerer = ScriptedAnswerer()
    assert run("--lanes", "3") == 0, "lanes may change"
    assert len(scripted.answerer.asked) == 5
    assert json.loads((folder / "results.json").read_text())["complete"]
    lines = (folder / "samples.jsonl").read_text().splitlines()
    assert len({json.loads(line)["id"] for line in lines}) == len(lines) == 10
    loaded = len(scripted.loaded)
    assert run() == 0 and len(scripted.loaded) == loaded
    assert json.loads((folder / "results.json").read_text())["items"] == 10
    capsys.readouterr()


def test_an_engine_is_closed_before_the_process_ends(scripted, capsys):
    """After a Ctrl-C it still writes: a daemon thread on the device would abort the process, exit code 134."""

    class Engine(ScriptedAnswerer):
        closed = 0

        def __enter__(self):
            return self

        def __exit__(self, *exception):
            self.closed += 1

    for number, stop_after in enumerate((None, 5)):
        scripted.answerer = Engine(stop_after=stop_after)
        assert run("--name", f"x{number}") == 0 and scripted.answerer.closed == 1
    capsys.readouterr()


def test_a_killed_process_loses_nothing_that_was_saved(scripted, tmp_path):
    scripted.answerer.stop_after = 5
    run("--lanes", "1")
    samples = tmp_path / "results" / "nano-vsi_bench" / "samples.jsonl"
    samples.write_bytes(samples.read_bytes()[:-20])  # killed in the middle of a write
    scripted.answerer = ScriptedAnswerer()
    assert run() == 0
    assert len(scripted.answerer.asked) == 6, "four whole lines are left of five"


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--seed", "1"], "seed is 1, and 0 in"),
        (["--vsi.frames", "16"], "vsi.frames is 16, and 32 in"),
        (["--dtype", "bfloat16"], "dtype is 'bfloat16', and None in"),
    ],
)
def test_another_configuration_is_refused_with_the_difference(scripted, tmp_path, capsys, flags, said):
    assert run() == 0
    before = {path: path.read_bytes() for path in (tmp_path / "results").rglob("*") if path.is_file()}
    assert run(*flags) == 2
    assert said in capsys.readouterr().err
    assert before == {path: path.read_bytes() for path in (tmp_path / "results").rglob("*") if path.is_file()}
    assert run(*flags, "--name", "other") == 0


def test_another_model_under_the_same_name_is_refused(scripted, tmp_path, capsys, monkeypatch):
    assert run("--name", "x") == 0
    monkeypatch.setattr(evaluate, "model_facts", lambda model: {"name": "nano", "kind": "run", "checkpoint": 7})
    assert run("--name", "x") == 2
    assert "model.kind is 'run', and 'freshly drawn" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--model", ""], "model is ''"),
        (["--model", "nowhere/at/all"], "no such folder"),
        (["--lanes", "0"], "lanes is 0; accepted: 1 or more"),
        (["--limit", "0"], "limit is 0; accepted: 1 or more"),
        (["--seed", "-1"], "seed is -1"),
        (["--name", "a/b"], "name is 'a/b'; accepted: a folder name without slashes"),
        (["--max-pixels", "10", "--min-pixels", "20"], "max_pixels is 10; accepted: at least min_pixels, 20"),
        (["--balrog.agent", "cot"], "balrog.agent is 'cot'; accepted: only with --benchmark balrog"),
        (["--web.protocol", "qwen_vl"], "web.protocol is 'qwen_vl'"),
        (["--benchmark", "spatial"], "data is 'data'; accepted: only with"),
        (["--folder", "data/file/x"], "can not be written"),
    ],
)
def test_what_is_wrong_is_one_line_and_nothing_is_written(scripted, tmp_path, capsys, flags, said):
    (tmp_path / "data" / "file").write_text("")
    assert run(*flags) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and said in error and error.count("\n") == 1
    assert not (tmp_path / "results").exists()


def test_a_folder_of_something_else_is_not_touched(scripted, tmp_path, capsys):
    folder = tmp_path / "results" / "mine"
    folder.mkdir(parents=True)
    (folder / "notes.txt").write_text("")
    assert run("--name", "mine") == 2
    assert "is not empty and no evaluation" in capsys.readouterr().err
    (folder / "config.json").write_text("{]")
    assert run("--name", "mine") == 2
    assert "cannot read" in capsys.readouterr().err
    (folder / "config.json").write_text('{"a": 1}')
    assert run("--name", "mine") == 2
    assert "is not the configuration of an evaluation" in capsys.readouterr().err


def test_what_can_not_be_read_makes_it_partial(scripted, tmp_path):
    scripted.benchmark = ScriptedBenchmark(damaged=("route_planning/1",), notes=("fewer than published",))
    assert run() == 0
    found = load(tmp_path / "results" / "nano-vsi_bench").results
    assert found["partial"] == ["1 questions could not be read: film of route_planning/1 is damaged; get it again"]
    assert found["notes"] == ["fewer than published"] and not found["complete"]


def test_what_the_model_can_not_take_ends_it_with_what_to_do(scripted, tmp_path, capsys):
    scripted.answerer.limit = 3
    assert run() == 1
    error = capsys.readouterr().err
    assert "question 'object_rel_distance/0' can not be asked" in error and "the same command goes on" in error


def test_compare_two_models(scripted, tmp_path, capsys):
    assert run("--name", "a") == 0
    scripted.answerer = ScriptedAnswerer(answers=lambda words: scripted.benchmark.truth(words.split()[-1]))
    assert run("--name", "b") == 0
    capsys.readouterr()
    assert compare.main(["results/a", "results/b"]) == 0
    found = json.loads(Path("results/b/comparison.json").read_text())
    assert found["scores"]["overall"]["b"] == 100 and found["changed"]
    assert "B is better" in capsys.readouterr().out and Path("results/b/comparison.html").is_file()
    assert compare.main(["results/a/results.json", "results/b/results.json", "--to", "c"]) == 0
    assert {path.name for path in Path("c").iterdir()} == {"comparison.json", "comparison.html"}


def test_compare_refuses_other_items_and_writes_nothing(scripted, tmp_path, capsys):
    assert run("--name", "a") == 0
    scripted.benchmark = ScriptedBenchmark(sizes={"route_planning": 4})
    assert run("--name", "b") == 0
    for pair, said in (
        (["results/a", "results/b"], "6 of 10 items of results/a are not in results/b"),
        (["results/a", "results/c"], "there are no results"),
    ):
        assert compare.main(pair) == 2
        assert said in capsys.readouterr().err
    assert not list(Path().rglob("comparison.*"))


def test_wrong_flags_and_help_from_the_command_line(capsys):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])}
    command = [sys.executable, "-m", "experiments.evaluate", "--benchmark", "chess"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and "vsi_bench" in done.stdout + done.stderr and "Traceback" not in done.stderr
    with pytest.raises(SystemExit) as ended:
        evaluate.main(["--help"])
    assert ended.value.code == 0 and "--balrog.processes" in capsys.readouterr().out


def test_pixels_are_the_benchmarks_unless_they_are_said():
    benchmark = types.SimpleNamespace(max_pixels=200704, min_pixels=3136)
    for given, asked in ((None, {}), (0, {"max_pixels": None}), (5000, {"max_pixels": 5000})):
        own = {"max_pixels": 200704, "min_pixels": 3136}
        own = {name: value for name, value in own.items() if name not in asked}
        assert benchmarks.pixels(Options("vsi_bench", max_pixels=given), benchmark) == (asked, own)
    assert benchmarks.pixels(Options("spatial"), object()) == ({}, {})


@pytest.mark.parametrize("areas", [True, False])
def test_a_benchmarks_own_pixels_are_left_out_and_told_of_where_a_family_has_one_size(scripted, tmp_path, areas):
    scripted.areas = areas
    scripted.benchmark.max_pixels, scripted.benchmark.min_pixels = 200704, 3136
    said = (
        "The benchmark's max_pixels of 200704 and min_pixels of 3136 are not used: the model scales every image "
        "to one size."
    )
    for _ in range(2):  # and where nothing is left to ask
        assert run() == 0
        notes = load(tmp_path / "results" / "nano-vsi_bench").results["notes"]
        assert (said in notes) == (not areas)
    (loaded,) = scripted.loaded
    assert (loaded.get("max_pixels"), loaded.get("min_pixels")) == ((200704, 3136) if areas else (None, None))
    assert run("--max-pixels", "9", "--name", "x") == 0
    assert scripted.loaded[-1]["max_pixels"] == 9, "what a user asks for is for the model to refuse"


def test_every_setting_of_another_benchmark_is_refused():
    for field, value in (("frames", 3), ("subset", "pruned"), ("sampling", "two_a_second")):
        options = Options("pages", vsi=dataclasses.replace(VSIOptions(), **{field: value}))
        with pytest.raises(ValueError, match=f"vsi.{field} is"):
            benchmarks.check(options)
    with pytest.raises(ValueError, match="data is not given; accepted: the folder of visualwebbench's files"):
        benchmarks.check(Options("visualwebbench"))


@pytest.mark.parametrize("benchmark", ["vsi_bench", "visualwebbench"])
def test_files_that_are_not_there_are_one_line(monkeypatch, tmp_path, capsys, benchmark):
    monkeypatch.setitem(sys.modules, "experiments.models", types.SimpleNamespace(NANO="nano", is_run=bool))
    target = tmp_path / "results"
    command = ["--model", "nano", "--benchmark", benchmark, "--data", str(tmp_path / "x"), "--folder", str(target)]
    assert evaluate.main(command) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and str(tmp_path / "x") in error
    assert not target.exists()


@pytest.mark.parametrize(("benchmark", "tasks"), [("spatial", 10), ("pages", 7)])
def test_what_is_rendered_opens_with_its_options(benchmark, tasks):
    pytest.importorskip(f"vldac.evaluate.{benchmark}")
    assert len(benchmarks.open_benchmark(Options(benchmark, limit=1, seed=3))) == tasks
    assert len(benchmarks.open_benchmark(Options(benchmark))) == tasks * benchmarks.PER_TASK
    with pytest.raises(ValueError, match="tasks is chess; accepted"):
        benchmarks.open_benchmark(Options(benchmark, tasks=("chess",)))
