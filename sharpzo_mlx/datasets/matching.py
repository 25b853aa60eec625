"""Match the classes of an evaluated folder with the tuned classes: by folder name, else by class name.

A shifted variant of a data set holds some of its classes (ImageNet-A: 200 of 1000), perhaps under names where the tuned
set had ids, or the reverse. A class that matches nothing is an error: counting it as wrong or leaving it out would both
give a false accuracy.

>>> match_classes(read_folder(sketches), run_names, run_folders).labels  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from sharpzo_mlx.datasets.image_set import ImageSet, nfc, take_paths
from sharpzo_mlx.datasets.names import same_name
from sharpzo_mlx.errors import UserError


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
    by_folder = {nfc(folder): label for label, folder in enumerate(folders)}
    by_name: dict[str, int] = {}
    for label, (name, folder) in enumerate(zip(classes, folders, strict=True)):
        by_name.setdefault(same_name(name), label)
        by_name.setdefault(same_name(folder), label)
    labels: list[int | None] = []
    for folder, name in zip(images.folders, images.class_names, strict=True):
        labels.append(by_folder.get(folder, by_name.get(same_name(name), by_name.get(same_name(folder)))))
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
