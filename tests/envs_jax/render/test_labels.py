"""Words drawn from a table look as the same line written out."""

import jax.numpy as jnp
import numpy as np

from envs_jax.render import glyphs, raster
from envs_jax.render.labels import Labels

_WORDS = ("red", "apple 1", "on", "x")


def test_a_line_of_words_is_drawn_as_its_text():
    labels = Labels.build(_WORDS)
    ids = labels.line(jnp.array([1, -1, 2, 0, -1], jnp.int32))
    image = raster.canvas(40, 200)
    ours = raster.text(image, ids, 5, 5, 16)
    theirs = raster.text(image, glyphs.encode("apple 1 on red"), 5, 5, 16)
    np.testing.assert_array_equal(ours, theirs)
    assert not np.array_equal(ours, image)


def test_no_words_draw_nothing():
    ids = Labels.build(_WORDS).line(jnp.full(3, -1, jnp.int32))
    image = raster.canvas(20, 60)
    np.testing.assert_array_equal(raster.text(image, ids, 0, 0, 12), image)
