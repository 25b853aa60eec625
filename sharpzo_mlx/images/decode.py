"""Decode one image file into an upright RGB picture, or say in one line why that fails.

Pillow reads every kind (JPEG, PNG, WebP, GIF's first frame, TIFF, BMP, HEIC). The EXIF orientation is applied, and
transparency becomes white as in the CLIP processor of transformers 5. 16-bit grey is scaled to 8 bits; Pillow itself,
and so that processor, would clip it to white. `is_plain_jpeg` tells the files for which mlx-data's faster decoder gives
the same pixels.

>>> open_image(Path("holiday.heic")).size  # doctest: +SKIP
(4032, 3024)
"""

from __future__ import annotations

import importlib
import io
import struct
import threading
import warnings
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from sharpzo_mlx.errors import UserError, remedy, why
from sharpzo_mlx.files import open_regular

_ENDINGS = "jpg jpeg jpe jfif png webp gif tif tiff bmp dib heic heif avif"
IMAGE_SUFFIXES = frozenset(f".{ending}" for ending in _ENDINGS.split())
MAX_PIXELS = 178_956_970  # twice Pillow's warning limit, where Pillow itself refuses: half a gigabyte as RGB
PLAIN_PIXELS = 64_000_000  # larger files are not decoded several at once

_opening = threading.Lock()
_ORIENTATION = 0x0112
_FRAME_HEADERS = (0xC0, 0xC1, 0xC2)  # baseline, extended and progressive Huffman: every decoder reads them alike
_ALONE = (0x01, *range(0xD0, 0xD8))  # markers without a length


class ImageError(UserError):
    """An image cannot be read; the message is `path: reason`, and the attribute `reason` holds the reason alone."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason


def open_image(path: Path | str) -> Image.Image:
    """Read one image file as upright 8-bit RGB.

    Args:
        path: a JPEG, PNG, WebP, GIF, TIFF, BMP, HEIC or AVIF file.

    Returns:
        The first frame, mode RGB, loaded, with the EXIF orientation applied.

    Raises:
        ImageError: the file is missing, cut short, no image, or has more than `MAX_PIXELS` pixels.
    """
    path = Path(path)
    try:
        with open_regular(path) as file:
            return _read(file.read())
    except ImageError:
        raise
    except Exception as error:  # Pillow's plugins raise almost anything at a damaged file
        raise ImageError(path, _reason(error)) from error


def _read(data: bytes) -> Image.Image:
    if not data:
        raise ValueError("the file is empty")
    image = _open(data)
    if image.width * image.height > MAX_PIXELS:
        raise ValueError(f"{image.width} x {image.height} pixels are more than can be decoded safely")
    image.load()
    return _upright_rgb(image)


def _open(data: bytes) -> Image.Image:
    """Open without decoding, and without Pillow's warnings (bombs, odd EXIF): only its errors matter here."""
    _register_heic()
    # catch_warnings changes a global list, so only one thread may be here; a header takes microseconds
    with _opening, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image = Image.open(io.BytesIO(data))
        image.getexif()  # parsed and kept now, so that its warnings end here
    return image


@cache
def _register_heic() -> None:
    try:
        importlib.import_module("pillow_heif").register_heif_opener()
    except ImportError:  # no wheel for this platform: HEIC files are then reported as unreadable
        return


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "not an image of a kind that can be read"
    if isinstance(error, Image.DecompressionBombError):
        return "more pixels than can be decoded safely"
    if isinstance(error, OSError) and error.strerror:
        return "; ".join(filter(None, (why(error), remedy(error, ""))))
    return " ".join(str(error).split()) or type(error).__name__


def _upright_rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        image = _eight_bit(image)
    else:
        image = ImageOps.exif_transpose(image)
    if "A" in image.getbands() or "a" in image.getbands() or image.info.get("transparency") is not None:
        layers = image.convert("RGBA")
        white = Image.new("RGBA", layers.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, layers).convert("RGB")
    # a new image, which does not keep the file's bytes and EXIF
    return image.convert("RGB") if image.mode != "RGB" else image.copy()


def _eight_bit(image: Image.Image) -> Image.Image:
    """Scale wide greys to 0..255: 16-bit by 255/65535, floats in [0, 1] by 255, all else from its own range."""
    levels = np.asarray(image).astype(np.float64)
    if not np.isfinite(levels).all():
        raise ValueError("some pixels are not numbers")
    low, high = float(levels.min()), float(levels.max())
    if image.mode == "F" and low >= 0.0 and high <= 1.0:
        low, high = 0.0, 1.0
    elif image.mode.startswith("I;16") or image.format == "PNG":
        low, high = 0.0, 65535.0
    scaled = np.rint((levels - low) * (255.0 / max(high - low, 1e-12)))
    grey = Image.fromarray(scaled.astype(np.uint8))
    turn = _TURNS.get(image.getexif().get(_ORIENTATION, 1))
    return grey if turn is None else grey.transpose(turn)


_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def is_plain_jpeg(data: bytes) -> bool:
    """Tell whether mlx-data decodes a file's bytes to the pixels that `open_image` gives.

    It does so for whole, upright, 8-bit JPEG files of three components. It gives grey files one channel and CMYK files
    four, ignores the orientation, and fills the missing part of a file that was cut short with grey, without an error.
    """
    if not data.startswith(b"\xff\xd8") or not data.rstrip(b"\0").endswith(b"\xff\xd9"):
        return False
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF or marker in _ALONE:
            at += 1 if marker == 0xFF else 2
            continue
        (length,) = struct.unpack_from(">H", data, at + 2)
        segment = data[at + 4 : at + 2 + length]
        if marker == 0xE1 and not _says_upright(segment):
            return False
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return marker in _FRAME_HEADERS and _is_plain_frame(segment)
        at += 2 + length
    return False


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
        exif.load(segment)
        return bool(exif.get(_ORIENTATION, 1) == 1)
    except Exception:  # damaged EXIF: Pillow decides what it means
        return False
