"""Words out of a State as glyphs: a table made once on the host, gathered from on the device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from envs_jax.render import glyphs


@dataclass(frozen=True, eq=False)
class Labels:
    """Texts by number, for `raster.text`.

    Attributes:
      table: int32[W, L], each text's glyph ids, -1 after its end.
    """

    table: np.ndarray

    @classmethod
    def build(cls, words: Sequence[str]) -> Labels:
        """Makes the table.

        Args:
          words: texts of the characters that have glyphs (`glyphs.CHARACTERS`).
        """
        encoded = [np.asarray(glyphs.encode(word), np.int32) for word in words]
        table = np.full((len(encoded), max(map(len, encoded), default=0)), -1, np.int32)
        for row, ids in zip(table, encoded, strict=True):
            row[: len(ids)] = ids
        return cls(table)

    def line(self, ids: Int[Array, " n"]) -> Int[Array, " m"]:
        """Glyph ids of words with a space between each two; ids below 0 are no word.

        Worked example, words "red" and "box", ids [0, -1, 1] -> "red box", with -1, which takes no room, between.
        """
        known = ids >= 0
        words = jnp.where(known[:, None], jnp.asarray(self.table)[jnp.maximum(ids, 0)], -1)
        space = jnp.where(known & (jnp.cumsum(known) > 1), glyphs.SPACE, -1)
        return jnp.concatenate([space[:, None], words], axis=1).reshape(-1).astype(jnp.int32)
