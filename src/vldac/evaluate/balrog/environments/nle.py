"""NetHack, as in the NetHack Challenge: any of its keys, until death, or 150 steps in which no time passes.

Source, whose settings are reproduced: balrog-ai/BALROG, environments/nle/nle_env.py and config/config.yaml.
"""

from __future__ import annotations

import nle  # noqa: F401  registers the tasks

from vldac.evaluate.balrog import prompts
from vldac.evaluate.balrog.environments import Spec
from vldac.evaluate.balrog.environments.nethack_game import SEEN, NetHackGame, make, named
from vldac.evaluate.balrog.scoring import ACTIONS

MAX_STEPS = 100_000
NO_PROGRESS = 150


def begin(spec: Spec) -> NetHackGame:
    """See `environments.begin`."""
    env = make(
        spec.task,
        character="@",
        max_episode_steps=MAX_STEPS,
        no_progress_timeout=NO_PROGRESS,
        observation_keys=SEEN,
        savedir=None,
        save_ttyrec_every=0,
        render_mode="pixel" if spec.images else None,
    )
    # The Challenge forbids seeds, so that nobody trains on its games; here they make a game repeatable.
    vars(env.nethack).pop("set_initial_seeds", None)
    env.nethack.set_initial_seeds(spec.seed, spec.seed, False)
    names, by_key = named(env.actions), {int(action): index for index, action in enumerate(env.actions)}
    keys = {}
    for action in ACTIONS["nle"]:
        if action in names:
            keys[action] = [names[action]]
        elif len(action) <= 2 and all(ord(character) in by_key for character in action):
            keys[action] = [by_key[ord(character)] for character in action]
    return NetHackGame(env, keys, prompts.nle(), MAX_STEPS, spec.images)
