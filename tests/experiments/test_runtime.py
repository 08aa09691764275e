"""Compiled programs are kept where it is written that they are, and nobody has to wait for the compiler."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from unittest.mock import Mock

import jax
import pytest

from experiments import runtime
from experiments.clock import Clock

ROOT = Path(__file__).parents[2]
PROGRAM = """
import jax, jax.numpy as jnp
from experiments import runtime
from experiments.clock import Clock
runtime.prepare()
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.jit(lambda x: jnp.sin(x) @ x.T)(jnp.ones((4, 4))).block_until_ready()
"""


@pytest.mark.parametrize("named", [False, True])
def test_programs_are_kept_between_processes(named, tmp_path):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("JAX_COMPILATION")}
    environment |= {"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)]), "XDG_CACHE_HOME": str(tmp_path)}
    folder = tmp_path / "vldac" / "compilation"
    if named:
        folder = tmp_path / "elsewhere"
        environment["JAX_COMPILATION_CACHE_DIR"] = str(folder)
    subprocess.run([sys.executable, "-c", PROGRAM], env=environment, check=True, timeout=120)
    assert any(folder.iterdir())
    assert (tmp_path / "vldac").exists() is not named


ABORTED = """
import os, signal, sys, threading, time
from types import SimpleNamespace
from experiments.program import run_as_program
from experiments.runtime import compiled

def compile():
    while time.monotonic() < began + 60:  # it hears no signal
        time.sleep(0.1)

def main():
    threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
    compiled(SimpleNamespace(compile=compile), SimpleNamespace(compile=lambda: None))

began = time.monotonic()
run_as_program(main)
"""


def test_ctrl_c_waits_for_no_compiler():
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])}
    done = subprocess.run([sys.executable, "-c", ABORTED], env=environment, capture_output=True, timeout=50)
    assert (done.returncode, done.stdout, done.stderr) == (1, b"", b"aborted\n")


def test_programs_come_in_order_and_what_the_compiler_says_is_raised():
    one, two = (jax.jit(function).lower(1.0) for function in (lambda x: x + 1, lambda x: 2 * x))
    assert [float(program(3.0)) for program in runtime.compiled(one, two)] == [4.0, 6.0]
    wrong = Mock(jax.stages.Lowered, compile=Mock(side_effect=ValueError("no such instruction")))
    with pytest.raises(ValueError, match="no such instruction"):
        runtime.compiled(one, wrong)


class Compiler:
    """Waits with each program until so many came `together`; `most` is how many it ever had at once."""

    def __init__(self, together: int = 1):
        self.together, self.running, self.most = together, 0, 0
        self.changed = threading.Condition()
        self.programs: dict[str, Mock] = {}

    def lowered(self, name: str) -> Mock:
        self.programs[name] = Mock(jax.stages.Compiled)
        return Mock(jax.stages.Lowered, compile=lambda: self.compile(name))

    def compile(self, name: str) -> Mock:
        with self.changed:
            self.running += 1
            self.most = max(self.most, self.running)
            self.changed.notify_all()
            self.changed.wait_for(lambda: self.most >= self.together, timeout=30)
        time.sleep(0.1)  # for one too many to come
        with self.changed:
            self.running -= 1
        return self.programs[name]


@pytest.mark.parametrize(("processors", "most"), [(1, 2), (3, 3), (64, 7)])
def test_no_more_programs_are_compiled_at_once_than_there_are_processors(processors, most, monkeypatch):
    monkeypatch.setattr(runtime, "processors", lambda: processors)
    compiler = Compiler(together=most)
    done = runtime.compiled(*map(compiler.lowered, "abcdefg"))
    assert done == tuple(compiler.programs[name] for name in "abcdefg")
    assert compiler.most == most


def test_what_is_announced_is_compiled_with_the_first_that_is_asked_for_and_once(monkeypatch):
    rounds, traced = [], []
    compiled, compiler = runtime.compiled, Compiler()
    monkeypatch.setattr(runtime, "compiled", lambda *lowered: rounds.append(len(lowered)) or compiled(*lowered))
    clock = Clock()
    programs = runtime.Programs(clock)

    def announce(name):
        programs.announce(name, lambda: traced.append(name) or compiler.lowered(name))

    for name in "abca":
        announce(name)
    assert rounds == [] and traced == ["a", "b", "c"]
    assert programs["b"] is compiler.programs["b"] and rounds == [3] and clock.seconds["compile"] > 0
    announce("b")
    announce("d")
    assert [programs[name] for name in "acd"] == [compiler.programs[name] for name in "acd"]
    assert rounds == [3, 1] and traced == ["a", "b", "c", "d"]
