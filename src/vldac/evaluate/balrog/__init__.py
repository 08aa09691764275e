"""BALROG: six games that a model plays in words, with or without pictures.

    from vldac.evaluate.balrog.run import run
    results = run(answerer, environments=("babyai", "crafter"), agent="robust_cot")
    results.summary["average_progress"]

One idea a file:
  scoring       how far an episode came, what its words do, the leaderboard's figures
  prompts       what each game says of itself
  history       the conversation so far
  agents        what each kind of agent is asked, and what is kept of its answer
  environments  the games, each with its text and its picture
  worker        a game in a process of its own, where there is no JAX
  episode       an episode told step by step
  run           all of them side by side, answered in batches

Source, whose behaviour is reproduced: balrog-ai/BALROG (MIT) of 2025.
"""

from vldac.evaluate.balrog.scoring import (
    ACTIONS,
    AGENTS,
    DEFAULT_ACTION,
    ENVIRONMENTS,
    UNPARSED,
    aggregate,
    parse_action,
    progression,
)

__all__ = [
    "ACTIONS",
    "AGENTS",
    "DEFAULT_ACTION",
    "ENVIRONMENTS",
    "UNPARSED",
    "aggregate",
    "parse_action",
    "progression",
]
