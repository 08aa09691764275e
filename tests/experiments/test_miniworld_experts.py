"""What can not be is told before the experts begin to walk."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments import miniworld_experts


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (
            ["--worlds", "miniworld/maze", "cards/b*"],
            "worlds has 'cards/blackjack'; accepted: those of",
        ),
        (["--worlds", "nowhere"], "'nowhere' fits no world; accepted: cards/"),
        (["--worlds", "miniworld/maze:depth=3"], "depth"),
        (["--episodes", "0"], "episodes is 0; accepted: 1 or more"),
        (["--out", "no/such/folder.md"], "out is 'no/such/folder.md'; accepted: a file in a folder that is there"),
    ],
)
def test_what_can_not_be_is_told_in_a_line(arguments, told, capsys):
    with pytest.raises(SystemExit) as caught:
        miniworld_experts.main(arguments)
    assert caught.value.code == 2 and told in capsys.readouterr().err


def test_the_table_has_a_row_of_each_world(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(miniworld_experts, "row", lambda name, episodes: f"| {name} | {episodes} |")
    asked = ["--worlds", "miniworld/one_room_s6*", "--episodes", "3", "--out"]
    assert miniworld_experts.main([*asked, str(tmp_path / "table.md")]) == 0
    rows = (tmp_path / "table.md").read_text().splitlines()[-2:]
    assert rows == ["| miniworld/one_room_s6 | 3 |", "| miniworld/one_room_s6_fast | 3 |"]
    capsys.readouterr()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    assert miniworld_experts.main([*asked, "table.md"]) == 1
    told = capsys.readouterr()
    assert told.err == "error: table.md can not be written: No space left on device\n"
    assert rows[0] in told.out  # what was measured is not lost
