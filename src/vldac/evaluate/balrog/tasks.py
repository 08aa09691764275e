"""What BALROG plays: its tasks, how often each, and why one can not be played here.

Source: balrog-ai/BALROG, config/config.yaml.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

_BABA = """
make_win-distr_obj_rule goto_win-distr_obj_rule goto_win goto_win-distr_obj goto_win-distr_rule
goto_win-distr_obj-irrelevant_rule make_win-distr_obj make_win-distr_rule make_win
make_win-distr_obj-irrelevant_rule two_room-goto_win two_room-goto_win-distr_obj_rule
two_room-goto_win-distr_rule two_room-goto_win-distr_obj two_room-goto_win-distr_obj-irrelevant_rule
two_room-goto_win-distr_win_rule two_room-break_stop-goto_win-distr_obj_rule
two_room-break_stop-goto_win-distr_obj two_room-break_stop-goto_win-distr_rule
two_room-break_stop-goto_win-distr_obj-irrelevant_rule two_room-break_stop-goto_win
two_room-maybe_break_stop-goto_win-distr_obj_rule two_room-maybe_break_stop-goto_win
two_room-maybe_break_stop-goto_win-distr_obj two_room-maybe_break_stop-goto_win-distr_rule
two_room-maybe_break_stop-goto_win-distr_obj-irrelevant_rule two_room-make_win-distr_obj_rule
two_room-make_win-distr_rule two_room-make_win two_room-make_win-distr_obj-irrelevant_rule
two_room-make_win-distr_obj two_room-make_win-distr_win_rule two_room-break_stop-make_win-distr_obj_rule
two_room-break_stop-make_win-distr_rule two_room-break_stop-make_win
two_room-break_stop-make_win-distr_obj-irrelevant_rule two_room-break_stop-make_win-distr_obj
two_room-make_you two_room-make_you-make_win two_room-make_wall_win
"""
_MINIHACK = """
Boxoban-Hard Boxoban-Medium MazeWalk-9x9 MazeWalk-15x15 Corridor-R3 CorridorBattle-Dark Quest-Easy Quest-Medium
"""

TASKS: dict[str, tuple[str, ...]] = {
    "babyai": tuple(
        f"BabyAI-MixedTrainLocal-v0/{kind}" for kind in ("goto", "pickup", "open", "putnext", "pick_up_seq_go_to")
    ),
    "crafter": ("default",),
    "textworld": ("treasure_hunter", "the_cooking_game", "coin_collector"),
    "babaisai": tuple(f"env/{name}" for name in _BABA.split()),
    "minihack": tuple(f"MiniHack-{name}-v0" for name in _MINIHACK.split()),
    "nle": ("NetHackChallenge-v0",),
}
"""The tasks of each environment, under the official names."""

EPISODES = {"babyai": 10, "crafter": 10, "textworld": 10, "babaisai": 3, "minihack": 5, "nle": 5}
"""Official episodes of each task: 255 in all."""

_PACKAGES = {
    "babyai": ("minigrid",),
    "crafter": ("crafter",),
    "textworld": ("textworld",),
    "babaisai": ("baba",),
    "minihack": ("minihack", "nle"),
    "nle": ("nle",),
}
_BOXOBAN = {"MiniHack-Boxoban-Hard-v0": "hard", "MiniHack-Boxoban-Medium-v0": "medium/train"}


def episode_id(environment: str, task: str, number: int) -> str:
    """As "babyai/BabyAI-MixedTrainLocal-v0/goto/3"; numbers count a task's episodes from 0."""
    return f"{environment}/{task}/{number}"


def unavailable(
    environment: str,
    task: str,
    *,
    images: bool = False,
    textworld_games: Path | None = None,
    boxoban_dir: Path | None = None,
) -> str | None:
    """Why a task can not be played here, in one line that says what to do, or None if it can.

    Args:
      environment, task: of `TASKS`.
      images: whether pictures are wanted; TextWorld has none.
      textworld_games: a folder with a folder of games, *.z8 or *.ulx, for each of TextWorld's tasks.
      boxoban_dir: the folder boxoban-levels-master, with the folders `hard` and `medium`.

    Nothing is imported for it.
    """
    if environment == "textworld" and images:
        return "TextWorld has no pictures: the official runs of vision-language models leave it out"
    missing = [package for package in _PACKAGES[environment] if importlib.util.find_spec(package) is None]
    if "baba" in missing:
        return "the package `baba` is not on the package index: install nacloos/baba-is-ai from its repository"
    if missing:
        return f"{' and '.join(missing)} not installed: pip install 'vldac[balrog]'"
    if environment == "textworld":
        if textworld_games is None:
            return "its games are not on the package index: name the folder of BALROG's games (textworld_games)"
        if not games(textworld_games, task):
            return f"textworld_games is {str(textworld_games)!r}; it has no *.z8 or *.ulx in a folder {task}"
    if task in _BOXOBAN:
        if boxoban_dir is None:
            return "its levels are not on the package index: name the folder boxoban-levels-master (boxoban_dir)"
        if not any((boxoban_dir / _BOXOBAN[task]).glob("*.txt")):
            return f"boxoban_dir is {str(boxoban_dir)!r}; it has no *.txt in {_BOXOBAN[task]}"
    return None


def games(folder: Path, task: str) -> list[Path]:
    """A TextWorld task's games in the official order: *.ulx, then *.z8, by path."""
    return [
        path
        for pattern in ("*.ulx", "*.z8")
        for path in sorted(folder.glob(f"**/{pattern}"))
        if path.parent.name == task
    ]
