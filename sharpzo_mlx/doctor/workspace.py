"""The place of a full check: a temporary folder with a cache of its own, and what several steps use, made once.

>>> with open_workspace(SMALL) as workspace:
...     workspace.folder.is_dir()
True
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from sharpzo_mlx.demo import Amounts
from sharpzo_mlx.demo.render import render
from sharpzo_mlx.doctor.networks import write_image_model
from sharpzo_mlx.files import CACHE_VARIABLE
from sharpzo_mlx.runtime.device import on_cpu


@dataclass(frozen=True)
class Sizes:
    """How large the steps are.

    Attributes:
        text: the text tower whose queries are timed, a key of `networks.SIZES`.
        image_towers: the image towers whose rounding is measured; the first encodes files, too.
        at_once: images of a batch of theirs.
        images: image files that are encoded.
        seconds: seconds of a measurement, and of a tuning under a time budget.
        painted: pictures of one class of the demonstration.
    """

    text: str
    image_towers: tuple[str, ...]
    at_once: int
    images: int
    seconds: float
    painted: Amounts


SMALL = Sizes("tiny", ("tiny", "tiny-RN", "tiny-FastViT"), 4, 12, 0.2, Amounts(4, 2, 2, 1))
ON_CPU = Sizes("ViT-B/16", ("ViT-B/32", "RN50", "tiny-FastViT"), 8, 64, 3.0, Amounts())
ON_GPU = Sizes("ViT-B/16", ("ViT-B/16", "RN50", "MobileCLIP2-S0"), 32, 320, 3.0, Amounts())


class Workspace:
    """What the steps share.

    Args:
        folder: the folder for everything that steps write.
        sizes: how large they are.
    """

    def __init__(self, folder: Path, sizes: Sizes) -> None:
        self.folder, self.sizes = folder, sizes

    @cached_property
    def pictures(self) -> Path:
        """The demonstration's painted pictures, where its own steps expect them."""
        root = self.folder / "demo"
        for _ in render(root / "images", amounts=self.sizes.painted):
            pass
        return root

    def model(self, name: str) -> Path:
        """Return a model folder with a random image tower of that size; the first call writes it."""
        folder = self.folder / "models" / name.replace("/", "-")
        if not (folder / "config.json").is_file():
            write_image_model(folder, name)
        return folder


def choose_sizes() -> Sizes:
    """Return the sizes for the default device."""
    return ON_CPU if on_cpu() else ON_GPU


@contextmanager
def open_workspace(sizes: Sizes) -> Iterator[Workspace]:
    """Yield a workspace in a temporary folder, which has the cache meanwhile; nothing of it remains."""
    before = os.environ.get(CACHE_VARIABLE)
    with tempfile.TemporaryDirectory(prefix="sharpzo-mlx-doctor-") as folder:
        os.environ[CACHE_VARIABLE] = str(Path(folder) / "cache")
        try:
            yield Workspace(Path(folder), sizes)
        finally:
            if before is None:
                del os.environ[CACHE_VARIABLE]
            else:
                os.environ[CACHE_VARIABLE] = before
