"""Show what a data set holds before it is tuned: its classes with their names, images and prompts.

>>> list_classes("photos").classes[0].prompt  # doctest: +SKIP
'a photo of a barn owl.'
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sharpzo_mlx.datasets.splits import read_splits, report_names
from sharpzo_mlx.datasets.templates import PLAIN, standard_template
from sharpzo_mlx.files import expand, refuse_empty


@dataclass(frozen=True)
class ClassRow:
    """One class.

    Attributes:
        folder: the name of its folder, or its label in a list.
        name: its name in prompts.
        images: how many images each split has of it, in the order of `Overview.splits`.
        prompt: the prompt that the search begins at.
    """

    folder: str
    name: str
    images: tuple[int, ...]
    prompt: str


@dataclass(frozen=True)
class Overview:
    """A data set.

    Attributes:
        dataset: its folder or file.
        splits: "train", "val" and "test", those that it has; or "" alone if it is not divided.
        classes: the classes, in the order of their labels.
    """

    dataset: Path
    splits: tuple[str, ...]
    classes: tuple[ClassRow, ...]

    @property
    def images(self) -> tuple[int, ...]:
        """The number of images of each split."""
        return tuple(sum(one.images[place] for one in self.classes) for place in range(len(self.splits)))


def list_classes(dataset: str | Path, *, template: str | None = None) -> Overview:
    """List the classes of a data set; no image is opened.

    Args:
        dataset: a folder or a list, in every form that `tune` takes.
        template: a prompt with {} for the class name; None for the one that `tune` takes.

    Raises:
        UserError: the data set cannot be read.
    """
    refuse_empty(dataset)
    place = expand(dataset)
    sets = read_splits(place)
    first = next(iter(sets.values()))
    report_names(place, first)
    words = template or standard_template(place) or PLAIN
    counts = zip(*(images.counts() for images in sets.values()), strict=True)
    rows = zip(first.folders, first.class_names, counts, strict=True)
    classes = tuple(ClassRow(folder, name, found, words.replace("{}", name)) for folder, name, found in rows)
    return Overview(place, tuple(sets), classes)
