"""Every character has its own shape, and the atlas says what the strokes say."""

import string

import numpy as np
import pytest

from envs_jax.render import glyphs

PRINTABLE = [chr(code) for code in range(32, 127)]


def test_every_printable_ascii_character_and_the_card_suits_have_a_glyph():
    assert set(PRINTABLE) | set("♠♥♦♣") == set(glyphs.CHARACTERS)
    assert len(set(glyphs.CHARACTERS)) == len(glyphs.CHARACTERS)
    assert set(string.printable) - set("\t\n\r\x0b\x0c") <= set(glyphs.CHARACTERS)


def test_every_glyph_but_the_space_has_ink_and_all_are_distinct():
    ink = glyphs.atlas().distance < 65  # of a bold pen
    inked = [bool(picture.any()) for picture in ink]
    assert inked == [character != " " for character in glyphs.CHARACTERS]
    flat = ink.reshape(len(ink), -1).astype(np.int32)
    apart = np.sum(flat[:, None] != flat[None], axis=-1) + 10**6 * np.eye(len(flat), dtype=int)
    nearest = np.unravel_index(apart.argmin(), apart.shape)
    pair = [glyphs.CHARACTERS[i] for i in nearest]
    assert apart.min() >= 8, f"{pair} differ in {apart.min()} texels only"  # half a square unit


def test_ink_stays_within_the_cell_that_it_is_drawn_in():
    """A bold pen reaches 0.7 units around the path; only the underscore goes on into the next cell, on purpose."""
    reach = 0.7
    for character in set(glyphs.CHARACTERS) - set(" _"):
        shape = glyphs.glyph(character)
        low, high = shape.segments.min(axis=(0, 1)) - reach, shape.segments.max(axis=(0, 1)) + reach
        assert low[1] > glyphs.BOTTOM and high[1] < glyphs.TOP, f"{character!r} leaves the cell above or below"
        assert low[0] >= -glyphs.BEARING and high[0] <= shape.width + glyphs.BEARING, (
            f"{character!r} leaves at a side"
        )


def test_the_atlas_is_the_distance_to_the_nearest_point_of_the_strokes():
    """Against a slow way: many points along every stroke, the nearest one counts."""
    random = np.random.default_rng(0)
    for character in "A8g@♣.~":
        shape = glyphs.glyph(character)
        t = np.linspace(0, 1, 200)[:, None]
        points = np.concatenate([a * (1 - t) + b * t for a, b in shape.segments])
        picture = glyphs.atlas().distance[glyphs.CHARACTERS.index(character)]
        for _ in range(50):
            u, v = random.integers(picture.shape[0]), random.integers(picture.shape[1])
            x, y = (u + 0.5) / glyphs.TEXELS - glyphs.BEARING, (v + 0.5) / glyphs.TEXELS + glyphs.BOTTOM
            expected = np.min(np.hypot(points[:, 0] - x, points[:, 1] - y))
            if any(_turns_around(area, x, y) for area in shape.areas):
                expected = 0.0
            assert abs(picture[u, v] / 100 - min(expected, glyphs.FURTHEST)) < 0.03, (character, u, v)


def _turns_around(area, x, y):
    """Whether the border turns once around the point (the sum of the angles, not a ray as in the code)."""
    angles = np.arctan2(area[:, 1] - y, area[:, 0] - x)
    turned = np.diff(np.append(angles, angles[0]))
    turned = (turned + np.pi) % (2 * np.pi) - np.pi
    return abs(turned.sum()) > np.pi


def test_digits_are_equally_wide_so_that_numbers_stand_in_columns():
    assert len({float(glyphs.atlas().advance[i]) for i in glyphs.encode("0123456789")}) == 1


def test_encode_gives_the_index_and_refuses_a_character_without_a_glyph():
    text = "Target: 3 ♥"
    ids = glyphs.encode(text)
    assert ids.dtype == np.int32 and "".join(glyphs.CHARACTERS[i] for i in ids) == text
    assert glyphs.encode("").shape == (0,)
    with pytest.raises(ValueError, match="no glyph for 'ß' in 'Maß'"):
        glyphs.encode("Maß")
