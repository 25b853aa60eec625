"""Match the classes of an evaluated folder with the tuned classes: by folder name, else by class name.

A shifted variant of a data set holds some of its classes (ImageNet-A: 200 of 1000), perhaps under names where the tuned
set had ids, or the reverse. A class that matches nothing is an error: counting it as wrong or leaving it out would both
give a false accuracy.

>>> match_classes(read_folder(sketches), run_names, run_folders).labels  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from sharpzo_mlx.datasets.image_set import ImageSet, nfc, take_paths
from sharpzo_mlx.datasets.names import same_name
from sharpzo_mlx.datasets.safe_names import fold, make_safe
from sharpzo_mlx.errors import UserError


class ClassIndex:
    """Finds a class by the name of its folder, by its own name, or by the folder that `sort` makes for it.

    Args:
        names: of the classes.
        folders: the names of their folders, in the same order.
    """

    def __init__(self, names: Iterable[str], folders: Iterable[str]) -> None:
        self._size = 0
        self._by_folder: dict[str, int] = {}
        self._by_name: dict[str, int] = {}
        self._by_safe_name: dict[str, int] = {}
        for name, folder in zip(names, folders, strict=True):
            self.add(name, folder)

    def add(self, name: str, folder: str) -> int:
        """Add a class and return its label, the next number; where a name is another class's too, the first has it."""
        label, self._size = self._size, self._size + 1
        self._by_folder[nfc(folder)] = label
        self._by_name.setdefault(same_name(name), label)
        self._by_name.setdefault(same_name(folder), label)
        self._by_safe_name.setdefault(fold(make_safe(name)), label)
        return label

    def find(self, name: str, folder: str) -> int | None:
        """Return the label of a class, or None if there is none of that name."""
        if (label := self._by_folder.get(nfc(folder))) is not None:
            return label
        found = (self._by_name.get(same_name(name)), self._by_name.get(same_name(folder)))
        return next((label for label in found if label is not None), self._by_safe_name.get(fold(folder)))


def match_classes(images: ImageSet, classes: Sequence[str], folders: Sequence[str]) -> ImageSet:
    """Give the images of a folder the labels of the tuned classes.

    Args:
        images: the images, as `read_folder` returns them.
        classes: the names of the tuned classes.
        folders: their folder names, in the same order.

    Returns:
        The same images, sorted by the labels of the tuned classes, with the tuned classes' names and folders.

    Raises:
        UserError: a class folder is not a tuned class, or two folders are the same class.
    """
    tuned = ClassIndex(classes, folders)
    labels = [tuned.find(name, folder) for name, folder in zip(images.class_names, images.folders, strict=True)]
    known = _all_known(images, labels, classes)
    order = sorted(range(len(images)), key=lambda row: known[images.labels[row]])  # stable: names stay sorted
    return replace(
        images,
        paths=take_paths(images.paths, order),
        labels=tuple(known[images.labels[row]] for row in order),
        class_names=tuple(classes),
        folders=tuple(folders),
    )


def _all_known(images: ImageSet, labels: list[int | None], classes: Sequence[str]) -> list[int]:
    unknown = [folder for folder, label in zip(images.folders, labels, strict=True) if label is None]
    if unknown:
        place = images.paths[0].parent.parent if images.paths else "the folder"
        more = f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
        raise UserError(
            f"{place}: class folders that were not tuned: {', '.join(unknown[:5])}{more}; "
            f"rename them to the run's classes ({', '.join(classes[:5])}{', …' if len(classes) > 5 else ''})"
        )
    known = [label for label in labels if label is not None]
    for label in known:
        if known.count(label) > 1:
            twins = [folder for folder, other in zip(images.folders, known, strict=True) if other == label]
            raise UserError(f"the folders {' and '.join(twins)} are both the class {classes[label]!r}; merge them")
    return known
