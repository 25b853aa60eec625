"""List all labelled images of a data set, whatever its splits, with the folder in which each image's class folder lies.

>>> found = read_labelled(Path("pets"))  # doctest: +SKIP
>>> found.parts[0].name, found.parts[0].folder  # doctest: +SKIP
('train', PosixPath('pets/train'))
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sharpzo_mlx.datasets.coop import find_split_file, read_split_file
from sharpzo_mlx.datasets.folder import checked_folder, inner_folder, read_folder, refuse_flat_splits, split_folders
from sharpzo_mlx.datasets.image_set import ImageSet
from sharpzo_mlx.datasets.listed import has_list, read_listed
from sharpzo_mlx.errors import UserError


@dataclass(frozen=True)
class Part:
    """One split of a data set, or all of one without splits.

    Attributes:
        name: "train", "val" or "test"; empty without splits.
        folder: the folder of the class folders.
        images: how many.
    """

    name: str
    folder: Path
    images: int


@dataclass(frozen=True)
class LabelledFolder:
    """All labelled images of a data set.

    Attributes:
        images: those of all parts, one part behind the other.
        parts: the parts in this order.
        by_folder: whether the folder of an image is what gives it its label, so that moving it corrects the label.
    """

    images: ImageSet
    parts: tuple[Part, ...]
    by_folder: bool

    def part_of(self, row: int) -> Part:
        """Return the part that an image belongs to."""
        for part in self.parts:
            if row < part.images:
                return part
            row -= part.images
        raise IndexError(row)


def read_labelled(folder: str | Path) -> LabelledFolder:
    """List the images of a data set.

    Args:
        folder: holds `train/`, `val/` and `test/` with class folders inside, the class folders themselves, or a split
            file of CoOp's; or a file or folder with a list, see `datasets.listed`.

    Raises:
        UserError: the folder is missing or cannot be read, or it has fewer than two classes.
    """
    place = checked_folder(folder)
    by_folder = not has_list(place)
    around = place if place.is_dir() else place.parent
    if (file := find_split_file(place)) is not None:
        sets = {name: (around, images) for name, images in read_split_file(file).items() if len(images)}
    elif (listed := read_listed(place)) is not None:
        sets = {name: (around, images) for name, images in listed.items()}
    else:
        root = inner_folder(place)
        refuse_flat_splits(root)
        given = split_folders(root) or {"": root}
        sets = {name: (path, read_folder(path)) for name, path in given.items()}
    images = _join(sets)
    if len(images.folders) < 2:
        raise UserError(f"{place}: only one class, {images.folders[0]!r}; labels are checked among two or more")
    parts = tuple(Part(name, path, len(part)) for name, (path, part) in _in_order(sets))
    return LabelledFolder(images, parts, by_folder=by_folder)


def _in_order(sets: Mapping[str, tuple[Path, ImageSet]]) -> list[tuple[str, tuple[Path, ImageSet]]]:
    """Return the parts, training images first: a copy is then named beside the image it was trained on."""
    return sorted(sets.items(), key=lambda one: ("train", "val", "test").index(one[0]) if one[0] else 0)


def _join(sets: Mapping[str, tuple[Path, ImageSet]]) -> ImageSet:
    parts = [images for _, (_, images) in _in_order(sets)]
    names: dict[str, str] = {}
    for images in parts:
        for folder, name in zip(images.folders, images.class_names, strict=True):
            names.setdefault(folder, name)
    folders = tuple(sorted(names))
    places = {folder: place for place, folder in enumerate(folders)}
    return ImageSet(
        tuple(path for images in parts for path in images.paths),
        tuple(places[images.folders[label]] for images in parts for label in images.labels),
        tuple(names[folder] for folder in folders),
        folders,
    )
