"""Bound the memory of decoding: what a picture takes is known from its header, and all threads share one budget.

The bytes of each pixel are those of Pillow 13 and its libraries, measured (docs/reference/files.md has the limits that
follow from them).

>>> with BUDGET.held(12_000_000):
...     pass  # decode a picture that takes 12 MB
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from PIL import Image

BYTES = 600_000_000  # for the pictures that are decoded at one time
NARROW = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2, "I;16L": 2, "I;16N": 2}  # bytes of a pixel by Pillow's mode
WIDE = 4  # of every other mode
ON_THE_WAY = {"WEBP": 12, "AVIF": 14, "HEIF": 8}  # bytes of a pixel that a decoder takes beside the picture
KEPT = {"WEBP": 8}  # and those of them that it keeps afterwards
READ_WHOLE = tuple(ON_THE_WAY)  # formats whose plugin reads the file at once
DRAFTS = (1, 2, 4, 8)  # libjpeg can decode at these fractions
FACTORS = range(1, 9)


class ByteBudget:
    """Bytes that threads hold for a while; who asks first gets them first."""

    def __init__(self, total: int) -> None:
        self.total = total
        self._free = total
        self._queue: deque[object] = deque()
        self._changed = threading.Condition()

    @contextmanager
    def held(self, size: int) -> Iterator[None]:
        """Hold so many bytes, at most all, in a `with` block; wait until they are free."""
        size, ticket = min(size, self.total), object()
        with self._changed:
            self._queue.append(ticket)
            try:
                self._changed.wait_for(lambda: self._queue[0] is ticket and size <= self._free)
                self._free -= size
            finally:
                self._queue.remove(ticket)
                self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._free += size
                self._changed.notify_all()


BUDGET = ByteBudget(BYTES)


@dataclass(frozen=True)
class DecodingPlan:
    """How a picture is decoded within the budget.

    Attributes:
        draft: libjpeg decodes at one part in `draft` of the size.
        factor: squares of `factor` pixels a side become one when the picture is converted.
        size: bytes held on the way.
    """

    draft: int
    factor: int
    size: int


def plan_decoding(image: Image.Image, file_size: int, coefficients: float = 0.0) -> DecodingPlan:
    """Choose the least reduction of an opened picture with which all that is held fits the budget.

    Args:
        image: the picture, opened and not loaded.
        file_size: bytes of its file.
        coefficients: what `coefficient_bytes` returns for a JPEG file.

    Raises:
        ValueError: the picture does not fit at any reduction.
    """
    pixels, stored = image.width * image.height, NARROW.get(image.mode, WIDE)
    kept, passing = KEPT.get(image.format or "", 0), _on_the_way(image)
    fixed = coefficients * pixels + (file_size if image.format in READ_WHOLE else 0) + _strip_size(image, file_size)
    for draft in DRAFTS if image.format in ("JPEG", "MPO") else DRAFTS[:1]:
        count = pixels / draft**2
        decoding = fixed + count * (stored + passing)
        if decoding > BUDGET.total:
            continue
        for factor in FACTORS:
            converting = fixed + count * (stored + kept + WIDE / factor**2)
            if converting <= BUDGET.total or factor == FACTORS[-1]:
                return DecodingPlan(draft, factor, int(max(decoding, converting)))
    needed = (fixed + pixels * (stored + passing)) / 1e6
    raise ValueError(f"{image.width} x {image.height} pixels need {needed:.0f} MB, more than can be decoded safely")


def _on_the_way(image: Image.Image) -> float:
    """Return the bytes of each pixel that decoding takes beside the picture."""
    if image.format == "TIFF":  # Pillow turns it upright as it loads
        return NARROW.get(image.mode, WIDE) if _tag(image, 274, 1) != 1 else 0
    return ON_THE_WAY.get(image.format or "", 0) * (2 if image.info.get("bit_depth", 8) > 8 else 1)


def _strip_size(image: Image.Image, file_size: int) -> float:
    """Return the bytes of a compressed strip or tile of a TIFF file, which can be the whole picture."""
    if image.format != "TIFF" or _tag(image, 259, 1) == 1:
        return 0
    bits = _tag(image, 258, 1)
    channels: float = sum(bits if isinstance(bits, tuple) else (bits,)) / 8
    width, rows = _tag(image, 322, image.width), min(_tag(image, 278, image.height), image.height)
    return float(width * _tag(image, 323, rows)) * channels + file_size


def _tag(image: Image.Image, number: int, otherwise: Any) -> Any:
    found = getattr(image, "tag_v2", {}).get(number)
    return otherwise if found is None else found
