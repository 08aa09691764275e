"""MiniHack: small tasks in NetHack's world.

Source, whose settings are reproduced: balrog-ai/BALROG, environments/minihack and config/config.yaml.
"""

from __future__ import annotations

import random

import minihack  # noqa: F401  registers the tasks
from minihack.envs import boxohack

from vldac.evaluate.balrog import prompts
from vldac.evaluate.balrog.environments import Spec
from vldac.evaluate.balrog.environments.nethack_game import SEEN, NetHackGame, make, named

MAX_STEPS = 100


def begin(spec: Spec) -> NetHackGame:
    """See `environments.begin`."""
    if spec.boxoban_dir is not None:
        boxohack.LEVELS_PATH = str(spec.boxoban_dir)
    random.seed(spec.seed)  # draws a level of Boxoban
    env = make(
        spec.task,
        character="@",
        max_episode_steps=MAX_STEPS,
        penalty_step=-0.01,
        penalty_time=0.0,
        penalty_mode="constant",
        autopickup=False,
        observation_keys=SEEN,
        savedir=None,
        save_ttyrec_every=0,
        render_mode="pixel" if spec.images else None,
    )
    env.seed(spec.seed, spec.seed, reseed=False)
    if isinstance(env, boxohack.BoxoHack):
        env._goal_pos_set = (
            None  # nle 1.3 asks whether the level is solved before minihack 1.0 has looked for goals
        )
    described = prompts.minihack_actions()
    keys = {name: [index] for name, index in named(env.actions).items() if name in described}
    return NetHackGame(env, keys, prompts.minihack(spec.task, tuple(keys)), MAX_STEPS, spec.images)
