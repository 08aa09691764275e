"""A command as a program: ended by Ctrl-C before it has begun to work, and on systems that differ."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace

import pytest

from experiments import job

ROOT = Path(__file__).parents[2]


def python(*arguments: str, path: Path = ROOT) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(path), str(ROOT / "src"), str(ROOT)])}
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True)


def test_ctrl_c_while_a_command_is_imported_ends_it_without_a_word(tmp_path):
    """Also where it would be lost: what is imported may look away from an exception."""
    (tmp_path / "tyro.py").write_text(
        textwrap.dedent(
            """
            import os, signal, time
            try:
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(60)
            except BaseException:
                raise ImportError("something went wrong")
            """
        )
    )
    done = python("-m", "experiments.compare", "a", "b", path=tmp_path)
    assert done.returncode == -signal.SIGINT and done.stdout == done.stderr == ""


@pytest.mark.parametrize("when", ["raise KeyboardInterrupt", "os.kill(os.getpid(), signal.SIGINT)"])
def test_ctrl_c_in_a_command_ends_it_with_a_line(when):
    program = f"""
import os, signal
signal.signal(signal.SIGINT, signal.SIG_DFL)
from experiments.program import run_as_program

def main():
    {when}
    return 0

run_as_program(main)
"""
    done = python("-c", program)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "aborted\n")


def test_importing_the_experiments_leaves_ctrl_c_as_it_is():
    program = "import signal, experiments; assert signal.getsignal(signal.SIGINT) is signal.default_int_handler"
    assert python("-c", program).returncode == 0


def test_ctrl_c_that_a_shell_has_a_command_ignore_stays_ignored():
    """As of what it starts in the background."""
    program = """
import signal, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)
sys.argv = ["-m"]
from experiments.program import run_as_program
run_as_program(lambda: int(signal.getsignal(signal.SIGINT) is not signal.SIG_IGN))
"""
    assert python("-c", program).returncode == 0


def test_on_windows_a_command_says_where_it_runs():
    """And not that `fcntl` is missing."""
    told = python("-c", "import sys; sys.platform = 'win32'; sys.argv = ['-m']; import experiments")
    assert told.returncode == 1 and told.stderr.startswith("error: the commands do not run on Windows itself")
    assert python("-c", "import sys; sys.platform = 'win32'; import experiments").returncode == 0


@pytest.mark.parametrize(("system", "counted"), [("linux", 3 * 2**10), ("darwin", 3 * 2**20)])
def test_memory_is_counted_in_the_systems_own_unit(monkeypatch, system, counted):
    monkeypatch.setattr(job.sys, "platform", system)
    monkeypatch.setattr(job.resource, "getrusage", lambda who: SimpleNamespace(ru_maxrss=counted))
    assert job.peak_memory_mib() == 3.0


def test_a_reader_that_goes_away_is_no_traceback():
    """`... --help | head -1`."""
    program = """
from experiments.program import run_as_program

def main():
    for _ in range(10_000):
        print("so many lines that a pipe does not hold them")
    return 0

run_as_program(main)
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])}
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b"" and process.wait() == 1
