"""What is held out: the same instances for ever, about one in five, and one set of words for a wrong split."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import envs_jax
from envs_jax import heldout
from envs_jax.household import tables
from envs_jax.shop import catalogue


def test_the_same_instances_are_held_out_for_ever():
    """Recorded values: success on unseen instances is compared over runs, so that they may not change."""
    assert np.flatnonzero(heldout.numbers_are_test(np.arange(100))).tolist() == [
        *(0, 3, 5, 12, 13, 16, 31, 33, 35, 38, 39, 44, 47, 53, 62, 66, 71, 88, 93, 98)
    ]
    rows = np.random.default_rng(0).integers(-3, 40, (100, 6)).astype(np.int32)
    assert np.flatnonzero(jax.vmap(heldout.row_is_test)(jnp.asarray(rows))).tolist() == [
        *(5, 11, 15, 17, 30, 33, 39, 40, 48, 55, 57, 62, 65, 66, 70, 71, 73, 76, 82, 88, 92)
    ]
    assert [len(tables.instances(task, "test")) for task in range(6)] == [84, 18, 30, 8, 22, 86]
    assert np.flatnonzero(catalogue.build(60, 4, 2, 2, 0).part).tolist() == [6, 8, 14, 17, 25, 35, 39, 40]


@pytest.mark.parametrize("is_test", [heldout.words_are_test, heldout.name_is_test])
def test_about_one_text_in_five_is_held_out(is_test):
    assert 0.17 < np.mean([is_test(f"a {a} on the {b}") for a in range(50) for b in range(50)]) < 0.23


def test_the_parts_are_apart_and_make_up_all():
    test = np.array([False, False, True])
    assert [heldout.part(test, split).tolist() for split in heldout.SPLITS] == [
        *([True, True, True], [True, True, False], [False, False, True])
    ]


def test_a_wrong_split_is_refused():
    with pytest.raises(ValueError, match="split is 'dev'; accepted: all, train, test"):
        heldout.check_split("dev")


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("miniworld/maze", "both from 8 to 1024"),
        ("cards/points24", "both at least "),
        ("household/any", "at least 216 x 200"),
        ("physics/push", "both from 64 to 1024"),
    ],
)
def test_every_family_refuses_a_wrong_picture_in_the_same_words(name, size):
    if name not in envs_jax.names():
        pytest.skip(f"{name} needs an optional package")
    for shape in ((4, 4, 3), (300, 300, 4), (2000, 4, 3)):
        with pytest.raises(ValueError) as raised:
            envs_jax.make(name, image_shape=shape)
        assert str(raised.value).startswith(f"image_shape is {shape}; accepted: (height, width, 3), {size}")
