"""Baba Is AI in words: the rules in force, and where things are from where one is.

Its package `baba` (nacloos/baba-is-ai) is not on the package index; it is used as BALROG uses it.
Source, whose behaviour is reproduced: balrog-ai/BALROG, environments/babaisai/base.py. One thing is not: where
nothing is "you" any more and the level begins anew, the official text has a Python dictionary for a map.
"""

from __future__ import annotations

import inspect
import random
from collections.abc import Iterator
from typing import Any

import baba
import numpy as np
from baba.grid import BabaIsYouEnv
from baba.world_object import name_mapping

from vldac.evaluate.balrog import prompts
from vldac.evaluate.balrog.environments import Spec
from vldac.evaluate.balrog.observation import Observation

_SHOWN = ("fball", "fwall", "fdoor", "fkey", "rule_object", "rule_is", "rule_property")


class BabaIsAI:
    """See `environments.Game`."""

    def __init__(self, spec: Spec):
        self._env = baba.make(spec.task, add_ruleset=True)
        self._images = spec.images
        self.actions = tuple(action.name for action in BabaIsYouEnv.Actions)
        self.max_steps = int(self._env.max_steps)
        self.instruction = prompts.babaisai()
        # Its older versions draw levels by the global dice, its newer ones by their own.
        random.seed(spec.seed)
        np.random.seed(spec.seed)
        seeded = "seed" in inspect.signature(self._env.reset).parameters
        self._env.reset(**({"seed": spec.seed} if seeded else {}))
        self.observation = self._observe()

    def step(self, action: str) -> tuple[Observation, dict[str, Any]]:
        _, reward, done, _ = self._env.step(self.actions.index(action))
        return self._observe(), {"reward": float(reward), "terminated": bool(done), "truncated": False}

    def _observe(self) -> Observation:
        rules = [f"{name.removeprefix('f')} is {said}" for name, said in self._rules()]
        here = self._here()
        broken = here is None
        if broken:
            self._env.reset()
            here = self._here()
        things = [_where(name.removeprefix("f"), x - here[0], y - here[1]) for x, y, name in self._things(_SHOWN)]
        text = "[...] IS YOU rule was broken, environment reset" if broken else ""
        text += "\n".join(["Active rules:", *rules, "", "Objects on the map:", *things])
        image = np.asarray(self._env.render(mode="rgb_array"), np.uint8) if self._images else None
        return Observation(text, image=image)

    def _rules(self) -> Iterator[tuple[str, str]]:
        """(thing, property) of each complete rule."""
        for rule in self._env.grid._ruleset["_rule_"]:
            if "object" in rule and "property" in rule:
                yield rule["object"], name_mapping[rule["property"]]

    def _here(self) -> tuple[int, int] | None:
        """Where the first thing is that the last "... is you" names."""
        you = [name for name, said in self._rules() if said == "you"]
        return next(((x, y) for x, y, _ in self._things(tuple(you[-1:]))), None)

    def _things(self, kinds: tuple[str, ...]) -> Iterator[tuple[int, int, str]]:
        """(column, row, name) of all of these kinds, row by row."""
        for y in range(self._env.height):
            for x in range(self._env.width):
                cell = self._env.grid.get(x, y)
                if cell is None or cell.type not in kinds:
                    continue
                if cell.type == "rule_object":
                    yield x, y, f"rule `{cell.name}`"
                elif cell.type == "rule_is":
                    yield x, y, f"rule `{name_mapping[cell.name]}`"
                elif cell.type == "rule_property":
                    yield x, y, f"rule `{name_mapping[cell.property]}`"
                else:
                    yield x, y, cell.type


def _where(name: str, right: int, down: int) -> str:
    """ "wall 2 steps to the right and 1 step down"; to the left and up it is always "step", as it is there."""
    ways = []
    if right:
        ways.append(f"{abs(right)} {'steps' if right > 1 else 'step'} to the {'right' if right > 0 else 'left'}")
    if down:
        ways.append(f"{abs(down)} {'steps' if down > 1 else 'step'} {'down' if down > 0 else 'up'}")
    return f"{name} {' and '.join(ways)}" if ways else ""


begin = BabaIsAI
