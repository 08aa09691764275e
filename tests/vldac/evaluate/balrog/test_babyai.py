"""BabyAI's text against a slow telling of the grid; what its levels hold, and that they can be solved."""

from __future__ import annotations

import re

import pytest

pytest.importorskip("minigrid")

import gymnasium
from minigrid.core.world_object import Ball, Box, Door, Key, Wall
from minigrid.utils.baby_ai_bot import BabyAIBot

from vldac.evaluate.balrog import prompts
from vldac.evaluate.balrog.environments import Spec, begin
from vldac.evaluate.balrog.environments.babyai import KINDS, MIXED, MixedTrainLocal, describe

THING = r"(red|green|blue|purple|yellow|grey) (ball|box|key)"
MISSIONS = {
    "goto": rf"go to (a|the) {THING}",
    "pickup": rf"pick up (a|the) {THING}",
    "open": r"open (a|the) ((yellow|green|blue|purple) )?door",
    "putnext": rf"put (a|the) {THING} next to (a|the) {THING}",
    "pick_up_seq_go_to": rf"pick up (a|the) {THING}, then go to (a|the) {THING}|"
    rf"go to (a|the) {THING} after you pick up (a|the) {THING}",
}


@pytest.fixture
def room():
    """6 x 6 cells inside walls, and nothing in it; the agent at (2, 5) looks up."""
    level = gymnasium.make("BabyAI-GoToLocal-v0").unwrapped
    level.reset(seed=0)
    for x in range(1, level.width - 1):
        for y in range(1, level.height - 1):
            level.grid.set(x, y, None)
    level.agent_pos, level.agent_dir = (2, 5), 3
    return level


def test_an_empty_room(room):
    assert describe(room) == [
        "a wall 5 steps forward",
        "a wall 2 steps left",
    ]  # the right one is out of view


def test_things_and_where_they_are(room):
    room.grid.set(2, 4, Ball("red"))
    room.grid.set(1, 5, Key("blue"))
    room.grid.set(4, 3, Box("grey"))
    room.grid.set(3, 5, Ball("green"))
    assert describe(room) == [
        "a blue key 1 step left",
        "a red ball 1 step forward",
        "a green ball 1 step right",
        "a grey box 2 steps right and 2 steps forward",
    ]


def test_what_is_carried_comes_first(room):
    room.carrying = Key("purple")
    assert describe(room)[0] == "You carry a purple key"
    assert len(describe(room)) == 3


@pytest.mark.parametrize("state", ["open", "closed", "locked"])
def test_a_door_tells_its_state(room, state):
    room.grid.set(2, 0, Door("yellow", is_open=state == "open", is_locked=state == "locked"))
    assert describe(room) == ["a wall 2 steps left", f"a {state} yellow door 5 steps forward"]


def test_what_is_behind_a_wall_is_not_seen(room):
    for x in range(1, 7):
        room.grid.set(x, 3, Wall())
    room.grid.set(2, 2, Ball("red"))
    assert describe(room) == ["a wall 2 steps forward", "a wall 2 steps left"]


def slow(level):
    """The same from the grid and the compass: {line}, without what is carried."""
    ahead = [(1, 0), (0, 1), (-1, 0), (0, -1)][level.agent_dir]
    right = (-ahead[1], ahead[0])
    seen = level.gen_obs()["image"][..., 0]
    lines, walls = set(), {}
    for x in range(level.width):
        for y in range(level.height):
            thing = level.grid.get(x, y)
            dx, dy = x - int(level.agent_pos[0]), y - int(level.agent_pos[1])
            forward, aside = dx * ahead[0] + dy * ahead[1], dx * right[0] + dy * right[1]
            if thing is None or not (0 <= forward <= 6 and -3 <= aside <= 3) or (dx, dy) == (0, 0):
                continue
            if seen[3 + aside, 6 - forward] == 0:
                continue
            way = []
            if aside:
                way.append(f"{abs(aside)} step{'s' * (abs(aside) > 1)} {'left' if aside < 0 else 'right'}")
            if forward:
                way.append(f"{forward} step{'s' * (forward > 1)} forward")
            if len(way) == 1:  # straight: what is met first
                key, distance = way[0].split()[-1], abs(aside) + forward
                if distance < walls.get(key, (9,))[0]:
                    walls[key] = (distance, thing.type, way[0])
            if thing.type == "door":
                state = "locked" if thing.is_locked else "open" if thing.is_open else "closed"
                lines.add(f"a {state} {thing.color} door {' and '.join(way)}")
            elif thing.type != "wall":
                lines.add(f"a {thing.color} {thing.type} {' and '.join(way)}")
    return lines | {f"a wall {way}" for _, kind, way in walls.values() if kind == "wall"}


