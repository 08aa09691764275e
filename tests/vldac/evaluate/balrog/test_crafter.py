"""Crafter's text, on worlds laid by hand and in the game itself."""

from __future__ import annotations

import random

import numpy as np
import pytest

pytest.importorskip("crafter")

import crafter

from vldac.evaluate.balrog.environments import Spec, begin
from vldac.evaluate.balrog.environments.crafter import LOST, describe, inventory
from vldac.evaluate.balrog.scoring import progression

NAMES = {0: "None", 1: "water", 2: "grass", 12: "table", 13: "player", 14: "cow"}


def world(x=20, y=20):
    semantic = np.full((64, 64), 2)
    semantic[x, y] = 13
    return semantic


def test_the_nearest_of_each_kind_in_the_order_in_which_they_come():
    semantic = world()
    semantic[16, 17] = 14  # the view's corner
    semantic[19, 19] = 14  # nearer, so it is this cow
    semantic[20, 22] = 1
    assert describe(semantic, np.array([20, 20]), (0, 1), NAMES) == (
        "You see:\n"
        "- cow 2 steps to your north-west\n"
        "- grass 1 step to your west\n"
        "- water 2 steps to your south\n"
        "\n"
        "You face grass at your front."
    )


def test_what_is_out_of_view_is_not_told():
    semantic = world()
    semantic[25, 20] = semantic[15, 20] = semantic[20, 24] = semantic[20, 16] = 12
    assert "table" not in describe(semantic, np.array([20, 20]), (1, 0), NAMES)
    semantic[24, 20] = 12
    assert "- table 4 steps to your east" in describe(semantic, np.array([20, 20]), (1, 0), NAMES)


def test_the_left_and_upper_edges_are_blind():
    for x, y in ((3, 20), (20, 2)):
        assert describe(world(x, y), np.array([x, y]), (1, 0), NAMES) == (
            "You see nothing away from you.\n\nYou face nothing at your front."
        )
    assert "- grass 1 step to your west" in describe(world(63, 63), np.array([63, 63]), (1, 0), NAMES)
    assert describe(world(63, 63), np.array([63, 63]), (1, 0), NAMES).endswith("You face nothing at your front.")


def test_a_player_who_is_not_there_is_lost():
    assert describe(world(20, 20), np.array([21, 20]), (1, 0), NAMES) == LOST


def test_the_inventory():
    vitals = {"health": 9, "food": 8, "drink": 7, "energy": 6}
    status = "Your status:\n- health: 9/9\n- food: 8/9\n- drink: 7/9\n- energy: 6/9\n\n"
    assert inventory({**vitals, "wood": 0}) == f"{status}You have nothing in your inventory."
    assert inventory({**vitals, "wood": 2, "sapling": 1}) == f"{status}Your inventory:\n- wood: 2\n- sapling: 1"


def test_one_seed_is_one_game_whatever_creatures_hash_to(monkeypatch):
    """By default that is their address; the sets that crafter keeps them in go by it."""
    monkeypatch.setattr(crafter.Env, "render", lambda self, size=None: np.zeros((256, 256, 3), np.uint8))

    def told(dice):
        hashes = {}
        monkeypatch.setattr(
            crafter.objects.Object, "__hash__", lambda self: hashes.setdefault(id(self), dice.getrandbits(60))
        )
        game = begin(Spec("crafter", "default", 3))
        return [game.step(("Move West", "Do", "Noop", "Move South")[step % 4])[0].long_term for step in range(150)]

    assert told(random.Random(1)) == told(random.Random(2))


def test_the_game_itself():
    one, other = (begin(Spec("crafter", "default", 4, images=True)) for _ in range(2))
    assert one.observation.long_term == other.observation.long_term
    assert one.observation.image.shape == (256, 256, 3) and one.observation.image.any()
    one._env._player.inventory["energy"] = 3  # who is not tired does not fall asleep
    steps = []
    for action in ("Do", "Move West", "Do", "Place Plant", "Sleep"):
        observation, step = one.step(action)
        steps.append(step)
    assert observation.long_term.startswith("You are sleeping, and will not be able take actions until energy")
    assert len(step["achievements"]) == 22 and not step["terminated"]
    assert progression("crafter", steps) == sum(count > 0 for count in step["achievements"].values()) / 22
    assert begin(Spec("crafter", "default", 5)).observation.image is None
