"""Configurations: complete on disk, refused in one line when they can not be run."""

from __future__ import annotations

import dataclasses
import json

import pytest

import envs_jax
from experiments.config import ConfigError, EvaluationConfig, RunConfig, from_json, shares_episodes, to_json
from experiments.presets import PRESETS


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_are_complete_and_come_back_from_json(preset):
    config = PRESETS[preset]()
    assert from_json(to_json(config)) == config
    assert f"python -m experiments.run{'' if preset == 'nano' else ' ' + preset}" in PRESETS[preset].__doc__

    def check(value, data):
        for field in dataclasses.fields(value):
            assert field.name in data
            if dataclasses.is_dataclass(getattr(value, field.name)):
                check(getattr(value, field.name), data[field.name])

    check(config, json.loads(to_json(config)))


def test_absent_fields_take_their_defaults():
    assert from_json('{"seed": 7, "rollout": {"worlds": 64}}') == dataclasses.replace(
        RunConfig(seed=7), rollout=dataclasses.replace(RunConfig().rollout, worlds=64)
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[1]", r"the configuration is \[1\]; accepted: an object"),
        ('{"sed": 1}', "unknown field sed; accepted: name, folder, world"),
        ('{"rollout": {"world": 3}}', "unknown field rollout.world; accepted: worlds"),
        ('{"seed": "x"}', "seed is 'x'; accepted: a whole number"),
        ('{"seed": true}', "seed is True; accepted: a whole number"),
        ('{"seed": 1.5}', "seed is 1.5"),
        ('{"policy": {"decoding": "greedy"}}', "policy.decoding is 'greedy'; accepted: 'free', 'grammar'"),
        ('{"evaluation": {"unseen": "a"}}', "evaluation.unseen is 'a'; accepted: a list"),
        ('{"rollout": {"worlds": 0}}', "rollout.worlds is 0; accepted: 1 or more"),
        (
            '{"world": "miniworld/one_rom"}',
            "world: unknown world 'miniworld/one_rom'; nearest: miniworld/one_room",
        ),
        ('{"evaluation": {"unseen": ["cards/nope"]}}', "^evaluation.unseen: unknown world 'cards/nope'"),
        (
            '{"world": "miniworld/one_room_s6"}',
            "evaluation.unseen holds 'miniworld/one_room_s6', which is trained on",
        ),
        ('{"name": "../x"}', "name is '../x'; accepted: a folder name"),
        (r'{"name": "a\u0000"}', r"name is 'a\\x00'; accepted: a text without control characters"),
        (r'{"folder": "a\nb"}', r"folder is 'a\\nb'; accepted: a text without control characters"),
        ('{"seed": -1}', "seed is -1"),
        ('{"model": {"value_head": [0]}}', r"value_head is \(0,\)"),
        ('{"model": {"max_pixels": -1}}', "^model.max_pixels is -1; accepted: 0 or more"),
        ('{"model": {"max_pixels": 9, "path": "x"}}', "max_pixels is 9; accepted: 0 with a checkpoint"),
        ('{"model": {"initializer_range": 1.5}}', "^model.initializer_range is 1.5; accepted: 0 to below 1"),
        ('{"model": {"initializer_range": 0.1, "path": "x"}}', "initializer_range is 0.1; accepted: 0 with a"),
        ('{"policy": {"text_tokens": -1}}', "text_tokens is -1; accepted: 0 or more"),
        ('{"model": {"lora": 3}}', "^model.lora is 3; accepted: an object"),
        (f'{{"optimizer": {{"max_loss": {10**400}}}}}', "^optimizer.max_loss is 10+; accepted: a number"),
        ('{"checkpoint": {"every": 0}}', "^checkpoint.every is 0"),
    ],
)
def test_what_can_not_be_run_is_refused_in_one_line(text, message):
    with pytest.raises(ConfigError, match=message) as error:
        from_json(text)
    assert "\n" not in str(error.value)


LARGE = "cards/number_line:image_shape=(64,80,3),layout=large"


@pytest.mark.parametrize(
    ("world", "unseen"),
    [
        (LARGE, f"{LARGE},split=test"),
        (f"{LARGE},split=all", f"{LARGE},split=train"),
        (f"{LARGE},split=train", LARGE),
        (f"{LARGE},split=test", "cards/number_line:split=test,layout=large,image_shape=(64, 80, 3)"),
        ("cards/number_line:max_position=5", "cards/number_line"),
        ("miniworld/one_room", "miniworld/one_room:max_steps=180,split=test"),
        ("household/any:task=pick_two", "household/pick_two"),
    ],
)
def test_what_is_trained_on_is_never_called_unseen_however_it_is_written(world, unseen):
    with pytest.raises(ConfigError) as error:
        RunConfig(world=world, evaluation=EvaluationConfig(unseen=("miniworld/one_room_s6", unseen)))
    assert f"evaluation.unseen holds {unseen!r}, which is trained on" in str(error.value)
    assert f"where world is {world!r}; accepted: other worlds, or" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("world", "unseen"),
    [
        (f"{LARGE},split=train", f"{LARGE},split=test"),
        (f"{LARGE},split=test", "cards/number_line:split=train,layout=large,image_shape=(64, 80, 3)"),
        (LARGE, "cards/number_line:split=test"),
        ("cards/points24:target=24,split=train", "cards/points24:target=24,split=test"),
        ("cards/points24", "cards/number_line"),
        ("miniworld/one_room_s6_fast", "miniworld/one_room_s6"),
    ],
)
def test_another_world_or_the_held_out_split_is_unseen(world, unseen):
    assert RunConfig(world=world, evaluation=EvaluationConfig(unseen=(unseen,))).evaluation.unseen == (unseen,)


def test_a_world_that_is_no_dataclass_is_told_from_others_by_its_name():
    class Own:
        def __init__(self, name):
            world = envs_jax.make("cards/number_line")
            members = {member: getattr(world, member) for member in dir(world) if member[0] != "_"}
            vars(self).update(members | {"name": name})

    assert shares_episodes(Own("own/a"), Own("own/a")) and not shares_episodes(Own("own/a"), Own("own/b"))