@pytest.mark.parametrize("name", ["BabyAI-GoToLocal-v0", "BabyAI-UnlockLocal-v0"])
def test_the_text_is_that_of_the_grid(name):
    level = gymnasium.make(name).unwrapped
    for seed in range(4):
        level.reset(seed=seed)
        for action in (0, 2, 1, 2, 3, 2, 5, 0, 2, 2):
            told = [line for line in describe(level) if not line.startswith("You carry")]
            assert len(set(told)) == len(told)
            assert set(told) == slow(level)
            level.step(action)


@pytest.mark.parametrize("kind", KINDS)
def test_levels_hold_what_the_mission_names_and_can_be_solved(kind):
    level = MixedTrainLocal(kind)
    for seed in range(6):
        shown, _ = level.reset(seed=seed)
        assert re.fullmatch(MISSIONS[kind], shown["mission"]), shown["mission"]
        for pair in ("yellow box", "red key", "red door", "green ball", "grey door"):
            assert pair not in shown["mission"]
        things = [cell for cell in level.grid.grid if cell is not None and cell.type != "wall"]
        assert len(things) == {"goto": 1, "pickup": 1}.get(kind, 2)
        assert (level.width, level.height) == ((15, 8) if kind == "open" else (8, 8))
        assert level.max_steps == (64 if kind in ("goto", "pickup") else 128)
        bot, action = BabyAIBot(level), None
        for _ in range(level.max_steps):
            action = bot.replan(action)
            _, reward, terminated, truncated, _ = level.step(action)
            if terminated or truncated:
                break
        assert terminated and reward > 0


def test_open_has_a_locked_door_and_its_key_on_the_agents_side():
    level, sides, named = MixedTrainLocal("open"), set(), set()
    for seed in range(12):
        mission = level.reset(seed=seed)[0]["mission"]
        door = next(cell for cell in level.grid.grid if cell is not None and cell.type == "door")
        key = next(cell for cell in level.grid.grid if cell is not None and cell.type == "key")
        assert door.is_locked and key.color == door.color
        assert (key.cur_pos[0] < 7) == (level.agent_pos[0] < 7)
        sides.add(level.agent_pos[0] < 7)
        named.add(door.color in mission)
    assert sides == named == {True, False}


def test_the_same_seed_is_the_same_game():
    games = [begin(Spec("babyai", f"{MIXED}putnext", seed)) for seed in (3, 3, 4)]
    told = [(game.instruction, game.observation.long_term) for game in games]
    assert told[0] == told[1] != told[2]


def test_the_game_tells_mission_limit_and_picture():
    game = begin(Spec("babyai", f"{MIXED}pickup", 0, images=True))
    assert game.instruction == prompts.babyai(game._level.mission)
    assert game.max_steps == 64
    assert game.observation.image.shape == (112, 112, 3)
    assert begin(Spec("babyai", f"{MIXED}pickup", 0)).observation.image is None
    for step in range(64):
        observation, told = game.step("turn left")
        assert (told["truncated"], told["terminated"]) == (step == 63, False)
    assert observation.short_term == ""


def test_an_unknown_kind_is_named():
    with pytest.raises(ValueError, match="'walk'; accepted: goto, pickup, open, putnext, pick_up_seq_go_to"):
        begin(Spec("babyai", f"{MIXED}walk", 0))
