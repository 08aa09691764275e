"""What each game says of itself: the first message of every prompt, word for word the official one.

The texts in prompt_texts/ are BALROG's (MIT), mistakes included, as another wording would be another benchmark:
"pick up the object below you" (it is in front), "2in the game", limits of 40 and 25 steps where 80 are allowed.
Source: balrog-ai/BALROG, environments/*/__init__.py.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from importlib import resources

_GOALS = {
    "corridor": "Your goal is to explore the level and reach the stairs down",
    "quest": (
        "Your goal is to explore the level, fight monsters, and navigate rooms and mazes to ultimately reach the "
        "stairs down."
    ),
    "boxoban": (
        "You are playing Boxoban, a box-pushing game inspired by Sokoban. Your goal is to push the boulders onto "
        "the fountains on the map. You can push the boulders by walking into them, as long as there are no "
        "obstacles behind them."
    ),
}


def babyai(mission: str) -> str:
    """For one episode's mission, such as "go to the red ball"."""
    return _text("babyai").replace("{mission}", mission)


def babaisai() -> str:
    return _text("babaisai")


def crafter() -> str:
    return _text("crafter")


def minihack(task: str, actions: Sequence[str]) -> str:
    """For a task, by its name, and the actions that it allows, in its order."""
    goals = [goal for kind, goal in _GOALS.items() if kind in task.lower()]
    said = minihack_actions()
    return (
        _text("minihack")
        .replace("{actions}", ",\n".join(f"{action}: {said[action]}" for action in actions))
        .replace("{goal}", goals[0] if goals else "Your goal is to get as far as possible in the game.")
    )


def minihack_actions() -> dict[str, str]:
    """All actions that BALROG knows of MiniHack, and what it says of each."""
    return dict(line.split(": ", 1) for line in _text("minihack_actions").splitlines())


def nle() -> str:
    return _text("nle")


def textworld(task: str) -> str:
    """For one of the three tasks. The lines are broken and indented as in the official code."""
    return _text(f"textworld_{task}")


@functools.cache
def _text(name: str) -> str:
    return (
        resources.files(__package__).joinpath("prompt_texts", f"{name}.txt").read_text("utf-8").removesuffix("\n")
    )
