"""Configurations: complete on disk, refused in one line when they can not be run."""

from __future__ import annotations

import dataclasses
import json

import pytest

from experiments.config import ConfigError, RunConfig, from_json, to_json
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
        ('{"evaluation": {"unseen": ["cards/nope"]}}', "evaluation.unseen: unknown world 'cards/nope'"),
        (
            '{"world": "miniworld/one_room_s6"}',
            "evaluation.unseen holds 'miniworld/one_room_s6', which is trained on",
        ),
        ('{"name": "../x"}', "name is '../x'; accepted: a folder name"),
        ('{"seed": -1}', "seed is -1"),
        ('{"model": {"value_head": [0]}}', r"value_head is \(0,\)"),
        ('{"model": {"max_pixels": -1}}', "max_pixels is -1; accepted: 0 or more"),
        ('{"model": {"max_pixels": 9, "path": "x"}}', "max_pixels is 9; accepted: 0 with a checkpoint"),
        ('{"model": {"initializer_range": 1.5}}', "initializer_range is 1.5; accepted: 0 to below 1"),
        ('{"model": {"initializer_range": 0.1, "path": "x"}}', "initializer_range is 0.1; accepted: 0 with a"),
        ('{"policy": {"text_tokens": -1}}', "text_tokens is -1; accepted: 0 or more"),
        ('{"checkpoint": {"every": 0}}', "every is 0"),
    ],
)
def test_what_can_not_be_run_is_refused_in_one_line(text, message):
    with pytest.raises(ConfigError, match=message) as error:
        from_json(text)
    assert "\n" not in str(error.value)
