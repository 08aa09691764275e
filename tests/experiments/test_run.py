"""The command line as a user meets it: real processes, killed, resumed, given nonsense."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import envs_jax
import experiments.run
from envs_jax.cards import NumberLine
from experiments import processes
from experiments.build import build
from experiments.config import ConfigError, to_json
from experiments.run import claim, parse
from tests.runs import ROOT, SMALL, TRAINING_ALONE, damage, run, start
from vldac.metrics import read_metrics, read_summary


def numbers(folder: Path) -> list[dict]:
    """Everything but what the clock decides."""
    timed = ("seconds", "per_second")
    return [{k: v for k, v in record.items() if not k.endswith(timed)} for record in read_metrics(folder)]


def refuse(capsys, *arguments: object) -> str:
    """What a command that ends with code 2 says, in this process: to start another one takes ten seconds."""
    capsys.readouterr()
    try:
        code = experiments.run.main([str(argument) for argument in arguments])
    except SystemExit as end:
        code = end.code
    output = "".join(capsys.readouterr())
    assert code == 2 and "Traceback" not in output, output
    return output


def run_here(capsys, monkeypatch, *arguments: object) -> str:
    """What a command that succeeds says, in this process: the run that it goes on from had one of its own."""
    monkeypatch.setenv("COLUMNS", "200")
    capsys.readouterr()
    code = experiments.run.main([str(argument) for argument in arguments])
    output = "".join(capsys.readouterr())
    assert code == 0, output
    return output


def test_a_world_of_ones_own_is_trained_in_by_its_name(monkeypatch):
    monkeypatch.setattr(envs_jax.world, "_BUILDERS", dict(envs_jax.world._BUILDERS))
    envs_jax.register("own/line", lambda name: NumberLine(name=name, image_shape=(64, 80, 3)))
    parts = build(parse(["--world", "own/line", "--evaluation.unseen"]).config)
    assert parts.setup.world.name == "own/line" and list(parts.policies) == ["own/line"]


def test_a_world_of_ones_own_that_breaks_the_contract_is_refused_in_a_line(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "200")  # or the line is broken where the terminal ends
    monkeypatch.setattr(envs_jax.world, "_BUILDERS", dict(envs_jax.world._BUILDERS))
    for field, value in (("max_steps", None), ("instruction", "")):
        kind = type("Own", (NumberLine,), {field: value})
        envs_jax.register(f"own/{field}", lambda name, kind=kind: kind(name=name))
    told = "world is 'own/max_steps', which breaks the contract: max_steps is None; accepted: a positive int"
    assert told in refuse(capsys, "--world", "own/max_steps")
    told = "unseen is 'own/instruction', which breaks the contract: instruction is ''; accepted: a non-empty text"
    assert told in refuse(capsys, "--evaluation.unseen", "own/instruction")


def test_a_run_leaves_what_it_promises(whole):
    folder, output = whole
    assert "report.html" in output and "success" in output and "Traceback" not in output
    for name in ("config.json", "metrics.jsonl", "summary.json", "report.html", "episodes/before.npz"):
        assert (folder / name).stat().st_size > 0, name
    assert list((folder / "checkpoints").iterdir()) and list((folder / "tensorboard").iterdir())
    records = read_metrics(folder)
    assert [r["iteration"] for r in records] == [1, 2, 3, 4, 5, 6]
    assert records[-1]["env_steps"] == sum(r["rollout/env_steps"] for r in records)
    summary = read_summary(folder)
    worlds = ["miniworld/one_room_s6_fast", "cards/number_line"]
    assert list(summary["success_rate"]) == worlds
    for world in worlds:
        assert set(summary["success_rate"][world]) == {"random", "before", "after", "expert"}
        for rate, low, high in summary["success_rate"][world].values():
            assert 0 <= low <= rate <= high <= 1
    assert {"compile", "imitation", "rollout", "update", "evaluation", "total"} <= set(summary["seconds"])
    assert summary["interrupted"] is False and summary["env_steps"] == records[-1]["env_steps"]
    report = (folder / "report.html").read_text()
    assert "miniworld/one_room_s6_fast" in report and 'src="http' not in report


def test_the_configuration_on_disk_runs_again_to_the_same_numbers(whole, tmp_path, capsys, monkeypatch):
    folder, _ = whole
    # Evaluations change nothing of the training, and take most of the time.
    again = "--config", folder / "config.json", "--evaluation.episodes", 0
    run_here(capsys, monkeypatch, *again, "--folder", tmp_path, "--name", "again")
    assert numbers(tmp_path / "again") == numbers(folder)


@pytest.mark.slow  # four processes one after another; test_checkpoints.py goes on from a stop, too
def test_killed_at_any_moment_it_resumes_to_the_same_numbers(whole, tmp_path):
    """Killed as soon as the file shows so many iterations: before the first checkpoint, and beside later ones."""
    folder, _ = whole
    arguments = ("--folder", tmp_path, "--name", "killed", *SMALL)
    target = tmp_path / "killed"
    process = start(*arguments)
    for wanted in ("config.json", 1, 3, 4):
        deadline = time.monotonic() + 500
        while time.monotonic() < deadline and process.poll() is None:
            if wanted == "config.json" and (target / wanted).exists():
                break
            if isinstance(wanted, int) and (target / "metrics.jsonl").exists():
                lines = (target / "metrics.jsonl").read_bytes().count(b"\n")
                if lines >= wanted:
                    break
            time.sleep(0.01)
        assert process.poll() is None, process.communicate()[0]
        process.send_signal(signal.SIGKILL)
        process.communicate()
        process = start("--resume", target)
    output, _ = process.communicate(timeout=500)
    assert process.returncode == 0, output
    assert "Going on after iteration" in output
    assert numbers(target) == numbers(folder)
    ours, theirs = read_summary(target), read_summary(folder)
    for figure in ("success_rate", "steps_to_goal", "mean_return", "parse_failure_rate", "env_steps"):
        assert ours[figure] == theirs[figure]


def test_a_corrupt_newest_checkpoint_is_passed_over_and_said(whole, tmp_path, capsys, monkeypatch):
    folder, _ = whole
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    newest = damage(copy)
    output = run_here(capsys, monkeypatch, "--resume", copy)
    assert str(newest) in output and "passed over" in output and "Going on after iteration 4" in output
    assert numbers(copy) == numbers(folder)


def test_ctrl_c_finishes_the_iteration_saves_and_reports(tmp_path):
    # The world of the other runs: half of what it compiles is there already.
    arguments = [*SMALL, *TRAINING_ALONE, "--iterations", 100_000]
    process = start("--folder", tmp_path, "--name", "stopped", *arguments)
    folder = tmp_path / "stopped"
    deadline = time.monotonic() + 500
    while time.monotonic() < deadline and not (
        (folder / "metrics.jsonl").exists() and (folder / "metrics.jsonl").read_bytes().count(b"\n") >= 3
    ):
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=200)
    assert process.returncode == 0, output
    assert f"--resume {folder}" in output and "Traceback" not in output
    done = len(read_metrics(folder))
    assert read_summary(folder)["interrupted"] is True and (folder / "report.html").exists()
    newest = max(path.name for path in (folder / "checkpoints").iterdir() if path.name[0] != ".")
    assert int(newest) == done >= 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rollout.worldz", "3"], "worldz"),
        (["--rollout.worlds", "many"], "many"),
        (["--rollout.worlds", "0"], "worlds is 0; accepted: 1 or more"),
        (
            ["--optimizer.minibatch", "100", "--optimizer.microbatch", "0"],
            "minibatch is 100; accepted: a divisor of worlds x steps, which is 256",
        ),
        (["--iterations", "0"], "iterations is 0; accepted: 1 or more"),
        (["--world", "miniworld/one_rom"], "nearest: miniworld/one_room"),
        (["nanoo"], "preset is 'nanoo'; accepted: nano, number_line"),
        (["--config", "nowhere.json"], "nowhere.json can not be read: No such file"),
        (["--resume", "nowhere"], "nowhere/config.json can not be read: No such file"),
        (["--resume", "x", "--config", "y"], "accepted: one of them"),
        (["--policy.max-tokens", "5", "--policy.decoding", "grammar"], "max_tokens is 5; accepted:"),
    ],
)
def test_nonsense_is_refused_before_anything_is_written(tmp_path, capsys, monkeypatch, arguments, message):
    monkeypatch.setenv("COLUMNS", "200")
    where = [] if "--resume" in arguments else ["--folder", tmp_path / "runs"]
    output = refuse(capsys, *arguments, *where)
    text = re.sub(r"[^\S ]|[│╭╮╰╯─]", " ", output)
    assert message in re.sub(r" +", " ", text), output
    assert not (tmp_path / "runs").exists()


def test_an_existing_run_is_never_touched(whole, capsys):
    folder, _ = whole
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    output = refuse(capsys, "--folder", folder.parent, "--name", folder.name, *SMALL)
    assert "is not empty; accepted: another --name, or --resume" in output
    assert "optimizer.minibatch is 4, and 8 in the run" in refuse(
        capsys, "--resume", folder, "--optimizer.minibatch", 4
    )
    assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_a_command_that_goes_on_can_be_pasted_whatever_the_folder_is_called(tmp_path, capsys):
    folder = tmp_path / "a run [1]"
    folder.mkdir()
    (folder / "kept").touch()
    told = refuse(capsys, "--folder", tmp_path, "--name", folder.name)
    assert shlex.split(told.partition("or --resume ")[2]) == [str(folder)]
    assert shlex.split(experiments.run.resuming(folder))[-2:] == ["--resume", str(folder)]


CLAIM = """
import sys
from experiments.run import claim, parse
command, held = claim(parse(sys.argv[1:]))
print("claimed", flush=True)
sys.stdin.read()
"""


def test_a_second_process_is_kept_out_of_a_folder_until_the_first_one_has_ended_or_was_killed(tmp_path, capsys):
    """Without it two would delete each other's checkpoints and log each iteration twice."""
    arguments = ["--folder", str(tmp_path), "--name", "x"]
    folder = tmp_path / "x"
    other = subprocess.Popen(
        [sys.executable, "-c", CLAIM, *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert other.stdout.readline() == "claimed\n"
        with pytest.raises(ConfigError, match="x is in use by another process; accepted: another folder"):
            claim(parse(arguments))  # nothing of the other run is there yet
        (folder / "config.json").write_text(to_json(parse(arguments).config))
        before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
        output = refuse(capsys, "--resume", folder)
        assert output.startswith(f"error: {folder} is in use by another process; accepted: ")
        assert output.count("\n") == 1
        assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    finally:
        other.kill()
        other.communicate()
    command, held = claim(parse(["--resume", str(folder)]))
    with held:
        assert command.run_dir == folder


def job(monkeypatch, meanwhile) -> None:
    """Has `experiments.run.main` call `meanwhile(parts, run_dir)` in place of doing the work."""

    class Idle:
        def __init__(self, parts, run_dir, console):
            self.run = lambda resume: meanwhile(parts, run_dir) or {"interrupted": False}

    monkeypatch.setattr(experiments.run, "Job", Idle)


def test_a_run_holds_its_folder_as_long_as_it_works_there(tmp_path, monkeypatch):
    def meanwhile(parts, run_dir):
        (run_dir / "config.json").write_text(to_json(parts.config))
        with pytest.raises(ConfigError, match="in use by another process"):
            claim(parse(["--resume", str(run_dir)]))

    job(monkeypatch, meanwhile)
    assert experiments.run.main(["--folder", str(tmp_path), "--name", "x"]) == 0
    _, held = claim(parse(["--resume", str(tmp_path / "x")]))
    held.close()


def test_runs_that_begin_in_one_second_get_folders_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setattr(experiments.run.time, "strftime", lambda *_: "20300101-000000")
    made = []

    def meanwhile(parts, run_dir):
        made.append((run_dir.name, parts.config.name))
        if len(made) < 3:
            assert experiments.run.main(["--folder", str(tmp_path)]) == 0

    job(monkeypatch, meanwhile)
    assert experiments.run.main(["--folder", str(tmp_path)]) == 0
    name = "miniworld-one_room_s6_fast-20300101-000000-seed0"
    names = [name, f"{name}-2", f"{name}-3"]
    assert made == [(name, name) for name in names]
    assert sorted(path.name for path in tmp_path.iterdir()) == names


def test_of_several_processes_the_first_one_claims_and_does_not_wait_for_the_others_when_refused(
    tmp_path, monkeypatch
):
    arguments = ["--folder", str(tmp_path), "--name", "x"]
    _, held = claim(parse(arguments))
    monkeypatch.setattr(experiments.run.jax, "process_count", lambda: 2)
    monkeypatch.setattr(processes, "leave", sys.exit)
    with held:
        with pytest.raises(SystemExit) as end:  # at an ordinary exit it would wait for the others
            experiments.run.main(arguments)
        assert end.value.code == 2
        monkeypatch.setattr(experiments.run.jax, "process_index", lambda: 1)
        claim(parse(arguments))


def test_a_file_system_without_locks_is_warned_of(tmp_path, monkeypatch, capsys):
    def flock(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", flock)
    _, held = claim(parse(["--folder", str(tmp_path), "--name", "x"]))
    with held:
        told = capsys.readouterr().err
    assert told.startswith(f"warning: {tmp_path / 'x'} can not be locked (No locks available)")
    assert told.count("\n") == 1


def test_a_folder_that_can_not_be_made_is_said(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    output = refuse(capsys, "--folder", tmp_path / "file", "--name", "x")
    assert "can not be made: Not a directory" in output


def test_a_full_disk_is_said(tmp_path):
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(tmp_path)], capture_output=True
    ).returncode:
        pytest.skip("mounting is not permitted here")
    try:
        code, output = run("--folder", tmp_path, "--name", "x", *SMALL, *TRAINING_ALONE)
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)
    assert code == 1 and "Traceback" not in output
    errors = [line for line in output.splitlines() if line.startswith("error: cannot save")]
    assert len(errors) == 1 and "No space left on device" in errors[0]


def test_help_tells_presets_and_flags(capsys):
    with pytest.raises(SystemExit) as end:
        experiments.run.main(["--help"])
    assert end.value.code == 0
    output = capsys.readouterr().out
    for word in ("number_line", "--resume", "--rollout.worlds", "Worlds side by side", "--algorithm.gamma"):
        assert word in output


def test_metrics_are_json_that_any_reader_can_read(whole):
    folder, _ = whole
    for line in (folder / "metrics.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
