"""What NetHack and MiniHack have in common: keys by name, messages of several pages, the screen as text or tiles.

Source, whose behaviour is reproduced: balrog-ai/BALROG, environments/nle/{base,auto_more}.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium.envs.registration import load_env_creator, spec
from nle import nethack
from nle.env.base import NLE

from vldac.evaluate.balrog.environments import nethack_text
from vldac.evaluate.balrog.observation import Observation

SEEN = ("glyphs", "blstats", "tty_chars", "tty_colors", "tty_cursor", "inv_strs", "inv_letters")

_COMPASS = {"N": "north", "E": "east", "S": "south", "W": "west"}
_COMPASS |= {a + b: _COMPASS[a] + _COMPASS[b] for a in "NS" for b in "EW"}
_LONGER = (
    nethack.CompassDirectionLonger,
    nethack.CompassCardinalDirectionLonger,
    nethack.CompassIntercardinalDirectionLonger,
)


def make(task: str, **options: Any) -> NLE:
    """A registered environment itself: `gymnasium.make` would keep its limit of steps from it."""
    registered = spec(task)
    return load_env_creator(registered.entry_point)(**registered.kwargs, **options)


def named(actions: Sequence[Any]) -> dict[str, int]:
    """NLE's actions by the names that nle-language-wrapper gives them: name -> index."""
    names = {}
    for index, action in enumerate(actions):
        if isinstance(action, _LONGER):
            name = f"far {_COMPASS[action.name]}"
        elif action.name in _COMPASS:
            name = _COMPASS[action.name]
        elif action is nethack.Command.TURN:
            name = "turnundead"
        else:
            name = action.name.lower()
        names[name] = index
    return names


class NetHackGame:
    """See `environments.Game`.

    Args:
      env: seeded, not yet reset; made to render "pixel" where pictures are wanted.
      keys: of each valid action, the indices that it types.
      instruction, max_steps: as in `environments.Game`.
      images: whether pictures are wanted. The text then leaves out the map of characters, and tells the bottom
        line.
    """

    def __init__(
        self, env: NLE, keys: Mapping[str, Sequence[int]], instruction: str, max_steps: int, images: bool
    ):
        self._env, self._keys, self._images = env, keys, images
        self._more = (
            list(env.actions).index(nethack.MiscAction.MORE) if nethack.MiscAction.MORE in env.actions else None
        )
        self.actions = tuple(keys)
        self.instruction, self.max_steps = instruction, max_steps
        seen, _ = env.reset()
        self.observation = self._observe(seen, nethack_text.message(seen["tty_chars"]))

    def step(self, action: str) -> tuple[Observation, dict[str, Any]]:
        """Types an action, and turns the pages of what the game then says."""
        reward, over = 0.0, (False, False)
        for key in self._keys[action]:
            seen, gained, *over, _ = self._env.step(key)
            reward += gained
            if any(over):
                break
        message = nethack_text.message(seen["tty_chars"])
        while "--More--" in message and not any(over) and self._more is not None:
            seen, gained, *over, _ = self._env.step(self._more)
            reward += gained
            message = message.replace("--More--", "\n") + nethack_text.message(seen["tty_chars"])
        told = {
            "reward": float(reward),
            "terminated": bool(over[0]),
            "truncated": bool(over[1]),
            "depth": int(seen["blstats"][nethack.NLE_BL_DEPTH]),
            "experience_level": int(seen["blstats"][nethack.NLE_BL_XP]),
        }
        return self._observe(seen, message), told

    def _observe(self, seen: Mapping[str, np.ndarray], message: str) -> Observation:
        glyphs, blstats, at = seen["glyphs"], seen["blstats"], seen["tty_cursor"]
        told = {
            "message": message,
            "language observation": nethack_text.surroundings(glyphs, blstats),
            "cursor": nethack_text.cursor(glyphs, blstats, at),
        }
        brief = {"inventory": nethack_text.inventory(seen["inv_strs"], seen["inv_letters"])}
        if self._images:
            brief = {"statistics": nethack_text.statistics(blstats)} | brief
        else:
            told["cursor"] += f"\n(x={at[1]}, y={at[0]})"
            told["map"] = "".join(f"{bytes(row).decode('latin-1')}\n" for row in seen["tty_chars"][1:])
        image = self._env.render() if self._images else None
        return Observation(_told(told), _told(brief), image)


def _told(parts: Mapping[str, str]) -> str:
    return "\n".join(f"{name}:\n{text}\n" for name, text in parts.items())
