"""The registry: names are found, options are checked, and nothing is hidden or overwritten."""

import dataclasses
import subprocess
import sys
from typing import ClassVar

import numpy as np
import pytest

import envs_jax
from envs_jax import world as registry
from envs_jax.cards.number_line import NumberLine
from envs_jax.world import action_shape, names_like, spoken


@pytest.fixture(autouse=True)
def own_registry(monkeypatch):
    """What a test registers is gone after it."""
    monkeypatch.setattr(registry, "_BUILDERS", dict(registry._BUILDERS))


@dataclasses.dataclass(frozen=True)
class Thing(NumberLine):
    """A whole world, because the annotation of what `make` returns is checked while the tests run."""

    size: int = 3


def test_importing_the_package_registers_the_families():
    assert "cards/number_line" in envs_jax.names()
    assert list(envs_jax.names()) == sorted(envs_jax.names())


def test_names_like_patterns_come_once_with_what_stands_behind_them():
    found = names_like(["miniworld/one_room_s6*", "cards/p*:split=test", "miniworld/one_room_s6"])
    assert found == ["miniworld/one_room_s6", "miniworld/one_room_s6_fast", "cards/points24:split=test"]
    assert names_like(["*"]) == list(envs_jax.names()) and names_like([]) == []
    with pytest.raises(ValueError, match=r"'maze' fits no world; accepted: cards/.*, shop/web_shop"):
        names_like(["*", "maze"])


def test_make_gives_name_and_options_to_the_builder():
    envs_jax.register("toys/thing", Thing)
    assert "toys/thing" in envs_jax.names()
    assert envs_jax.make("toys/thing", size=5) == Thing("toys/thing", size=5)


def test_a_name_is_registered_once():
    envs_jax.register("toys/thing", Thing)
    with pytest.raises(ValueError, match="'toys/thing' is registered already"):
        envs_jax.register("toys/thing", dict)
    assert envs_jax.make("toys/thing") == Thing("toys/thing")


@pytest.mark.parametrize(
    "asked, near",
    [
        ("cards/numberline", "cards/number_line"),
        ("number_line", "cards/number_line"),
        ("toys/think", "toys/thing"),
    ],
)
def test_an_unknown_name_gives_the_nearest(asked, near):
    envs_jax.register("toys/thing", Thing)
    with pytest.raises(ValueError, match=f"unknown world '{asked}'; nearest: .*{near}"):
        envs_jax.make(asked)


def test_a_name_that_is_near_to_nothing_gives_all():
    with pytest.raises(ValueError, match=r"unknown world '\?\?\?\?'; nearest: .*cards/number_line"):
        envs_jax.make("????")


def test_an_unknown_option_gives_the_accepted_ones():
    envs_jax.register("toys/thing", Thing)
    envs_jax.register("toys/plain", lambda name: name)
    envs_jax.register("toys/other", lambda *, name, length, width=1: (name, length, width))
    with pytest.raises(
        ValueError,
        match=r"'toys/thing': .*'sise'; accepted options: max_position, image_shape, layout, split, size",
    ):
        envs_jax.make("toys/thing", sise=3)
    with pytest.raises(ValueError, match=r"'toys/plain': .*'size'; accepted options: none"):
        envs_jax.make("toys/plain", size=3)
    with pytest.raises(ValueError, match=r"'toys/other': .*'length'; accepted options: length, width"):
        envs_jax.make("toys/other")
    with pytest.raises(ValueError, match=r"'imageshape'; accepted options: max_position, image_shape"):
        envs_jax.make("cards/number_line", imageshape=(60, 80, 3))


def test_a_builder_may_take_any_option():
    envs_jax.register("toys/any", lambda name, **options: Thing(name, size=options["b"]))
    assert envs_jax.make("toys/any", a=1, b=2) == Thing("toys/any", size=2)


def test_a_fault_of_the_builder_is_not_taken_for_a_wrong_option():
    def builder(name, size=3):
        return size + "metres"

    envs_jax.register("toys/faulty", builder)
    with pytest.raises(TypeError, match="unsupported operand"):
        envs_jax.make("toys/faulty", size=4)


def test_importing_the_package_brings_in_no_other_framework():
    """Worlds stand alone: the learner, torch and brax stay out until somebody asks for them."""
    code = (
        "import sys, envs_jax\n"
        "bad = {'vldac', 'torch', 'brax', 'transformers', 'matplotlib', 'experiments'} & set(sys.modules)\n"
        "assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


class _Chores(NumberLine):
    """A world with slots, as far as the shape of its actions goes."""

    actions = ("look", "put {object} in {receptacle}", "search[{word}]")
    slots: ClassVar = {
        "object": envs_jax.Slot(("mug 1", "apple 1")),
        "receptacle": envs_jax.Slot(("fridge 1", "shelf 1")),
        "word": envs_jax.Slot(("red", "shirt", "large"), most=3),
    }


def test_an_action_with_slots_is_a_record_as_long_as_the_longest_action():
    assert action_shape(_Chores()) == (4,)
    assert action_shape(envs_jax.make("cards/number_line")) == ()


@pytest.mark.parametrize(
    ("record", "text"),
    [
        ([0, -1, -1, -1], "look"),
        ([1, 0, 1, -1], "put mug 1 in shelf 1"),
        ([2, 2, 1, -1], "search[large shirt]"),
        ([2, -1, -1, -1], None),
        ([1, 7, 1, -1], None),
        ([1, 0, -1, -1], None),
        ([-1, 0, 1, -1], None),
        ([9, 0, 1, -1], None),
    ],
)
def test_a_record_is_spoken_as_its_action_with_the_words_in_their_places(record, text):
    assert spoken(_Chores(), np.array(record)) == text


def test_an_action_id_is_spoken_as_its_action():
    world = envs_jax.make("cards/number_line")
    assert spoken(world, 1) == "+"
    assert spoken(world, -1) is None


def test_options_can_be_written_behind_the_name():
    world = envs_jax.make("cards/number_line:max_position=7,image_shape=(60, 80, 3)")
    assert (world.max_position, world.image_shape) == (7, (60, 80, 3))
    assert world.name == "cards/number_line:max_position=7,image_shape=(60, 80, 3)"


@pytest.mark.parametrize(
    "options", ["", "7", "max_position", "max_position=", "**{}", "max_position=f(1)", "a=1)+_(b=2"]
)
def test_text_that_is_not_options_is_refused_in_one_line(options):
    with pytest.raises(ValueError, match="is not options; accepted: option=value"):
        envs_jax.make(f"cards/number_line:{options}")


def test_an_unknown_written_option_is_named():
    with pytest.raises(ValueError, match="accepted options: max_position, image_shape"):
        envs_jax.make("cards/number_line:speed=3")
