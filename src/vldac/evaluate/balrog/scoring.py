"""BALROG's scores: how far an agent came in six games, and how its words become an action.

The games are not here, only what turns their steps into figures: `progression` an episode's, `aggregate` all of
them; and `parse_action`, which decides what a model's words do.

Source, whose behaviour is reproduced: balrog-ai/BALROG (MIT) of 2025, environments/*, agents/*, env_wrapper.py and
utils.py. The table of NetHack levels is its data, see nethack_levels.json; level 1 is worth 0 in it, as in the
published results, and was worth 0.0126 in versions before them.
"""

from __future__ import annotations

import functools
import json
import math
import re
import string
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

_DIRECTIONS = ("north", "east", "south", "west", "northeast", "southeast", "southwest", "northwest")
_MOVES = (*_DIRECTIONS, *(f"far {direction}" for direction in _DIRECTIONS), "up", "down", "wait", "more")
_CRAFTER = """Noop,Move West,Move East,Move North,Move South,Do,Sleep,Place Stone,Place Table,Place Furnace,
Place Plant,Make Wood Pickaxe,Make Stone Pickaxe,Make Iron Pickaxe,Make Wood Sword,
Make Stone Sword,Make Iron Sword"""
_MINIHACK = "apply close open eat force kick loot pickup pray puton quaff search zap"
_NETHACK = """adjust apply attributes call cast chat close dip drop droptype eat esc engrave enhance fire fight
force inventory inventtype invoke jump kick look loot monster move movefar offer open pay pickup
pray puton quaff quiver read remove ride rub rush rush2 search seeamulet seearmor seegold seerings
seespells seetools seetrap seeweapon shell sit swap takeoff takeoffall throw tip turnundead
twoweapon untrap versionshort wear wield wipe zap space"""

ACTIONS: dict[str, tuple[str, ...] | None] = {
    "babyai": ("turn left", "turn right", "go forward", "pick up", "drop", "toggle"),
    "crafter": tuple(_CRAFTER.replace("\n", "").split(",")),
    "textworld": None,
    "babaisai": ("idle", "up", "right", "down", "left"),
    "minihack": (*_MOVES, *_MINIHACK.split()),
    "nle": (
        *_MOVES,
        *_NETHACK.split(),
        *string.ascii_letters,  # answers to the game's questions, as are the numbers
        *string.digits,
        *(f"{number:02d}" for number in range(100)),
    ),
}
"""The valid actions of each environment; None where any text is one. A MiniHack task allows some of MiniHack's."""

DEFAULT_ACTION = {"babyai": "go forward", "crafter": "Noop", "babaisai": "idle", "minihack": "north", "nle": "esc"}
"""What an invalid action is replaced with."""

ENVIRONMENTS = tuple(ACTIONS)
AGENTS = ("naive", "few_shot", "cot", "robust_naive", "robust_cot", "custom", "dummy")

UNPARSED = "Failed to obtain a valid action from the reasoning."
"""What robust_cot takes for the action where none is marked."""

_CRAFTER_ACHIEVEMENTS = 22


def progression(environment: str, steps: Sequence[Mapping[str, Any]]) -> float:
    """How far an episode came, in 0..1.

    Args:
      environment: one of `ENVIRONMENTS`.
      steps: what the environment gave at each step, in order, without the reset. Of a step's keys are read
        babyai, minihack: `reward`.
        babaisai: `reward`, `terminated`, `truncated`.
        textworld: `terminated`, `truncated`; of the last also `score`, `max_score`, `won`.
        crafter: of the last step `achievements`, name -> how often, all of the episode.
        nle: `depth` and `experience_level`, of the bottom line.

    Returns:
      babyai: 1 if any reward was above 0.
      babaisai: 1 if the step that ended the episode, either way, had a reward above 0.
      textworld: the part of the score that was reached, or 1 if won; but 0 unless the episode ended.
      crafter: the part of the 22 achievements that was unlocked.
      minihack: 1 if the last step's reward is at least 1; earlier steps count for nothing.
      nle: the best of what the table gives for any depth or experience level reached; there is no interpolation,
        and a level outside of the table counts for nothing.
      No step gives 0.

    Raises:
      ValueError: an unknown environment, a step without a key that is read, or a max_score that is not above 0.
    """
    _check("environment", environment, ENVIRONMENTS)
    at = functools.partial(_at, environment, steps)
    n = len(steps)
    if environment == "babyai":
        return float(any([at(i, "reward") > 0 for i in range(n)]))
    if environment == "minihack":
        return float(n > 0 and at(n - 1, "reward") >= 1.0)
    if environment == "crafter":
        unlocked = sum(count > 0 for count in at(n - 1, "achievements").values()) if n else 0
        return unlocked / _CRAFTER_ACHIEVEMENTS
    if environment == "nle":
        reached = [
            _levels(kind).get(int(at(i, kind)), 0.0) for i in range(n) for kind in ("depth", "experience_level")
        ]
        return max(reached, default=0.0)
    ends = [i for i in range(n) if at(i, "terminated") or at(i, "truncated")]
    if not ends:
        return 0.0
    end = ends[-1]
    if environment == "babaisai":
        return float(at(end, "reward") > 0)
    max_score = at(end, "max_score")
    if not max_score > 0:
        raise ValueError(f"max_score is {max_score} in step {end}; accepted: above 0")
    return max(at(end, "score") / max_score, 1.0 if at(end, "won") else 0.0)


