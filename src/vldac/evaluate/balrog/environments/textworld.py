"""TextWorld's games, which are the user's own: BALROG's are not on the package index.

Source, whose behaviour is reproduced: balrog-ai/BALROG, environments/textworld/base.py.
"""

from __future__ import annotations

from typing import Any

import textworld.gym
from textworld import EnvInfos

from vldac.evaluate.balrog import prompts
from vldac.evaluate.balrog.environments import Spec
from vldac.evaluate.balrog.observation import Observation
from vldac.evaluate.balrog.tasks import games

MAX_STEPS = 80


class TextWorld:
    """See `environments.Game`. The game is that of the seed, modulo their number."""

    actions = None
    max_steps = MAX_STEPS

    def __init__(self, spec: Spec):
        found = games(spec.textworld_games, spec.task)
        asked = EnvInfos(objective=True, description=True, score=True, max_score=True, won=True)
        game = str(found[spec.seed % len(found)])
        self._env = textworld.gym.make(textworld.gym.register_game(game, asked, max_episode_steps=MAX_STEPS))
        self.instruction = prompts.textworld(spec.task)
        text, info = self._env.reset()
        self.observation = _observe(text, info)

    def step(self, action: str) -> tuple[Observation, dict[str, Any]]:
        text, reward, done, info = self._env.step(action)
        told = {"reward": float(reward), "terminated": bool(done), "truncated": False}
        told |= {"score": float(info["score"]), "max_score": float(info["max_score"]), "won": bool(info["won"])}
        return _observe(text, info), told


def _observe(text: str, info: dict[str, Any]) -> Observation:
    """Without the banner and the objective, which end with it: the instruction says what is to be done."""
    return Observation(text.split(info["objective"])[-1].strip())


begin = TextWorld
