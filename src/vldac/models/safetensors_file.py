"""safetensors files whose tensors are made and written one after another.

safetensors' own writer takes all tensors of a file at once; that is why its format, a JSON header and the bytes,
is written here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

STORED = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}  # safetensors' names of what is written


@dataclass(frozen=True, eq=False)
class PendingTensor:
    """A tensor that is yet to be made.

    Attributes:
      name: in the file.
      shape: of it.
      dtype: of it.
      make: makes it, on the host.
    """

    name: str
    shape: tuple[int, ...]
    dtype: jnp.dtype
    make: Callable[[], np.ndarray]

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.shape)) * self.dtype.itemsize


def made(tensors: Mapping[str, np.ndarray]) -> list[PendingTensor]:
    """Small tensors that are there already."""
    return [
        PendingTensor(name, value.shape, jnp.dtype(value.dtype), lambda value=value: value)
        for name, value in tensors.items()
    ]


def pack(tensors: Sequence[PendingTensor], limit: int) -> list[list[PendingTensor]]:
    """Tensors as files of at most `limit` bytes, in their order; a larger tensor gets a file of its own."""
    shards: list[list[PendingTensor]] = [[]]
    size = 0
    for tensor in tensors:
        if shards[-1] and size + tensor.nbytes > limit:
            shards.append([])
            size = 0
        shards[-1].append(tensor)
        size += tensor.nbytes
    return shards


def write_safetensors(path: Path, tensors: Sequence[PendingTensor]) -> None:
    """A safetensors file, its tensors made and written one after another.

    The format: 8 bytes with the header's length, the header (JSON: type, shape and place of every tensor, padded
    with spaces so that the data begin at a multiple of 8), the data.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for tensor in tensors:
        begin, end = end, end + tensor.nbytes
        header[tensor.name] = {
            "dtype": STORED[tensor.dtype.name],
            "shape": list(tensor.shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors:
            value = np.ascontiguousarray(tensor.make())
            file.write(value.reshape(-1).view(np.uint8).data)
