"""What can not be is told before the experts begin to walk."""

from __future__ import annotations

import pytest

from experiments import miniworld_experts


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--worlds", "cards/blackjack"], "world is 'cards/blackjack'; accepted: miniworld/"),
        (["--worlds", "miniworld/maze:depth=3"], "depth"),
        (["--episodes", "0"], "episodes is 0; accepted: 1 or more"),
        (["--out", "no/such/folder.md"], "out is 'no/such/folder.md'; accepted: a file in a folder that is there"),
    ],
)
def test_what_can_not_be_is_told_in_a_line(arguments, told, capsys):
    with pytest.raises(SystemExit) as caught:
        miniworld_experts.main(arguments)
    assert caught.value.code == 2 and told in capsys.readouterr().err
