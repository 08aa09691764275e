"""Frames as images that a page can hold: WebP in data URIs.

* Small frames keep their own pixels; the page enlarges them with `image-rendering: pixelated`, which shows
  the same as nearest-neighbour upscaling and costs a tenth of the bytes.
* Lossless as long as the page stays small, then lossy.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image

MAX_WIDTH = 320  # pixels; larger frames are scaled down to it


def data_uris(films: Sequence[np.ndarray], budget: int = 3_000_000) -> list[list[str]]:
    """Encodes the frames of several episodes.

    Args:
      films: uint8[T, H, W, 3] each.
      budget: bytes that all URIs together should take; above it the images become lossy.

    Returns:
      For each film T URIs, "data:image/webp;base64,...".
    """
    uris: list[list[str]] = []
    for options in ({"lossless": True}, {"quality": 85}, {"quality": 50}):
        uris = [[_data_uri(image, **options) for image in _images(film)] for film in films]
        if sum(len(uri) for film in uris for uri in film) <= budget:
            break
    return uris


def animation(frames: np.ndarray, seconds_per_frame: float = 0.25, width: int = MAX_WIDTH) -> bytes:
    """One animated WebP that loops, for a notebook or a README.

    Args:
      frames: uint8[T, H, W, 3].
      seconds_per_frame: the last frame is shown four times as long.
      width: pixels of the result, about: smaller frames are repeated pixel by pixel a whole number of times.
    """
    factor = max(1, round(width / frames.shape[2]))
    images = [
        image.resize((image.width * factor, image.height * factor), Image.NEAREST) for image in _images(frames)
    ]
    duration = [round(seconds_per_frame * 1000)] * len(images)
    duration[-1] *= 4
    buffer = io.BytesIO()
    images[0].save(
        buffer, "WEBP", save_all=True, append_images=images[1:], duration=duration, loop=0, lossless=True
    )
    return buffer.getvalue()


def _images(frames: np.ndarray) -> Iterator[Image.Image]:
    for frame in frames:
        image = Image.fromarray(frame)
        if image.width > MAX_WIDTH:
            image = image.resize((MAX_WIDTH, max(1, round(image.height * MAX_WIDTH / image.width))), Image.LANCZOS)
        yield image


def _data_uri(image: Image.Image, **options: object) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", method=4, **options)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()
