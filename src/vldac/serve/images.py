"""The images of a conversation, out of `data:` URLs and within `Limits`.

* Nothing is ever fetched: a server that opens addresses for strangers opens those of its own network, too.
* What an image will cost is known before it is decompressed: its pixels, and how often a JPEG goes over them, as
  a few bytes are a scan of all and a file may hold a million.
"""

from __future__ import annotations

import base64
import binascii
import io
import re
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from vldac.serve.limits import Limits
from vldac.serve.refusal import Refused, short

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
_DATA_URL = re.compile(r"data:image/[a-z0-9.+-]+;base64,", re.IGNORECASE)
_ALONE = {bytes([marker]) for marker in (0x00, 0x01, *range(0xD0, 0xD9))}  # no length behind them: no segment


class Images:
    """The images of one conversation."""

    def __init__(self, limits: Limits):
        self._limits, self._count, self._pixels = limits, 0, 0

    def read(self, url: Any, name: str) -> np.ndarray:
        """uint8[H, W, 3] of a data URL."""
        if not isinstance(url, str) or not (start := _DATA_URL.match(url)):
            raise Refused(
                f"{name} is {short(url)}; accepted: a data URL, data:image/png;base64,... (nothing is fetched)",
                name,
            )
        self._count += 1
        if self._count > self._limits.images:
            raise Refused(f"there are more images than {self._limits.images}, the most that are accepted", name)
        try:
            data = base64.b64decode(url[start.end() :], validate=True)
        except (binascii.Error, ValueError) as error:
            raise Refused(f"{name} is not base64: {error}", name) from error
        try:
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                self._check_size(image.width * image.height, name)
                if image.format in ("JPEG", "MPO"):
                    self._check_scans(data, name)
                return _pixels(image)
        except Refused:
            raise
        except Exception as error:  # decoders raise all kinds
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            if isinstance(error, UnidentifiedImageError):  # which names an object in our memory
                reason = "unknown format"
            accepted = ", ".join(FORMATS)
            raise Refused(
                f"{name} can not be read as an image ({reason[:200]}); accepted: {accepted}", name
            ) from error

    def _check_size(self, pixels: int, name: str) -> None:
        self._pixels += pixels
        for value, most, what in (
            (pixels, self._limits.image_pixels, "the image has"),
            (self._pixels, self._limits.total_pixels, "the images together have"),
        ):
            if value > most:
                raise Refused(f"{name}: {what} {value} pixels; accepted: at most {most}", name)

    def _check_scans(self, data: bytes, name: str) -> None:
        most = self._limits.image_scans
        if scans(data, most) > most:
            raise Refused(f"{name} has more than {most} scans, the most that are accepted", name)


def scans(data: bytes, most: int) -> int:
    """Scans of a JPEG file; counting ends above `most`.

    Source: ITU-T T.81, B.1.1: a marker is a byte 255 and another one; a segment's length stands behind the marker,
    and behind a byte 255 of a scan's data stands 0.
    """
    count, at = 0, 0
    while (at := data.find(b"\xff", at)) >= 0 and count <= most:
        marker = data[at + 1 : at + 2]
        if marker == b"\xd9":  # the end; what follows is not looked at by decoders either
            break
        count += marker == b"\xda"
        if marker == b"\xff":  # any number of them may stand before a marker
            at += 1
        elif marker in _ALONE:
            at += 2
        else:
            at += 2 + max(2, int.from_bytes(data[at + 2 : at + 4]))
    return count


def _pixels(image: Image.Image) -> np.ndarray:
    """The right way up, what is transparent on white."""
    image = ImageOps.exif_transpose(image)
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return np.asarray(image.convert("RGB"))
