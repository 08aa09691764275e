"""Textures in one flat array with all their mip levels, and a filtered read from it.

* A texel is one int32 (red, green, blue from the lowest byte). It is stored with its neighbours to the right,
  above and both, so that a filtered read of a level is one gather of four numbers that lie together, its index
  computed once; four gathers were three times as slow on CPU.
* A level of side S is stored at offset S * S of its texture, and S is a power of two: the index of texel
  (x, y) is S*S | y*S | x, without a table of levels.
* `fetch` filters like OpenGL's GL_LINEAR_MIPMAP_LINEAR, which is what keeps distant floors from shimmering.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from envs_jax.render.materials import MATERIALS


@dataclass(frozen=True, eq=False)
class Atlas:
    """Square textures of one resolution with all their mip levels.

    Attributes:
      texels: int32[T * 2 N * N, 4], N texels a side; a texture's level of side S starts at S * S. Texel (x, y),
        then (x + 1, y), (x, y + 1) and (x + 1, y + 1), each modulo S.
      metres: float32[T], the side of one tile in the world.
      names: for reading; a texture id is the index.
      side: N, a power of two.
    """

    texels: np.ndarray
    metres: np.ndarray
    names: tuple[str, ...]
    side: int


def fetch(
    atlas: Atlas,
    texture: Int[Array, "*p"],
    u: Float[Array, "*p"],
    v: Float[Array, "*p"],
    footprint: Float[Array, "*p"],
) -> tuple[Float[Array, "*p"], Float[Array, "*p"], Float[Array, "*p"]]:
    """Filtered colour of a texture at a point: red, green, blue in 0..255.

    Args:
      atlas: see there.
      texture: int32, which one.
      u, v: float32, coordinates in tiles: u = 1 is where the texture repeats.
      footprint: float32, squared length in tiles of a pixel's longer side; decides how blurred.
    """
    deepest = atlas.side.bit_length() - 1
    texels = jnp.asarray(atlas.texels)
    level = jnp.clip(0.5 * jnp.log2(jnp.maximum(footprint, 1e-12)) + deepest, 0.0, deepest)
    fine = level.astype(jnp.int32)  # floor, as level >= 0
    blend = level - fine
    base = texture * (2 * atlas.side * atlas.side)

    def read(level):
        """The four texels around the point in one level, and their shares."""
        bits = deepest - level
        side = 1 << bits
        x, y = u * side - 0.5, v * side - 0.5
        x0, y0 = jnp.floor(x), jnp.floor(y)
        fx, fy = x - x0, y - y0
        x0, y0 = x0.astype(jnp.int32) & (side - 1), y0.astype(jnp.int32) & (side - 1)
        index = base + side * side + ((y0 << bits) | x0)
        corners = texels.at[index].get(mode="promise_in_bounds", wrap_negative_indices=False)
        return corners, [wy * wx for wy in (1 - fy, fy) for wx in (1 - fx, fx)]

    near, near_weights = read(fine)
    far, far_weights = read(jnp.minimum(fine + 1, deepest))
    reads = [(near[..., k], weight * (1 - blend)) for k, weight in enumerate(near_weights)]
    reads += [(far[..., k], weight * blend) for k, weight in enumerate(far_weights)]
    return tuple(
        sum(((texel >> shift) & 255).astype(jnp.float32) * weight for texel, weight in reads)
        for shift in (0, 8, 16)
    )


@lru_cache(maxsize=8)
def build_atlas(names: tuple[str, ...], side: int = 128) -> Atlas:
    """The atlas of the materials `names` (see `envs_jax.render.materials`); an id is the place in `names`.

    Raises:
      ValueError: no name or an unknown one, or a side that is no power of two.
    """
    unknown = [name for name in names if name not in MATERIALS]
    if unknown:
        raise ValueError(f"texture {unknown[0]!r} is unknown; accepted: {', '.join(MATERIALS)}")
    return pack_atlas([(name, MATERIALS[name].paint(side), MATERIALS[name].metres) for name in names])


def pack_atlas(textures: list[tuple[str, np.ndarray, float]]) -> Atlas:
    """An atlas of given pictures.

    Args:
      textures: (name, picture, metres) each; picture is [N, N, 3] in 0..255 with N a power of two and the
        same for all, indexed [v, u], so row 0 is the bottom of a wall; metres is the side of a tile.

    Raises:
      ValueError: no texture, a side that is no power of two, or sides that differ.
    """
    if not textures:
        raise ValueError("an atlas of 0 textures; accepted: at least one")
    side = textures[0][1].shape[0]
    if side < 2 or side & (side - 1):
        raise ValueError(f"a texture's side is {side}; accepted: a power of two")
    texels = np.zeros((len(textures), 2 * side * side, 4), np.int32)
    for row, (name, picture, _) in enumerate(textures):
        if picture.shape != (side, side, 3):
            raise ValueError(f"texture {name!r} has shape {picture.shape}; accepted: {(side, side, 3)}")
        level = np.asarray(picture, np.float64)
        while True:
            size = level.shape[0]
            red, green, blue = np.moveaxis(np.clip(np.rint(level), 0, 255).astype(np.int32), -1, 0)
            packed = red | green << 8 | blue << 16  # [v, u]
            around = [np.roll(packed, (-up, -right), (0, 1)) for up in (0, 1) for right in (0, 1)]
            texels[row, size * size : 2 * size * size] = np.stack(around, axis=-1).reshape(-1, 4)
            if size == 1:
                break
            level = level.reshape(size // 2, 2, size // 2, 2, 3).mean(axis=(1, 3))
    return Atlas(
        texels=texels.reshape(-1, 4),
        metres=np.array([metres for *_, metres in textures], np.float32),
        names=tuple(name for name, *_ in textures),
        side=side,
    )
