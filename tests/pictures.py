"""Pictures and image files for tests: smooth random ones, and broken files of every kind."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sharpzo_mlx.images.preprocessor import PreprocessorConfig

Pixels = np.ndarray[Any, Any]
SMALL = PreprocessorConfig.for_size(32)


def picture(height: int = 40, width: int = 60, seed: int = 0) -> Pixels:
    """A smooth picture with different quarters, so that every turn of it is another picture."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 255, (4, 5, 3), dtype=np.uint8)
    return np.array(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def jpeg(path: Path, seed: int = 0, **options: Any) -> Path:
    Image.fromarray(picture(seed=seed)).save(path, "JPEG", quality=92, **options)
    return path


def png_of(width: int, height: int) -> bytes:
    """A PNG whose header claims a size that its few bytes of data do not have."""
    parts = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(bytes(1000))),
        (b"IEND", b""),
    ]
    chunks = [struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in parts]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def broken_files(folder: Path) -> list[Path]:
    whole = jpeg(folder / "whole.jpg").read_bytes()
    buffer = io.BytesIO()
    Image.fromarray(picture()).save(buffer, "PNG")
    contents = {
        "empty.jpg": b"",
        "text.png": b"no picture",
        "cut.jpg": whole[: len(whole) // 2],
        "cut_closed.jpg": whole[: len(whole) // 3] + b"\xff\xd9",
        "head.jpg": whole[:30],
        "cut.png": buffer.getvalue()[:-200],
        "bit.png": buffer.getvalue().replace(b"IDAT", b"IDAX", 1),
        "bomb.png": png_of(60_000, 60_000),
        "large.png": png_of(11_000, 11_000),  # where Pillow only warns
        "page.jpg": b"<!doctype html><html></html>",
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    (folder / "folder.jpg").mkdir()
    return [folder / name for name in [*contents, "folder.jpg", "absent.jpg"]]
