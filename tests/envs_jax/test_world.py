"""The registry: names are found, options are checked, and nothing is hidden or overwritten."""

import dataclasses
import subprocess
import sys

import pytest

import envs_jax
from envs_jax import world as registry
from envs_jax.cards.number_line import NumberLine


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
        ValueError, match=r"'toys/thing': .*'sise'; accepted options: max_position, image_shape, size"
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
