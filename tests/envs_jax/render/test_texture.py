"""Filtered texture reads against plain NumPy trilinear mipmapping, and what an atlas refuses."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from envs_jax.render.texture import build_atlas, fetch, pack_atlas

SIDE = 16
PICTURES = [np.random.default_rng(i).integers(0, 256, (SIDE, SIDE, 3)).astype(float) for i in range(3)]
ATLAS = pack_atlas([(f"t{i}", picture, 1.0 + i) for i, picture in enumerate(PICTURES)])
read = jax.jit(lambda *arguments: jnp.stack(fetch(ATLAS, *arguments), axis=-1))


def slow(picture, u, v, footprint):
    """Trilinear with wrapping, from the definition: box-filtered levels, each rounded to whole colours."""
    levels = [picture]
    while len(levels[-1]) > 1:
        a = levels[-1]
        levels.append((a[::2, ::2] + a[1::2, ::2] + a[::2, 1::2] + a[1::2, 1::2]) / 4)
    # Texels per pixel is the side of the footprint in tiles, times texels per tile.
    level = min(max(math.log2(max(math.sqrt(footprint) * SIDE, 1e-9)), 0.0), len(levels) - 1)

    def bilinear(a):
        n, total = len(a), 0.0
        x, y = u * n - 0.5, v * n - 0.5
        for j in (math.floor(y), math.floor(y) + 1):
            for i in (math.floor(x), math.floor(x) + 1):
                total = total + np.rint(a[j % n, i % n]) * (1 - abs(x - i)) * (1 - abs(y - j))
        return total

    low, share = int(level), level - int(level)
    return (1 - share) * bilinear(levels[low]) + share * bilinear(levels[min(low + 1, len(levels) - 1)])


def test_fetch_is_trilinear_mipmapping():
    random = np.random.default_rng(0)
    count = 400
    texture = random.integers(0, 3, count)
    u, v = random.uniform(-3, 3, (2, count)).astype(np.float32)
    footprint = np.float32(4.0) ** random.uniform(-8, 3, count).astype(np.float32)
    got = read(jnp.asarray(texture, jnp.int32), u, v, footprint)
    want = [slow(PICTURES[t], *map(float, p)) for t, *p in zip(texture, u, v, footprint, strict=True)]
    np.testing.assert_allclose(got, want, atol=0.05)


@pytest.mark.parametrize("footprint", (0.0, 1e-30, 1.0, 1e30))
def test_extreme_footprints_read_the_finest_or_the_mean(footprint):
    texel = (np.array([3, 7]) + 0.5) / SIDE  # the middle of texel column 3, row 7
    got = read(jnp.int32(1), *np.float32(texel), jnp.float32(footprint))
    want = PICTURES[1][7, 3] if footprint < 1e-6 else PICTURES[1].mean(axis=(0, 1))
    np.testing.assert_allclose(got, want, atol=0.51)


def test_textures_repeat_without_a_seam_and_do_not_leak_into_each_other():
    u = jnp.linspace(-0.06, 0.06, 25)
    for footprint in (1e-6, 0.01, 0.1):
        at = [read(jnp.zeros(25, jnp.int32), u + k, u * 0 + 0.4, u * 0 + footprint) for k in (0, 1, -2)]
        np.testing.assert_allclose(at[0], at[1], atol=0.02)
        np.testing.assert_allclose(at[0], at[2], atol=0.02)
    black_and_white = pack_atlas([("b", np.zeros((8, 8, 3)), 1.0), ("w", np.full((8, 8, 3), 255.0), 1.0)])
    u, v, footprint = jnp.asarray(np.random.default_rng(1).uniform(-2, 2, (3, 200)), jnp.float32)
    for texture, colour in ((0, 0), (1, 255)):
        ids = jnp.full(200, texture, jnp.int32)
        for channel in fetch(black_and_white, ids, u, v, jnp.abs(footprint)):
            np.testing.assert_allclose(channel, colour, atol=1e-3)


def test_build_atlas_orders_textures_as_named_and_makes_each_once():
    atlas = build_atlas(("concrete_tiles", "plain"), side=8)
    assert atlas.names == ("concrete_tiles", "plain") and atlas.side == 8
    np.testing.assert_array_equal(atlas.metres, [1.5, 1.0])
    np.testing.assert_array_equal(np.stack(fetch(atlas, jnp.int32(1), *jnp.zeros(3))), [255, 255, 255])
    assert build_atlas(("concrete_tiles", "plain"), side=8) is atlas


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: build_atlas(("plain", "marble")), "'marble' is unknown; accepted: plain"),
        (lambda: build_atlas(("plain",), side=24), "side is 24; accepted: a power of two"),
        (lambda: build_atlas(()), "at least one"),
        (lambda: pack_atlas([("a", np.zeros((4, 4, 3)), 1.0), ("b", np.zeros((8, 8, 3)), 1.0)]), "'b' has shape"),
    ],
)
def test_bad_textures_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
