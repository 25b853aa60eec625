"""The record that every kind of data set is read into: image files, the class of each, the classes' names.

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
        paths: the files, sorted by class and name.
        labels: for each file, the position of its class.
        class_names: names for prompts ("golden retriever").
        folders: the classes' folder names in NFC, in the same order.
    """

    paths: Sequence[Path]
    labels: tuple[int, ...]
    class_names: tuple[str, ...]
    folders: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.paths)

    def counts(self) -> list[int]:
        """Images of each class."""
        found = Counter(self.labels)
        return [found[label] for label in range(len(self.folders))]

    def take(self, rows: Iterable[int]) -> ImageSet:
        """The images at some positions, with all the classes."""
        chosen = tuple(rows)
        return ImageSet(
            taken(self.paths, chosen),
            tuple(self.labels[row] for row in chosen),
            self.class_names,
            self.folders,
        )


def taken(paths: Sequence[Path], rows: Iterable[int]) -> Sequence[Path]:
    """The paths at some positions; a list that is kept in little memory stays one."""
    return paths.take(rows) if isinstance(paths, PathList) else tuple(paths[row] for row in rows)


def nfc(name: str) -> str:
    """A file's name in composed unicode."""
    return unicodedata.normalize("NFC", name)
