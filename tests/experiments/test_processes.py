"""Many devices on the command line: what can not be is refused, and processes that share a run leave one."""

from __future__ import annotations

import dataclasses
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from experiments import processes
from experiments.build import check_divides
from experiments.config import ConfigError, RunConfig, to_json
from experiments.run import parse
from vldac.imitation import ImitationConfig
from vldac.mesh import MeshConfig
from vldac.rollout import RolloutConfig
from vldac.state import OptimizerConfig

ROOT = Path(__file__).parents[2]
CONFIG = RunConfig(
    imitation=ImitationConfig(worlds=16),
    rollout=RolloutConfig(worlds=16, steps=2),
    optimizer=OptimizerConfig(minibatch=32, microbatch=16),
)


@pytest.mark.parametrize(
    ("section", "field", "value", "message"),
    [
        (
            "rollout",
            "worlds",
            20,
            "rollout.worlds is 20; accepted: multiples of mesh.data x mesh.fsdp, which",
        ),
        ("rollout", "lanes", 8, "rollout.lanes is 8; accepted: multiples"),
        ("imitation", "worlds", 8, "imitation.worlds is 8; accepted: multiples"),
        ("optimizer", "microbatch", 8, "optimizer.microbatch is 8; accepted: multiples"),
    ],
)
def test_what_a_mesh_can_not_share_out_evenly_is_refused(section, field, value, message):
    check_divides(CONFIG, 16)
    changed = dataclasses.replace(getattr(CONFIG, section), **{field: value})
    with pytest.raises(ConfigError, match=re.escape(message)):
        check_divides(dataclasses.replace(CONFIG, **{section: changed}), 16)


def test_worlds_of_a_warm_start_that_is_left_out_do_not_matter():
    check_divides(dataclasses.replace(CONFIG, imitation=ImitationConfig(steps=0, worlds=3)), 16)


def test_minibatches_without_microbatches_are_what_is_shared_out():
    optimizer = OptimizerConfig(minibatch=24, microbatch=0)
    with pytest.raises(ConfigError, match=r"optimizer\.minibatch is 24; accepted: multiples"):
        check_divides(dataclasses.replace(CONFIG, optimizer=optimizer), 16)


def test_a_run_goes_on_on_other_devices_and_with_nothing_else_changed(tmp_path):
    (tmp_path / "config.json").write_text(to_json(dataclasses.replace(CONFIG, mesh=MeshConfig(data=8))))
    command = parse(["--resume", str(tmp_path), "--mesh.data", "2", "--mesh.tensor", "4"])
    assert command.config == dataclasses.replace(CONFIG, mesh=MeshConfig(data=2, tensor=4))
    with pytest.raises(ConfigError, match="seed is 1, and 0 in the run"):
        parse(["--resume", str(tmp_path), "--mesh.data", "2", "--seed", "1"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--coordinator localhost:1 --processes 2", "go together; accepted: all three, or --distributed"),
        ("--process 0", "go together"),
        ("--coordinator localhost:1 --processes 2 --process 2", "process is 2; accepted: 0 to"),
    ],
)
def test_flags_of_processes_that_do_not_fit_are_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        processes.join(arguments.split(), "run")


def test_other_flags_are_passed_on():
    assert processes.join(["nano", "--seed", "3"], "run") == ["nano", "--seed", "3"]


MEMBER = """
import os, sys
from experiments import processes
processes.HEARTBEAT_SECONDS = 5
processes.join(sys.argv[1:], "run")
import jax
number = jax.process_index()
processes.tell_if_aborted(f"process {number} can not go on: --resume runs/a")
print("joined", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("killed", [0, 1])
def test_whoever_is_killed_the_other_one_is_told_how_to_go_on(killed):
    """Though JAX aborts it from a thread of its own: at once without the first process, else after a while."""
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        port = listener.getsockname()[1]
    members = [
        subprocess.Popen(
            [sys.executable, "-c", MEMBER, *f"--coordinator localhost:{port} --processes 2 --process {n}".split()],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (ROOT / "src", ROOT)))},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for n in "01"
    ]
    for member in members:
        assert member.stdout.readline() == "joined\n", member.communicate()
    members[killed].kill()
    other = 1 - killed
    code = members[other].wait(timeout=60)
    told = members[other].stderr.read()
    assert code == 1 and told.endswith(f"process {other} can not go on: --resume runs/a\n"), told[-2000:]
    members[killed].communicate()
