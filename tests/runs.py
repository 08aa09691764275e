"""A small run on the command line, as a user starts it: a process of its own."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
SMALL = shlex.split(
    "--imitation.steps 3 --imitation.worlds 2 --imitation.window 2 --rollout.worlds 4 --rollout.steps 2 "
    "--optimizer.minibatch 8 --optimizer.microbatch 0 --optimizer.epochs 1 --evaluation.episodes 4 "
    "--evaluation.lanes 4 --evaluation.record 2 --evaluation.unseen cards/number_line --policy.max-tokens 16 "
    "--checkpoint.every 2 --iterations 6"
)
TRAINING_ALONE = shlex.split("--imitation.steps 0 --evaluation.unseen --evaluation.episodes 0")
"""After `SMALL`: iterations and nothing else."""


def damage(run: Path) -> Path:
    """Cuts the largest file of a run's newest checkpoint, whose folder it returns."""
    newest = max(path for path in (run / "checkpoints").iterdir() if path.name[0] != ".")
    victim = max((path for path in newest.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    victim.write_bytes(victim.read_bytes()[:-7])
    return newest


def start(*arguments: object) -> subprocess.Popen:
    """`python -m experiments.run` with these arguments; standard error is in its standard output."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)]), "COLUMNS": "200"}
    return subprocess.Popen(
        [sys.executable, "-m", "experiments.run", *map(str, arguments)],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run(*arguments: object) -> tuple[int, str]:
    """(exit code, output) of such a process when it has ended; it ends with the test that has waited too long."""
    with start(*arguments) as process:
        try:
            output, _ = process.communicate()
        finally:
            process.kill()
    return process.returncode, output
