"""Read a mapping file, which says which tuned classes a class folder stands for (ObjectNet has its own classes).

The file is a JSON object from folder to a class, a list of classes or null, or text with lines `folder class`. A class
is given by its folder (WordNet id) or its name. ObjectNet's own file writes several classes as "a, b; c": `;` separates
classes, `,` separates the names of one class. Each class of a folder counts as right; folders that the file does not
mention are left out, with a notice.

>>> images, owner = apply_mapping(read_folder("objectnet"), Path("map.json"), names, wnids)  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sharpzo_mlx.datasets.image_set import ImageSet, nfc, take_paths
from sharpzo_mlx.datasets.names import same_name
from sharpzo_mlx.errors import UserError, notify, shown
from sharpzo_mlx.reading import parse_json, read_text, reason

FORM = "write JSON {folder: class or [classes]}"


def apply_mapping(
    images: ImageSet, file: Path, classes: Sequence[str], folders: Sequence[str]
) -> tuple[ImageSet, np.ndarray]:
    """Keep the images whose folder stands for a tuned class.

    Args:
        images: the images of the folder.
        file: the mapping.
        classes: the names of the K tuned classes.
        folders: their folder names.

    Returns:
        The images kept, and [K] for each tuned class the label that it stands for, or -1.

    Raises:
        UserError: the file cannot be read, names an unknown class or one class twice, or mentions none of the folders.
    """
    targets = {same_name(folder): names for folder, names in _read(file).items()}
    kept = [label for label, folder in enumerate(images.folders) if targets.get(same_name(folder))]
    if not kept:
        raise UserError(f"{file}: names none of the class folders {', '.join(images.folders[:5])}; correct it")
    _report(file, [folder for label, folder in enumerate(images.folders) if label not in set(kept)])
    owner = np.full(len(classes), -1, dtype=np.int64)
    for place, label in enumerate(kept):
        for name in targets[same_name(images.folders[label])]:
            index = _find(name, file, classes, folders)
            if owner[index] not in (-1, place):
                first = images.folders[kept[owner[index]]]
                raise UserError(f"{file}: {classes[index]!r} stands for {first} and {images.folders[label]}; keep one")
            owner[index] = place
    return _keep(images, kept), owner


def _keep(images: ImageSet, kept: list[int]) -> ImageSet:
    places = {label: place for place, label in enumerate(kept)}
    rows = [row for row, label in enumerate(images.labels) if label in places]
    return ImageSet(
        take_paths(images.paths, rows),
        tuple(places[images.labels[row]] for row in rows),
        tuple(images.class_names[label] for label in kept),
        tuple(images.folders[label] for label in kept),
    )


def _read(file: Path) -> dict[str, list[str]]:
    try:
        text = nfc(read_text(file))
        if text.lstrip().startswith("{"):
            return {folder: _names(value) for folder, value in parse_json(text).items()}
        lines = [line.strip().replace("\t", " ").partition(" ") for line in text.splitlines() if line.strip()]
        return {folder: _names(rest) for folder, _, rest in lines}
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: cannot be read as a mapping ({reason(error)}); {FORM}") from error


def _names(value: Any) -> list[str]:
    if value is None:
        return []
    if isinstance(value, list) and all(isinstance(name, str) for name in value):
        return value
    if not isinstance(value, str):
        raise ValueError(f"{shown(value)} is no class and no list of classes")
    return [part.strip() for part in value.split(";") if part.strip()]


def _find(name: str, file: Path, classes: Sequence[str], folders: Sequence[str]) -> int:
    spellings = [same_name(part) for part in (name, *name.split(","))]
    for spelling in spellings:
        for index, known in enumerate(zip(folders, classes, strict=True)):
            if spelling in map(same_name, known):
                return index
    raise UserError(f"{file}: {shown(name)} is not a tuned class; give a class by its folder or its name")


def _report(file: Path, left: Sequence[str]) -> None:
    if left:
        named = ", ".join(left[:5]) + (f" and {len(left) - 5} more" if len(left) > 5 else "")
        notify(f"left out, because {file} gives them no class: {named}")
