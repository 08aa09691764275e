"""What a slice is said to need, compiled for devices that need not be there. The CPU stands in for a chip."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from types import SimpleNamespace
from unittest.mock import Mock

import jax
import pytest

from experiments import fit
from experiments.build import build
from experiments.fit import Need
from tests.runs import ROOT, SMALL, TRAINING_ALONE
from vldac import memory

WORDS = ["v6e:2x4", *SMALL, *TRAINING_ALONE, "--world", "cards/number_line"]


@pytest.fixture
def here(monkeypatch):
    """The slice is this machine's first device, and JAX stays as it is."""
    monkeypatch.setattr(fit, "chips", lambda topology: jax.devices()[:1])
    monkeypatch.setattr(fit.jax.config, "update", lambda *_: None)


def test_both_programs_are_compiled_and_what_they_need_is_told(here, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert fit.main(WORDS) == 0
    told = " ".join(capsys.readouterr().out.split())
    for part in ("1 x cpu, each", "rollout", "update", "arguments", "temporaries", "It fits:", "worst moment"):
        assert part in told


def test_what_is_needed_is_what_the_compiler_says(here):
    parts = build(fit.parse(WORDS)[1])
    needs = fit.measure(parts, jax.devices()[:1])
    weights = memory.size_of(parts.abstract_params())
    assert needs["rollout"].arguments > weights and needs["update"].arguments > 3 * weights  # and two moments
    assert needs["update"].temporaries > 0 and fit.worst(needs) >= needs["update"].total
    analysis = SimpleNamespace(
        argument_size_in_bytes=7, temp_size_in_bytes=20, output_size_in_bytes=300, alias_size_in_bytes=200
    )
    need = Need.of(Mock(jax.stages.Compiled, memory_analysis=lambda: analysis))
    assert need == Need(7, 20, 100) and need.total == 127


def test_while_the_rollout_runs_what_the_update_is_given_is_there_as_well():
    update = Need(arguments=50, temporaries=30, outputs=0)
    assert fit.worst({"rollout": Need(10, 70, 5), "update": update}) == 85 + 35
    assert fit.worst({"rollout": Need(10, 5, 5), "update": update}) == 80


def test_what_does_not_fit_is_told_in_a_line(here, capsys, monkeypatch):
    def compiled(*lowered):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Ran out of memory on HBM, 53.45G exceeds 31.25G.")

    monkeypatch.setattr(fit, "compiled", compiled)
    assert fit.main(WORDS) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: the training needs more memory") and "53.45G exceeds" in line
    assert "what helps: " in line


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "topology is missing; accepted: a kind of TPU and a shape, as in v6e:2x4"),
        (["--mesh.fsdp", "2"], "topology is missing"),
        (["v6e:2x4", "nona"], "preset is 'nona'; accepted: nano, "),
        (["v6e:2x4", "nano", "x"], "'x' is one word too many; accepted: a topology, then one preset"),
    ],
)
def test_a_wrong_word_is_one_clear_error(words, told, capsys):
    assert fit.main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {told}")


def test_without_its_compiler_a_slice_is_refused_with_the_way_to_get_it(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "libtpu", None)
    assert fit.main(["v6e:2x4"]) == 2
    assert "accepted: pip install -e '.[tpu]'" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed (`.[tpu]`)")
@pytest.mark.parametrize(
    ("topology", "code", "told"),
    [
        (["v6e:2x2"], 0, "1 x TPU v6 lite, each"),
        (["v6e:2x2", "--mesh.data", "2", "--mesh.fsdp", "2"], 0, "4 x TPU v6 lite, each"),
        (["v6e:2x2", "--mesh.fsdp", "3"], 2, "error: mesh is data 1, fsdp 3"),
        (["v9:2x2"], 2, "error: topology is 'v9:2x2', which libtpu refuses ("),
    ],
)
def test_libtpu_compiles_an_iteration(topology, code, told):
    """In a process of its own: how many devices JAX has is said before it begins."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)]), "COLUMNS": "100"}
    environment.pop("XLA_FLAGS", None)
    done = subprocess.run(
        [sys.executable, "-m", "experiments.fit", *topology, *WORDS[1:], "--model.dtype", "bfloat16"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == code, done.stderr
    assert told in done.stdout + done.stderr
