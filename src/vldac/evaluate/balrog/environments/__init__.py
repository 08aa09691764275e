"""BALROG's games behind one face. Nothing of JAX is imported here: each runs in a process of its own."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from vldac.evaluate.balrog.observation import Observation

_MODULES = ("babyai", "crafter", "textworld", "babaisai", "minihack", "nle")


@dataclass(frozen=True)
class Spec:
    """Which game, and how.

    Attributes:
      environment, task: under their official names.
      seed: of the episode; the same seed is the same game.
      images: whether pictures are wanted, as when `max_image_history` is at least 1.
      textworld_games, boxoban_dir: folders of what is not on the package index.
    """

    environment: str
    task: str
    seed: int
    images: bool = False
    textworld_games: Path | None = None
    boxoban_dir: Path | None = None


@runtime_checkable
class Game(Protocol):
    """One episode of a game, begun by its constructor.

    Attributes:
      instruction: the first message of every prompt.
      actions: the valid ones; None where any text is one.
      max_steps: the official limit.
      observation: the first one.
    """

    instruction: str
    actions: tuple[str, ...] | None
    max_steps: int
    observation: Observation

    def step(self, action: str) -> tuple[Observation, dict[str, Any]]:
        """Does one valid action.

        Returns:
          what is seen then, and what `scoring.progression` reads of a step: JSON data, with at least `reward`,
          `terminated` and `truncated`.
        """
        ...


def begin(spec: Spec) -> Game:
    """Imports the game's packages, and begins an episode.

    Raises:
      ModuleNotFoundError: a package that is missing.
      whatever the game raises.
    """
    if spec.environment not in _MODULES:
        raise ValueError(f"environment is {spec.environment!r}; accepted: {', '.join(_MODULES)}")
    return importlib.import_module(f"{__name__}.{spec.environment}").begin(spec)
