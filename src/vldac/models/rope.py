"""Rotary position embeddings: M-RoPE of the decoder and the two-axis rotation of the vision tower.

* M-RoPE (Qwen2-VL, arXiv 2409.12191, section 2.1): a token has a temporal, a height and a width position; the
  D/2 frequencies are cut into three chunks, each turning with one of them. For text all three are equal and it
  is plain RoPE.
* Angles, sines and the rotation itself are float32 whatever the model computes in: positions reach into the
  hundreds, where bfloat16 knows only every second or fourth.
* Images have static sizes here, so everything about their grids is a NumPy constant.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int


def rotate(
    x: Float[Array, "b s n d"], cos: Float[Array, "#b s h"], sin: Float[Array, "#b s h"]
) -> Float[Array, "b s n d"]:
    """Turns the pairs (x[i], x[i + D/2]) of every head by the angles of its token; h = D/2.

    The halves convention of `rotate_half` in transformers, not the interleaved pairs of the RoPE paper.
    """
    cos, sin = cos[:, :, None, :], sin[:, :, None, :]  # [B, S, 1, D/2]
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return turned.astype(x.dtype)


def mrope_angles(
    positions: Int[Array, "b 3 s"],
    theta: float,
    sections: tuple[int, int, int],
    interleaved: bool = False,
    factor: float = 1.0,
) -> tuple[Float[Array, "b s h"], Float[Array, "b s h"]]:
    """Cosine and sine of every token's angles, float32[B, S, D/2] each.

    Worked example, D/2 = 4, sections (2, 1, 1): frequencies 0 and 1 turn with the temporal position, 2 with the
    height, 3 with the width. Interleaved, D/2 = 8, sections (4, 2, 2): T H W T H W T T.

    Args:
      positions: (temporal, height, width) position of each token.
      theta: frequency i is theta^(-i / (D/2)).
      sections: how many frequencies each of the three turns; their sum is D/2.
      interleaved: the three take turns, as long as height and width have frequencies left (Qwen3-VL).
      factor: frequencies are divided by it (linear position interpolation).
    """
    half = sum(sections)
    frequencies = 1.0 / theta ** (np.arange(half, dtype=np.float32) / half) / np.float32(factor)
    if interleaved:
        axis = np.zeros(half, np.int64)
        axis[1 : 3 * sections[1] : 3] = 1
        axis[2 : 3 * sections[2] : 3] = 2
    else:
        axis = np.repeat(np.arange(3), sections)  # [D/2], e.g. [0, 0, 1, 2]
    chosen = positions[:, axis, :].swapaxes(1, 2)  # [B, S, D/2]
    angles = chosen.astype(jnp.float32) * frequencies
    return jnp.cos(angles), jnp.sin(angles)


def vision_angles(
    grid_h: int, grid_w: int, merge_size: int, head_dim: int, theta: float
) -> tuple[np.ndarray, np.ndarray]:
    """Cosine and sine for the patches of one image, float32[1, grid_h * grid_w, head_dim / 2] each.

    The first half of the frequencies turns with a patch's row, the second with its column.

    Args:
      grid_h, grid_w: patches down and across.
      merge_size: see `patch_coordinates`.
      head_dim: of the vision tower, a multiple of 4.
      theta: base of the frequencies.
    """
    row, column = patch_coordinates(grid_h, grid_w, merge_size)
    quarter = head_dim // 4
    frequencies = 1.0 / theta ** (np.arange(quarter, dtype=np.float32) / quarter)
    angles = np.concatenate([row[:, None] * frequencies, column[:, None] * frequencies], axis=-1)
    angles = angles.astype(np.float32)
    return np.cos(angles)[None], np.sin(angles)[None]


def patch_coordinates(grid_h: int, grid_w: int, merge_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Row and column of every patch of an image, int64[grid_h * grid_w] each, in the image processor's order.

    That is merge block after merge block, row by row within a block. Worked example, a grid of 2x4 with 2x2
    blocks: (row, column) = 00 01 10 11 | 02 03 12 13.

    Args:
      grid_h, grid_w: patches down and across.
      merge_size: patches of a merge block's side; divides both.
    """
    row, column = np.meshgrid(np.arange(grid_h), np.arange(grid_w), indexing="ij")
    blocks = (grid_h // merge_size, merge_size, grid_w // merge_size, merge_size)
    row, column = (x.reshape(blocks).swapaxes(1, 2).reshape(-1) for x in (row, column))
    return row, column


def image_position_offsets(grid_h: int, grid_w: int) -> np.ndarray:
    """Positions of an image's tokens relative to its first, int32[3, grid_h * grid_w]: (temporal, height, width).

    Worked example, 2x3 tokens: temporal 000000, height 000111, width 012012.

    Args:
      grid_h, grid_w: tokens down and across, that is, after merging.
    """
    height, width = np.meshgrid(np.arange(grid_h), np.arange(grid_w), indexing="ij")
    return np.stack([np.zeros_like(height), height, width]).reshape(3, -1).astype(np.int32)


def image_position_extent(grid_h: int, grid_w: int) -> int:
    """How far an image of that many tokens down and across moves the next token's position on.

    The largest position of the image and one: 3 for 2x3 tokens, although there are 6 of them.
    """
    return max(grid_h, grid_w)
