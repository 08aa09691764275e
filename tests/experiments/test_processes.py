"""Many devices on the command line: what can not be is refused, and processes that share a run leave one."""

from __future__ import annotations

import dataclasses
import re

import pytest

from experiments import processes
from experiments.build import check_divides
from experiments.config import ConfigError, RunConfig, to_json
from experiments.run import parse
from vldac.imitation import ImitationConfig
from vldac.mesh import MeshConfig
from vldac.rollout import RolloutConfig
from vldac.train import OptimizerConfig

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
