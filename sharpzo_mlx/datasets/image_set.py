"""The record of a set of images: the files, the class of each, and the names of the classes.

>>> ImageSet((Path("cat/1.jpg"),), (0,), ("cat",), ("cat",)).counts()
[1]
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sharpzo_mlx.datasets.path_list import PathList


@dataclass(frozen=True)
class ImageSet:
    """Image files and the class of each.

    Attributes:
        paths: the files [N], sorted by class and name.
        labels: for each file the position of its class in `class_names`.
        class_names: the names for prompts ("golden retriever").
        folders: the names of the class folders in composed unicode (NFC), in the order of `class_names`.
    """

    paths: Sequence[Path]
    labels: tuple[int, ...]
    class_names: tuple[str, ...]
    folders: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.paths)

    def counts(self) -> list[int]:
        """Return the number of images of each class."""
        found = Counter(self.labels)
        return [found[label] for label in range(len(self.folders))]

    def take(self, rows: Iterable[int]) -> ImageSet:
        """Return the images at some positions; the classes stay the same."""
        chosen = tuple(rows)
        return ImageSet(
            take_paths(self.paths, chosen),
            tuple(self.labels[row] for row in chosen),
            self.class_names,
            self.folders,
        )


def take_paths(paths: Sequence[Path], rows: Iterable[int]) -> Sequence[Path]:
    """Return the paths at some positions; a PathList stays a PathList."""
    return paths.take(rows) if isinstance(paths, PathList) else tuple(paths[row] for row in rows)


def nfc(name: str) -> str:
    """Return a name in composed unicode; macOS hands out file names decomposed."""
    return unicodedata.normalize("NFC", name)
