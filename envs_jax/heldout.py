"""Held-out instances, for all families: the three values of `split`, and the hashes that say what is "test".

* What an instance is, each family says itself: a layout, a hand, a pair of colours, a product with its attributes.
* About one instance in five is "test". A fixed hash of the instance decides, not a table and not a seed: the same
  instances are held out for ever, in every process, and the two parts have none in common.
* Three hashes, as instances are known as numbers on the host, numbers on the device, or words.
"""

from __future__ import annotations

import zlib
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

Split = Literal["all", "train", "test"]
SPLITS = ("all", "train", "test")
ONE_IN = 5


def check_split(value: Any) -> None:
    """Raises ValueError unless `value` is one of the three."""
    if value not in SPLITS:
        raise ValueError(f"split is {value!r}; accepted: {', '.join(SPLITS)}")


def part(test: np.ndarray, split: Split) -> np.ndarray:
    """bool[n], which of some entries the split has, if `test`, bool[n], says which are held out.

    Worked example, test [0 0 1]: "all" -> [1 1 1], "train" -> [1 1 0], "test" -> [0 0 1].
    """
    return {"all": np.ones_like(test), "train": ~test, "test": test}[split]


def numbers_are_test(instances: np.ndarray) -> np.ndarray:
    """bool[n], which of some whole numbers, on the host, are held out (two steps of SplitMix64's mixing)."""
    mixed = instances.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    mixed ^= mixed >> np.uint64(29)
    mixed *= np.uint64(0xBF58476D1CE4E5B9)
    mixed ^= mixed >> np.uint64(32)
    return mixed % np.uint64(ONE_IN) == 0


def row_is_test(numbers: Int[Array, " n"]) -> Bool[Array, ""]:
    """Whether the one instance that these numbers tell is held out, on the device."""
    # A sum of products with fixed odd factors, mixed (MurmurHash3's last step), all modulo 2^32.
    factors = np.array(
        [(2654435761 * (2 * k + 1) ** 3 + 2 * k) % 2**32 | 1 for k in range(len(numbers))], np.uint32
    )
    mixed = jnp.sum((numbers.astype(jnp.uint32) + jnp.uint32(1)) * factors, dtype=jnp.uint32)
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        mixed = (mixed ^ (mixed >> shift)) * jnp.uint32(factor)
    return (mixed ^ (mixed >> 16)) % ONE_IN == 0


def words_are_test(text: str) -> bool:
    """Whether the instance that these words tell is held out: CRC-32."""
    return zlib.crc32(text.encode()) % ONE_IN == 0


def name_is_test(text: str) -> bool:
    """The same by FNV-1a, of 32 bits, of which the lowest eight are left out."""
    value = 2166136261
    for byte in text.encode():
        value = (value ^ byte) * 16777619 % 2**32
    return (value >> 8) % ONE_IN == 0
