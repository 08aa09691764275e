"""The instructions and requests to the letter, and that they offer just the actions that are valid."""

from __future__ import annotations

import re

import pytest

from vldac.evaluate.balrog import prompts
from vldac.evaluate.balrog.agents import REMEMBERS, REQUESTS
from vldac.evaluate.balrog.scoring import ACTIONS, parse_action
from vldac.evaluate.balrog.tasks import TASKS

LISTED = re.compile(r"description of each action:\n\n(.*?)\.\n\n", re.DOTALL)


def offered(prompt):
    return tuple(line.split(": ")[0] for line in LISTED.search(prompt)[1].split(",\n"))


def test_babyai_in_full():
    assert prompts.babyai("go to the red ball") == (
        "You are an agent playing a simple navigation game. Your goal is to go to the red ball. The following are "
        "the possible actions you can take in the game, followed by a short description of each action:\n"
        "\n"
        "turn left: turn to the left,\n"
        "turn right: turn to the right,\n"
        "go forward: take one step forward,\n"
        "pick up: pick up the object below you,\n"
        "drop: drop the object that you are holding,\n"
        "toggle: manipulate the object in front of you.\n"
        "\n"
        "In a moment I will present you an observation.\n"
        "\n"
        "Tips:\n"
        "- Once the desired object you want to interact or pickup in front of you, you can use the 'toggle' "
        "action to interact with it.\n"
        "- It doesn't make sense to repeat the same action over and over if the observation doesn't change.\n"
        "\n"
        "PLAY!"
    )


def test_minihack_in_full():
    assert prompts.minihack("MiniHack-Corridor-R3-v0", ("north", "kick")) == (
        "You are an agent playing MiniHack. The following are the possible actions you can take in the game, "
        "followed by a short description of each action:\n"
        "\n"
        "north: move north,\n"
        "kick: kick an enemy or a locked door or chest.\n"
        "\n"
        "In a moment I will present a history of actions and observations from the game.\n"
        "\n"
        "Tip: there is no point in outputting the same action over and over if nothing changes.\n"
        "\n"
        "Your goal is to explore the level and reach the stairs down\n"
        "\n"
        "PLAY!"
    )


def test_each_minihack_task_has_its_goal():
    goals = [prompts.minihack(task, ("north",)).split("\n\n")[4] for task in TASKS["minihack"]]
    boxoban, maze, corridor, quest = goals[0], goals[2], goals[4], goals[6]
    assert goals == [boxoban] * 2 + [maze] * 2 + [corridor] * 2 + [quest] * 2
    assert boxoban.startswith("You are playing Boxoban, a box-pushing game inspired by Sokoban.")
    assert maze == "Your goal is to get as far as possible in the game."
    assert quest.endswith("to ultimately reach the stairs down.")


def test_the_valid_actions_are_offered():
    assert offered(prompts.babyai("x")) == ACTIONS["babyai"]
    assert offered(prompts.crafter()) == ACTIONS["crafter"]
    assert offered(prompts.babaisai()) == ACTIONS["babaisai"]
    assert tuple(prompts.minihack_actions()) != () and set(prompts.minihack_actions()) == set(ACTIONS["minihack"])
    typed = {action for action in ACTIONS["nle"] if len(action) < 3} - {"up"}  # answers to the game's questions
    assert set(offered(prompts.nle())) == set(ACTIONS["nle"]) - typed


def test_textworld_is_told_in_broken_lines():
    for task, steps in (("treasure_hunter", 40), ("the_cooking_game", 80), ("coin_collector", 25)):
        prompt = prompts.textworld(task)
        assert prompt.startswith("You are an agent playing TextWorld, a text-based adventure game")
        assert prompt.endswith(f"\n    You have {steps} steps to complete the task. Restarting is forbidden.")
        assert all(line.startswith("    ") for line in prompt.splitlines()[1:])


def test_the_requests_in_full():
    form = (
        "output it strictly in the following format:\n\n<|ACTION|>YOUR_CHOSEN_ACTION<|END|>\n\n"
        "Replace YOUR_CHOSEN_ACTION with the chosen action."
    )
    assert {
        "naive": "You can only output one of the above actions at a time, and always have to output an action "
        "until the episode terminates.\nAction:",
        "cot": "First think about what's the best course of action step by step.\nFinally, provide a single "
        "output action at the end of the message in the form of: ACTION: <action>",
        "robust_naive": f"You must choose exactly one of the listed actions and {form} Output no other text, "
        "explanation, or reasoning.",
        "robust_cot": "First, think about the best course of action.\nThen, you must choose exactly one of the "
        f"listed actions and {form}",
    } == REQUESTS


@pytest.mark.parametrize("agent", sorted(REQUESTS))
def test_an_answer_in_the_form_that_is_asked_for_is_understood(agent):
    said = {"naive": "up", "cot": "The ball is above. ACTION: up"}.get(agent, "<|ACTION|>up<|END|>")
    assert parse_action("babaisai", agent, said) == ("up", "up")
    assert {"cot"} == REMEMBERS
