"""Decode one image file into an upright RGB picture, or say in one line why that fails.

Pillow reads the kinds in `KINDS`, of animations the first frame. Its other plugins are never asked: one of them hands
PostScript to a program. What a picture takes in memory is known before it is decoded (`decoding_memory.py`), and
`upright.py` makes upright 8-bit RGB of it.

>>> open_image(Path("holiday.heic")).size  # doctest: +SKIP
(4032, 3024)
"""

from __future__ import annotations

import importlib
import io
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import BinaryIO

from PIL import Image, UnidentifiedImageError

from sharpzo_mlx.errors import UserError, remedy, why
from sharpzo_mlx.images.decoding_memory import BUDGET, DecodingPlan, plan_decoding
from sharpzo_mlx.images.jpeg import coefficient_bytes
from sharpzo_mlx.images.quiet import quiet
from sharpzo_mlx.images.stored import open_stored
from sharpzo_mlx.images.upright import to_upright_rgb

_ENDINGS = "jpg jpeg jpe jfif png webp gif tif tiff bmp dib heic heif avif"
IMAGE_SUFFIXES = frozenset(f".{ending}" for ending in _ENDINGS.split())
KINDS = ("JPEG", "MPO", "PNG", "WEBP", "GIF", "TIFF", "BMP", "DIB", "HEIF", "AVIF")  # Pillow's names
MAX_PIXELS = 178_956_970  # twice Pillow's warning limit, where Pillow itself refuses

_PLUGINS = ("Jpeg", "Mpo", "Png", "WebP", "Gif", "Tiff", "Bmp", "Avif")


class ImageError(UserError):
    """An image cannot be read; the message is `path: reason`, and the attribute `reason` holds the reason alone."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason


def open_image(path: Path | str) -> Image.Image:
    """Read one image file as upright 8-bit RGB.

    Args:
        path: a JPEG, PNG, WebP, GIF, TIFF, BMP, HEIC or AVIF file, or one in a Parquet or tar file, see `stored`.

    Returns:
        The first frame, mode RGB, loaded, with the EXIF orientation applied. A picture that would take too much memory
        otherwise is smaller than the file says, by a whole factor.

    Raises:
        ImageError: the file is missing, cut short, no image, has more than `MAX_PIXELS` pixels, or takes more memory
            than `decoding_memory.BUDGET` has.
    """
    with held_image(path) as image:
        return image


@contextmanager
def held_image(path: Path | str) -> Iterator[Image.Image]:
    """Yield what `open_image` returns; inside the block its memory is taken from the budget of all decoding threads.

    A thread that opens a second image inside the block can wait forever.
    """
    path = Path(path)
    with _named_errors(path):
        file = open_stored(path)
    with file, _held(file, path) as image:
        yield image


@contextmanager
def held_content(content: bytes, name: str = "image") -> Iterator[Image.Image]:
    """Yield the picture of an image file's content, as `held_image` does for a file.

    Args:
        content: the bytes of the file.
        name: what an ImageError calls it; nothing is read from there.
    """
    with io.BytesIO(content) as file, _held(file, Path(name)) as image:
        yield image


@contextmanager
def _held(file: BinaryIO, path: Path) -> Iterator[Image.Image]:
    with _named_errors(path), quiet:
        image, plan = _open(file)
    with BUDGET.held(plan.size):
        with _named_errors(path), quiet:
            image = _decode(image, plan)
        yield image
        del image  # before the budget gets its bytes back


@contextmanager
def _named_errors(path: Path) -> Iterator[None]:
    """Raise every error as an ImageError: Pillow's plugins raise almost anything at a damaged file."""
    try:
        yield
    except Exception as error:
        raise ImageError(path, _reason(error)) from error


def _open(file: BinaryIO) -> tuple[Image.Image, DecodingPlan]:
    """Read a file's header, and find out what its picture takes."""
    size = file.seek(0, 2)
    if not size:
        raise ValueError("the file is empty")
    if size > BUDGET.total:
        raise ValueError(f"a file of {size / 1e6:.0f} MB is larger than can be decoded safely")
    file.seek(0)
    image = Image.open(file, formats=_registered_kinds())
    if image.width * image.height > MAX_PIXELS:
        raise ValueError(f"{image.width} x {image.height} pixels are more than can be decoded safely")
    if image.format not in ("JPEG", "MPO"):
        return image, plan_decoding(image, size)
    place = file.tell()
    coefficients = coefficient_bytes(file)
    file.seek(place)
    return image, plan_decoding(image, size, coefficients)


def _decode(image: Image.Image, plan: DecodingPlan) -> Image.Image:
    if plan.draft > 1:
        image.draft(None, (max(1, image.width // plan.draft), max(1, image.height // plan.draft)))
    image.load()
    return to_upright_rgb(image, plan.factor)


@cache
def _registered_kinds() -> tuple[str, ...]:
    """Return those of `KINDS` that this machine's Pillow has a plugin for."""
    for name in _PLUGINS:
        importlib.import_module(f"PIL.{name}ImagePlugin")
    with suppress(ImportError):  # no wheel for this platform: HEIC files are then reported as unreadable
        importlib.import_module("pillow_heif").register_heif_opener()
    return tuple(kind for kind in KINDS if kind in Image.OPEN)


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "not an image of a kind that can be read"
    if isinstance(error, (Image.DecompressionBombError, MemoryError)):
        return "more pixels than can be decoded safely"
    if isinstance(error, OSError) and error.strerror:
        return "; ".join(filter(None, (why(error), remedy(error, ""))))
    return " ".join(str(error).split()) or type(error).__name__
