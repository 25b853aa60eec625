"""Choose the folder of each label: one that is there for it, else a name that every disk can hold.

A name is made safe first (`datasets.safe_names`), and numbered where another label has it.

>>> ClassFolders(Path("sorted"), ["AC/DC", "cat", "Cat"]).find("Cat")
'Cat (2)'
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from sharpzo_mlx.datasets.image_set import nfc
from sharpzo_mlx.datasets.names import class_names, plain_name
from sharpzo_mlx.datasets.rows import SPLITS
from sharpzo_mlx.datasets.safe_names import fold, make_safe
from sharpzo_mlx.datasets.scan import UNSORTED
from sharpzo_mlx.errors import UserError


class ClassFolders:
    """The folders of labels.

    Args:
        into: the folder that holds them; need not exist.
        labels: all labels, the first of which have the first choice of names.
    """

    def __init__(self, into: Path, labels: Iterable[str]) -> None:
        self._into = into
        self._labels = list(dict.fromkeys(labels))
        self._chosen: dict[str, dict[str, str]] = {}  # by split

    def find(self, label: str | None, split: str = "") -> str:
        """Return the folder of a label below `into`, with slashes.

        Args:
            label: one of the labels, or None for the folder of images without one.
            split: the folder of a split in which it lies, if any.
        """
        if label is None:
            return UNSORTED
        if split not in self._chosen:
            self._chosen[split] = _choose(self._into / split, self._labels)
        return f"{split}/{self._chosen[split][label]}" if split else self._chosen[split][label]

    def find_renamed(self) -> dict[str, str]:
        """Return the labels whose folder is called otherwise, with its name."""
        chosen = self._chosen.get("", {})
        return {label: name for label, name in chosen.items() if nfc(label) != nfc(name)}


def split_of(path: str) -> str:
    """Return the folder of a split at the beginning of a path below a data set, or an empty string."""
    first, slash, _ = path.partition("/")
    return first if slash and first.lower() in SPLITS else ""


def _choose(place: Path, labels: list[str]) -> dict[str, str]:
    here = _find_folders(place)
    known = _find_names(place, here)
    chosen = {label: known[nfc(label)] for label in labels if nfc(label) in known}
    taken = {fold(UNSORTED), *map(fold, chosen.values())}
    for label in labels:
        if label not in chosen:
            safe = name = make_safe(label)
            number = 1
            while fold(name) in taken:
                number += 1
                name = f"{safe} ({number})"
            taken.add(fold(name))
            chosen[label] = name
    return chosen


def _find_folders(place: Path) -> list[str]:
    try:
        return sorted(one.name for one in os.scandir(place) if one.is_dir() and not one.name.startswith("."))
    except OSError:
        return []


def _find_names(place: Path, folders: list[str]) -> dict[str, str]:
    """Return the folders that are there by the class names they stand for, and by their own."""
    own = [name for name in folders if fold(name) != fold(UNSORTED) and name.lower() not in SPLITS]
    try:
        names = class_names(place, tuple(map(nfc, own)), fits_parent=False) if own else ()
    except UserError:  # as names they are what they are
        names = tuple(map(plain_name, own))
    by_name = {nfc(name): folder for name, folder in zip(reversed(names), reversed(own), strict=True)}
    return by_name | {nfc(folder): folder for folder in own}
