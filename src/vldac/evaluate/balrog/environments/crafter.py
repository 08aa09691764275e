"""Crafter in words: the nearest of each kind of thing in view, what is in front, how one is, what one has.

Source, whose behaviour is reproduced: balrog-ai/BALROG, environments/crafter/env.py.
"""

from __future__ import annotations

import collections
from collections.abc import Mapping, Sequence
from typing import Any

import crafter
import numpy as np

from vldac.evaluate.balrog import prompts
from vldac.evaluate.balrog.environments import Spec
from vldac.evaluate.balrog.observation import Observation
from vldac.evaluate.balrog.scoring import ACTIONS

MAX_STEPS = 2000
VIEW = (9, 9)  # the lowest two rows of it are the inventory

_VITALS = ("health", "food", "drink", "energy")


class Crafter:
    """See `environments.Game`. The first observation is that after one idle step, as in the official runs."""

    actions = ACTIONS["crafter"]
    max_steps = MAX_STEPS

    def __init__(self, spec: Spec):
        self._env = crafter.Env(area=(64, 64), view=VIEW, size=(256, 256), reward=True, seed=spec.seed)
        self._images = spec.images
        # crafter numbers materials, and kinds of creatures behind them.
        kinds = {**self._env._world._mat_ids, **self._env._sem_view._obj_ids}
        self._names = {
            index: kind.__name__.lower() if isinstance(kind, type) else str(kind) for kind, index in kinds.items()
        }
        self.instruction = prompts.crafter()
        self._env.reset()
        _order(self._env._world)
        self.observation, _ = self.step("Noop")

    def step(self, action: str) -> tuple[Observation, dict[str, Any]]:
        _, reward, done, info = self._env.step(self.actions.index(action))
        player = self._env._player
        status = ""
        if player.sleeping:
            status = "You are sleeping, and will not be able take actions until energy is full.\n\n\n\n"
        elif player.health <= 0:
            status = "You died.\n\n\n\n"
        seen = describe(info["semantic"], info["player_pos"], tuple(player.facing), self._names)
        text = seen if seen == LOST else status + seen
        image = self._env.render() if self._images else None
        # Its end by its own limit of 10,000 steps is never reached.
        told = {"reward": float(reward), "terminated": bool(done), "truncated": False}
        told["achievements"] = {name: int(count) for name, count in info["achievements"].items()}
        return Observation(text, inventory(info["inventory"]), image), told


class _Ordered(dict):
    """A set that keeps the order in which things came."""

    def add(self, thing: Any) -> None:
        self[thing] = None

    def remove(self, thing: Any) -> None:
        del self[thing]


def _order(world: crafter.engine.World) -> None:
    """Keeps a world's creatures in order: crafter's own sets go by addresses in memory, and so would its dice."""
    chunks = collections.defaultdict(_Ordered, {key: _Ordered() for key in world._chunks})
    for thing in world.objects:
        chunks[world.chunk_key(thing.pos)].add(thing)
    world._chunks = chunks


LOST = "Error, you are out of the map."


def describe(semantic: np.ndarray, position: np.ndarray, facing: Sequence[int], names: Mapping[int, str]) -> str:
    """What is in view and in front.

    Args:
      semantic: int[64, 64], what is at each column and row.
      position: int[2], the player's column and row.
      facing: the way it looks, columns and rows.
      names: of the numbers in `semantic`.

    Near the map's left and upper edge the official view is empty, by an index that becomes negative, and so is
    this; `LOST` where the player is not where it should be.
    """
    x, y = int(position[0]), int(position[1])
    if names[int(semantic[x, y])] != "player":
        return LOST
    across, down = VIEW[0] // 2, VIEW[1] // 2 - 1
    view = semantic[x - across : x + across + 1, y - down : y + down + 1]
    front = (across + int(facing[0]), down + int(facing[1]))
    inside = all(0 <= at < size for at, size in zip(front, view.shape, strict=True))
    ahead = names[int(view[front])] if inside else "nothing"

    nearest: dict[str, tuple[int, str]] = {}
    for i, j in np.ndindex(view.shape):
        name = names[int(view[i, j])]
        east, south = i - across, j - down
        distance = abs(east) + abs(south)
        if name == "player" or (name in nearest and nearest[name][0] <= distance):
            continue
        way = ["north" if south < 0 else "south"] * (south != 0) + ["west" if east < 0 else "east"] * (east != 0)
        nearest[name] = (distance, f"{distance} step{'s' if distance > 1 else ''} to your {'-'.join(way)}")
    lines = [f"- {name} {where}" for name, (_, where) in nearest.items()]
    seen = "\n".join(["You see:", *lines]) if lines else "You see nothing away from you."
    return f"{seen}\n\nYou face {ahead} at your front."


def inventory(has: Mapping[str, int]) -> str:
    """How one is, and what one has."""
    status = "\n".join(["Your status:", *(f"- {name}: {has[name]}/9" for name in _VITALS)])
    things = [f"- {name}: {count}" for name, count in has.items() if name not in _VITALS and count]
    return f"{status}\n\n" + (
        "\n".join(["Your inventory:", *things]) if things else "You have nothing in your inventory."
    )


begin = Crafter
