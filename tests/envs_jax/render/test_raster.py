"""Rectangles against supersampling, text against the strokes themselves, in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envs_jax.render import glyphs, raster

SIZE = (40, 56)


def coverage_of(image):
    """How much of each pixel of a picture painted black on white is ink, [h, w]."""
    image = np.asarray(image, np.float64)
    assert np.ptp(image, axis=-1).max() == 0
    return 1 - image[:, :, 0] / 255


# ---- canvas and blending ----------------------------------------------------------------------------------------


def test_a_canvas_has_one_colour_and_blending_keeps_the_type_of_the_image():
    image = raster.canvas(3, 5, (10, 20, 30))
    assert image.shape == (3, 5, 3) and image.dtype == jnp.uint8
    assert (np.asarray(image) == (10, 20, 30)).all()
    cover = jnp.array([[0.0, 0.5, 1.0, 0.001, 0.999]] * 3)
    for kind in (jnp.uint8, jnp.float32):
        out = raster.blend(image.astype(kind), cover, (110, 120, 130))
        assert out.dtype == kind
        np.testing.assert_allclose(np.asarray(out)[0, :3, 0], (10, 60, 110), atol=1e-4)
    np.testing.assert_array_equal(np.asarray(raster.blend(image, cover, (110, 120, 130)))[0, 3:, 0], (10, 110))


# ---- rectangles -------------------------------------------------------------------------------------------------


@jax.jit
def black_rectangle(left, top, right, bottom, radius):
    return raster.rectangle(raster.canvas(*SIZE), left, top, right, bottom, raster.BLACK, radius)


def slow_rectangle(left, top, right, bottom, radius, fine=16):
    """Share of fine x fine points in every pixel that lie within a rounded rectangle, point by point."""
    height, width = SIZE
    y, x = (np.arange(n * fine) + 0.5 for n in SIZE)
    y, x = y[:, None] / fine, x[None] / fine
    radius = max(0.0, min(radius, (right - left) / 2, (bottom - top) / 2))
    near_x, near_y = np.clip(x, left + radius, right - radius), np.clip(y, top + radius, bottom - radius)
    within = (x >= left) & (x < right) & (y >= top) & (y < bottom)
    if radius:
        within &= np.hypot(x - near_x, y - near_y) <= radius
    return within.reshape(height, fine, width, fine).mean(axis=(1, 3))


@pytest.mark.parametrize(
    "edges",
    [
        (3, 4, 20, 30, 0),
        (3.25, 4.5, 20.75, 30.125, 0),
        (10.25, 5, 10.5, 35, 0),  # thinner than a pixel
        (5.5, 6.25, 45, 30, 8),
        (5, 6, 45, 30, 1000),  # the radius is cut to half the shorter side
        (-10, -10, 12.5, 13.5, 5),  # across the upper left border
        (50, 30, 80, 70, 6),
        (-5, -5, 100, 100, 0),
        (60, 10, 90, 20, 3),  # wholly outside
        (20, 10, 20, 30, 0),  # empty
        (30, 10, 20, 30, 4),  # turned around
        (30, 20, 20, 10, 0),
    ],
)
def test_a_rectangle_covers_what_supersampling_says(edges):
    got = coverage_of(black_rectangle(*map(float, edges)))
    # A circle's edge is taken as straight within a pixel; the rest is exact up to the supersampling and rounding.
    np.testing.assert_allclose(got, slow_rectangle(*edges), atol=0.2 if edges[4] else 0.04)
    assert abs(got.sum() - slow_rectangle(*edges).sum()) < 0.02 * max(got.sum(), 1) + 0.1


@settings(max_examples=40)
@given(
    st.floats(-30, 80),
    st.floats(-30, 80),
    st.floats(-30, 80),
    st.floats(-30, 80),
    st.sampled_from([0.0, 2.0, 9.0]),
)
def test_any_rectangle_is_drawn_or_clipped_without_harm(left, top, right, bottom, radius):
    got = coverage_of(black_rectangle(left, top, right, bottom, radius))
    expected = slow_rectangle(left, top, right, bottom, radius, fine=8)
    assert np.isfinite(got).all()
    short = min(right - left, bottom - top)
    if radius == 0 or short > 2:  # a rounded sliver thinner than two pixels is approximate
        np.testing.assert_allclose(got, expected, atol=0.25 if radius else 0.14)


def test_rectangles_lie_over_one_another_in_order_and_take_traced_colours():
    image = raster.canvas(10, 10)

    @jax.jit
    def draw(color):
        under = raster.rectangle(image, 0, 0, 10, 10, color)
        return raster.rectangle(under, 2, 2, 5, 5, (1, 2, 3))

    out = np.asarray(draw(jnp.array([9, 8, 7])))
    assert (out[3, 3] == (1, 2, 3)).all() and (out[6, 6] == (9, 8, 7)).all()


# ---- text -------------------------------------------------------------------------------------------------------


text = jax.jit(raster.text, static_argnames=("left", "top", "size", "bold"))


def slow_text(characters, left, top, size, bold, shape):
    """Ink of every pixel, computed column by column from the distance to the strokes, without the atlas."""
    unit = size / 10
    pen = (1.4 if bold else 0.85) * unit
    unit_x, unit_y = max(1, round(4 * unit)) / 4, max(1, round(6 * unit)) / 6
    stem = round(unit_x - pen / 2) + pen / 2  # from the cell's border to x = 0
    baseline = round(top + 0.93 * size)
    ink = np.zeros(shape)
    begin = round(left)
    for character in characters:
        end = begin + int((glyphs.glyph(character).width + 2) * unit_x + 0.5)
        y = (baseline - (np.arange(shape[0]) + 0.5) - pen / 2) / unit_y
        for column in range(max(0, begin), min(shape[1], end)):
            x = np.full(shape[0], (column + 0.5 - begin - stem) / unit_x)
            far = glyphs.distance(character, x, y) * unit
            covered = np.minimum(pen / 2, far + 0.5) - np.maximum(-pen / 2, far - 0.5)
            ink[:, column] = np.clip(covered, 0, 1)
        begin = end
    return ink


@pytest.mark.parametrize(
    "characters, left, top, size, bold",
    [
        ("Ag3@", 2, 3, 20, True),
        ("Wi_.", 4.3, 1.6, 24, False),
        ("5 to 3", 1, 2, 7.2, True),
        ("10♥", -6, -5, 30, False),  # cut at the upper left
        ("QX8", 30, 25, 26, True),  # cut at the lower right
    ],
)
def test_text_is_drawn_as_its_strokes_say(characters, left, top, size, bold):
    picture = text(raster.canvas(*SIZE), glyphs.encode(characters), left, top, size, bold=bold)
    expected = slow_text(characters, left, top, size, bold, SIZE)
    assert expected.max() > 0.9
    difference = np.abs(coverage_of(picture) - expected)
    # The atlas has four texels a unit: corners of the path are rounded a little.
    assert difference.max() < 0.25 and difference.mean() < 0.004, (difference.max(), difference.mean())


def test_text_wholly_outside_or_of_no_characters_changes_nothing():
    image = raster.canvas(*SIZE)
    for left, top in ((500, 5), (-500, 5), (5, 500), (5, -500)):
        assert (np.asarray(text(image, glyphs.encode("abc"), left, top, 20)) == 255).all()
    assert (np.asarray(text(image, glyphs.encode(""), 3, 3, 20)) == 255).all()


def test_ids_that_name_no_glyph_take_no_room():
    image = raster.canvas(*SIZE)
    plain = text(image, glyphs.encode("A7"), 3, 3, 20)
    a, seven = glyphs.encode("A7")
    for odd in ([-1, a, -1, seven], [a, 10**9, seven, -1], [a, seven, -(2**31), len(glyphs.CHARACTERS)]):
        np.testing.assert_array_equal(text(image, np.array(odd, np.int32), 3, 3, 20), plain)
    assert (np.asarray(text(image, np.full(4, -1, np.int32), 3, 3, 20)) == 255).all()


def test_a_glyph_looks_the_same_wherever_it_stands():
    """What a small model has to learn about a digit, it learns once."""
    image = raster.canvas(20, 60)
    first = np.asarray(text(image, glyphs.encode("Hii: 5"), 1, 2, 7.7, bold=True))
    second = np.asarray(text(image, glyphs.encode("Wmm: 5"), 1.4, 2, 7.7, bold=True))

    def last_glyph(picture):
        used = np.flatnonzero((picture < 255).any(axis=(0, 2)))
        return picture[:, used[-1] - 4 : used[-1] + 1]

    np.testing.assert_array_equal(last_glyph(first), last_glyph(second))


@pytest.mark.parametrize("size", [6, 7.2, 9, 14, 36])
def test_digits_can_be_told_apart_at_any_size(size):
    image = raster.canvas(50, 40)
    draw = jax.jit(lambda digit: raster.text(image, glyphs.encode("0") + digit[None], 2, 2, size, bold=True))
    pictures = np.stack([np.asarray(draw(jnp.int32(digit)))[:, :, 0] for digit in range(10)]).astype(int)
    for a in range(10):
        for b in range(a):
            difference = np.abs(pictures[a] - pictures[b])
            assert difference.max() > 100 and difference.sum() > 500, (a, b, size)


def test_text_of_run_time_ids_under_vmap_is_what_fixed_text_gives():
    draw = jax.jit(jax.vmap(lambda ids: raster.text(raster.canvas(*SIZE), ids, 2, 4, 15.0, (200, 0, 0))))
    lines = ["Ab 3", "zz 9", "il|!"]
    batch = draw(jnp.stack([glyphs.encode(line) for line in lines]))
    for line, picture in zip(lines, batch, strict=True):
        single = text(raster.canvas(*SIZE), glyphs.encode(line), 2, 4, 15.0, (200, 0, 0))
        np.testing.assert_allclose(np.asarray(picture, int), np.asarray(single, int), atol=1)


def test_text_keeps_what_lies_under_it_and_the_type_of_the_image():
    image = raster.rectangle(raster.canvas(*SIZE).astype(jnp.float32), 0, 0, 56, 40, (10, 100, 200))
    out = np.asarray(text(image, glyphs.encode("H"), 3, 3, 30, (250, 250, 250)))
    assert out.dtype == np.float32
    assert (out[0, 0] == (10, 100, 200)).all() and (out == 250).all(axis=-1).any()


def test_an_impossible_size_is_refused():
    with pytest.raises(ValueError, match="size is 0; accepted: a positive number"):
        raster.text(raster.canvas(*SIZE), glyphs.encode("a"), 0, 0, 0)


# ---- numbers ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [1, 2, 4])
def test_decimal_writes_a_number_as_python_does(length):
    draw = jax.jit(raster.decimal, static_argnums=1)
    for number in {0, 1, 9, 10, 42, 99, 100, 907, 1000, 9999}:
        if number < 10**length:
            ids = np.asarray(draw(jnp.int32(number), length))
            assert ids.shape == (length,) and ids.dtype == np.int32
            digits = str(number)
            assert "".join(glyphs.CHARACTERS[i] for i in ids[: len(digits)]) == digits
            assert (ids[len(digits) :] == -1).all()


def test_decimal_refuses_more_digits_than_an_int32_holds():
    with pytest.raises(ValueError, match="length is 10; accepted: 1 to 9"):
        raster.decimal(jnp.int32(3), 10)
