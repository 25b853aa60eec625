"""Read the header of a JPEG file: whether mlx-data decodes it like Pillow, and what its decoder must remember.

A JPEG file is a line of segments up to the first scan. Nothing is decoded here.

>>> is_plain_jpeg(Path("photo.jpg").read_bytes())  # doctest: +SKIP
True
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from typing import BinaryIO

from PIL import Image

from sharpzo_mlx.images.quiet import quiet

ORIENTATION = 0x0112  # EXIF's tag
PLAIN_PIXELS = 5_000_000  # of files for mlx-data, whose threads do not share a budget: 65 MB each at most
PLAIN_BYTES = 32_000_000  # of such a file

_PLAIN_FRAMES = (0xC0, 0xC1, 0xC2)  # baseline, extended and progressive Huffman: every decoder reads them alike
_PROGRESSIVE = (0xC2, 0xC6, 0xCA, 0xCE)
_NO_FRAME = (0xC4, 0xC8, 0xCC)  # markers between those of frames that mean something else
_ALONE = (0x01, *range(0xD0, 0xD8))  # markers without a length
_SCAN, _APP1 = 0xDA, 0xE1


def is_plain_jpeg(data: bytes) -> bool:
    """Tell whether mlx-data decodes a file's bytes to the pixels that `open_image` gives, in little memory.

    It does so for whole, upright, 8-bit JPEG files of three components. It gives grey files one channel and CMYK files
    four, ignores the orientation, and fills the missing part of a file that was cut short with grey, without an error.
    Files of more than `PLAIN_PIXELS` pixels or `PLAIN_BYTES` bytes are left to Pillow.
    """
    if len(data) > PLAIN_BYTES or not data.startswith(b"\xff\xd8") or not data.rstrip(b"\0").endswith(b"\xff\xd9"):
        return False
    for marker, segment in _segments(io.BytesIO(data)):
        if marker == _APP1 and not _says_upright(segment):
            return False
        if _begins_frame(marker):
            return marker in _PLAIN_FRAMES and _is_plain_frame(segment)
    return False


def coefficient_bytes(file: BinaryIO) -> float:
    """Return the bytes of each pixel that libjpeg holds beside the picture.

    A file of several scans (a progressive one, for example) has its coefficients in memory, two bytes each.

    Args:
        file: an open JPEG file; the position in it changes.
    """
    coefficients, components, progressive = 0.0, 0, False
    for marker, segment in _segments(file):
        if _begins_frame(marker):
            samplings = [(factors >> 4, factors & 15) for factors in segment[7::3]]
            widest, highest = (max((s[axis] for s in samplings), default=1) or 1 for axis in (0, 1))
            coefficients = 2.0 * sum(wide * high for wide, high in samplings) / (widest * highest)
            components, progressive = len(samplings), marker in _PROGRESSIVE
        if marker == _SCAN and segment[:1] == bytes([components]) and not progressive:
            return 0.0
    return coefficients


def _segments(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Yield marker and content of the segments up to the first scan."""
    file.seek(2)
    while len(start := file.read(2)) == 2 and start[0] == 0xFF:
        marker = start[1]
        if marker == 0xFF:  # a fill byte
            file.seek(-1, io.SEEK_CUR)
        if marker == 0xFF or marker in _ALONE:
            continue
        length = int.from_bytes(file.read(2), "big")
        if length < 2:
            return
        yield marker, file.read(length - 2)
        if marker == _SCAN:
            return


def _begins_frame(marker: int) -> bool:
    return 0xC0 <= marker <= 0xCF and marker not in _NO_FRAME


def _is_plain_frame(segment: bytes) -> bool:
    if len(segment) < 6:
        return False
    bits, height, width, components = struct.unpack_from(">BHHB", segment)
    return bool(bits == 8 and components == 3 and 0 < height * width <= PLAIN_PIXELS)


def _says_upright(segment: bytes) -> bool:
    """Tell whether an APP1 segment (EXIF or XMP) leaves the picture as it is stored."""
    if not segment.startswith(b"Exif\0\0"):
        return b"Orientation" not in segment
    exif = Image.Exif()
    try:
        with quiet:
            exif.load(segment)
        return bool(exif.get(ORIENTATION, 1) == 1)
    except Exception:  # damaged EXIF: Pillow decides what it means
        return False
