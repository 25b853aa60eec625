"""Folders of small painted images for tests: each class has a colour of its own, each image its own noise."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image


def paint_class(folder: Path, *, seed: int, count: int) -> None:
    """Write so many images of a class, whose colour follows from the folder's name."""
    folder.mkdir(parents=True, exist_ok=True)
    colour = np.random.default_rng(zlib.crc32(folder.name.encode())).integers(40, 215, 3)
    rng = np.random.default_rng([seed, 9])
    for number in range(count):
        noise = rng.normal(scale=45, size=(18, 18, 3))
        pixels = np.clip(colour + noise, 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{seed}-{number}.png")


def paint_dataset(folder: Path, classes: Sequence[str], *, each: int) -> Path:
    """Write a folder of classes, and return it."""
    for number, name in enumerate(classes):
        paint_class(folder / name, seed=number, count=each)
    return folder