def parse_action(
    environment: str, agent: str, completion: str, actions: Sequence[str] | None = None
) -> tuple[str, str]:
    """The action that a model's words are taken for, and the one that is executed.

    Args:
      environment: one of `ENVIRONMENTS`.
      agent: one of `AGENTS`, by which the words were asked for:
        naive, few_shot: all of it, without what is neither a letter, a blank nor a colon. So digits are lost, and
          a space before a lost character stays and makes the action invalid.
        cot: of the same, what follows the last "ACTION:", stripped.
        robust_naive: what is between the first <|ACTION|> and <|END|>, stripped; or else all of it, stripped.
        robust_cot: the same, or else `UNPARSED`.
        custom: what follows the first "ACTION:" in any case, to the end, stripped; "" without it.
        dummy: "wait", whatever was said.
      completion: what the model wrote. BALROG's clients strip it first.
      actions: the valid ones, where the task has others than `ACTIONS[environment]`.

    Returns:
      (parsed, executed). They differ where the parsed one is not, to the letter, a valid one; then the official
      code executes the default, and tells the model so unless it is switched off.

    Raises:
      ValueError: an unknown environment or agent.
    """
    _check("environment", environment, ENVIRONMENTS)
    _check("agent", agent, AGENTS)
    parsed = _parse(agent, completion)
    valid = ACTIONS[environment] if actions is None else actions
    return parsed, parsed if valid is None or parsed in valid else DEFAULT_ACTION.get(environment, "help")


def aggregate(progressions: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """The leaderboard's figures, in percent, under the official names.

    Args:
      progressions: of each environment that was played, each episode's, all tasks together. The leaderboard of
        vision-language models has no textworld.

    Returns:
      `average_progress`, the mean of the environments' means; `standard_error`, of it; `environments`, of each its
      `progression_percentage`, `standard_error` and `episodes_played`. Standard errors are the official ones: the
      standard deviation by n (not n - 1) over the root of n, and 0 for a single episode.

    Raises:
      ValueError: no environment, an unknown one, one without an episode, or a progression outside 0..1.
    """
    if not progressions:
        raise ValueError(f"progressions is empty; accepted: at least one of {', '.join(ENVIRONMENTS)}")
    environments = {}
    means = []
    for environment, values in progressions.items():
        _check("environment", environment, ENVIRONMENTS)
        if not values or not all(0 <= value <= 1 for value in values):
            raise ValueError(
                f"progressions of {environment} are {list(values)}; accepted: at least one, in 0 to 1"
            )
        n = len(values)
        mean = sum(values) / n
        deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / n)
        means.append(mean)
        environments[environment] = {
            "progression_percentage": 100 * mean,
            "standard_error": 100 * (deviation / math.sqrt(n)) if n > 1 else 0.0,
            "episodes_played": n,
        }
    squares = sum(figures["standard_error"] ** 2 for figures in environments.values())
    return {
        "average_progress": 100 * (sum(means) / len(means)),
        "standard_error": math.sqrt(squares) / len(means),
        "environments": environments,
    }


def in_one_level(summary: Mapping[str, Any]) -> dict[str, float]:
    """What `aggregate` gives as "overall", "babyai", ..., each with its "... standard_error", in percent."""
    figures = {"overall": summary["average_progress"], "overall standard_error": summary["standard_error"]}
    for name, of_name in summary["environments"].items():
        figures[name] = of_name["progression_percentage"]
        figures[f"{name} standard_error"] = of_name["standard_error"]
    return figures


def _check(field: str, value: str, accepted: Sequence[str]) -> None:
    if value not in accepted:
        raise ValueError(f"{field} is {value!r}; accepted: {', '.join(accepted)}")


def _at(environment: str, steps: Sequence[Mapping[str, Any]], i: int, key: str) -> Any:
    if key not in steps[i]:
        raise ValueError(
            f"steps[{i}] has {', '.join(map(repr, steps[i])) or 'nothing'}; {environment} needs {key!r}"
        )
    return steps[i][key]


@functools.cache
def _levels(kind: str) -> dict[int, float]:
    table = json.loads(resources.files(__package__).joinpath("nethack_levels.json").read_text("utf-8"))
    return dict(enumerate(table[kind], start=1))


def _parse(agent: str, completion: str) -> str:
    if agent == "dummy":
        return "wait"
    if agent in ("robust_naive", "robust_cot"):
        marked = re.search(r"<\|ACTION\|>(.*?)<\|END\|>", completion, re.DOTALL)
        if marked:
            return marked[1].strip()
        return completion.strip() if agent == "robust_naive" else UNPARSED
    if agent == "custom":
        said = re.search(r"ACTION:(.*)", completion, re.DOTALL | re.IGNORECASE)
        return said[1].strip() if said else ""
    letters = re.sub(r"[^a-zA-Z\s:]", "", completion)
    return letters.rpartition("ACTION:")[2].strip() if agent == "cot" else letters
