"""TextWorld with a game made on the spot: seconds of compiling, where the package is installed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("textworld")

from vldac.evaluate.balrog.environments import Spec, begin
from vldac.evaluate.balrog.scoring import progression
from vldac.evaluate.balrog.tasks import games


@pytest.mark.slow
def test_a_coin_is_collected(tmp_path):
    folder = tmp_path / "tw_games" / "coin_collector"
    folder.mkdir(parents=True)
    make = Path(sys.executable).with_name("tw-make")
    for seed in (1, 2):
        game = folder / f"{seed}.z8"
        subprocess.run(
            [make, "tw-coin_collector", "--level", "1", "--seed", str(seed), "--output", game, "--format", "z8"],
            check=True,
            capture_output=True,
        )
    assert games(tmp_path, "coin_collector") == [folder / "1.z8", folder / "2.z8"]
    spec = [Spec("textworld", "coin_collector", seed, textworld_games=tmp_path) for seed in (0, 1, 2)]
    first, second, third = (begin(one) for one in spec)
    assert first.observation.long_term == third.observation.long_term != second.observation.long_term
    assert first.observation.long_term.startswith("-= ")  # without the banner and the objective
    steps = [first.step("look")[1], first.step("take coin")[1]]
    assert [step["terminated"] for step in steps] == [False, True]
    assert progression("textworld", steps) == 1
    assert progression("textworld", steps[:1]) == 0
