"""Read the published splits of CoOp (arXiv 2109.01134): `split_zhou_*.json` beside a folder of images.

For train, val and test the file lists the path, label and class name of each image. The paths start in the folder of
the file or in a folder inside it (`2750/`, `images/`, `101_ObjectCategories/`, ...), which is found by trying.
FGVC-Aircraft has no such file and is recognised by its own lists (`sharpzo_mlx.datasets.aircraft`).

>>> read_split_file(Path("eurosat/split_zhou_EuroSAT.json"))["train"].class_names[:2]  # doctest: +SKIP
('Annual Crop Land', 'Forest')
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from sharpzo_mlx.datasets import aircraft
from sharpzo_mlx.datasets.image_set import ImageSet, nfc
from sharpzo_mlx.datasets.names import plain_name
from sharpzo_mlx.errors import UserError, one_line, shown
from sharpzo_mlx.reading import is_encodable, read_json, reason

PATTERN = "split_zhou_*.json"
PARTS = ("train", "val", "test")
LONGEST = 10_000  # characters of a path or name
Entry = tuple[str, int, str]  # path, label, class name


def find_split_file(folder: Path) -> Path | None:
    """Return the `split_zhou_*.json` or the list of aircraft in a folder, or None.

    Raises:
        UserError: the folder holds two split files.
    """
    found = sorted(path for path in folder.glob(PATTERN) if not path.name.startswith("."))
    if len(found) > 1:
        raise UserError(f"{folder}: holds {found[0].name} and {found[1].name}; keep the one to use")
    if not found and (folder / aircraft.MARK).is_file():
        return folder / aircraft.MARK
    return found[0] if found else None


def read_split_file(file: Path) -> dict[str, ImageSet]:
    """Read a split file into three sets of images.

    Args:
        file: a JSON object with lists `train`, `val` and `test` of [path, label, class name], or the list of
            FGVC-Aircraft's training images.

    Returns:
        The sets by the names train, val and test, with the same classes in the order of their labels. `folders` holds
        the class names as the file spells them.

    Raises:
        UserError: the file has another format, its labels contradict one another, or its images are not found.
    """
    parts = _parts(file)
    classes = _classes(file, parts)
    root = _image_root(file, parts["train"][0][0])
    position = {label: place for place, label in enumerate(sorted(classes))}
    folders = tuple(nfc(classes[label]) for label in sorted(classes))
    names = tuple(plain_name(name) for name in folders)
    sets = {}
    for part, entries in parts.items():
        listed = sorted((position[label], nfc(path), path) for path, label, _ in entries)
        paths = tuple(root / path for _, _, path in listed)
        sets[part] = ImageSet(paths, tuple(place for place, _, _ in listed), names, folders)
    return sets


def _parts(file: Path) -> dict[str, list[Entry]]:
    if file.name == aircraft.MARK:
        return _with_training_images(file, aircraft.read_lists(file))
    try:
        parts = _read_parts(read_json(file))
    except (OSError, ValueError) as error:
        form = "train, val, test: lists of [path, label, class name]"
        raise UserError(f"{file}: no split file in CoOp's format ({form}): {reason(error)}") from error
    return _with_training_images(file, parts)


def _read_parts(content: Any) -> dict[str, list[Entry]]:
    """Return the lists of a split file; ValueError names the entry that is not as it should be."""
    if not isinstance(content, dict):
        raise ValueError("it is not an object")
    parts = {}
    for part in PARTS:
        if not isinstance(content.get(part), list):
            raise ValueError(f"{part} is missing, or no list")
        parts[part] = [_entry(entry, f"{part}[{place}]") for place, entry in enumerate(content[part])]
    return parts


def _with_training_images(file: Path, parts: dict[str, list[Entry]]) -> dict[str, list[Entry]]:
    if not parts["train"]:
        raise UserError(f"{file}: no training images in it")
    return parts


def _entry(given: Any, place: str) -> Entry:
    if not isinstance(given, list) or len(given) != 3:
        raise ValueError(f"{place} is not [path, label, class name]")
    path, label, name = given
    if not (isinstance(path, str) and isinstance(name, str)) or isinstance(label, bool) or not isinstance(label, int):
        raise ValueError(f"{place} is not [path, label, class name]")
    if not path or not name or label < 0:
        raise ValueError(f"{place} has an empty path, an empty name or a label below 0")
    for text in (path, name):
        if "\0" in text or not is_encodable(text) or len(text) > LONGEST:
            raise ValueError(f"{place} has a text that no path or name has")
    return path, label, name


def _classes(file: Path, parts: dict[str, list[Entry]]) -> dict[int, str]:
    classes: dict[int, str] = {}
    for entries in parts.values():
        for path, label, name in entries:
            if classes.setdefault(label, name) != name:
                raise UserError(
                    f"{file}: label {label} is both {shown(classes[label])} and {shown(name)} ({one_line(path, 200)}); "
                    "correct the file"
                )
    return classes


def _image_root(file: Path, first: str) -> Path:
    inside = sorted(path for path in file.parent.iterdir() if path.is_dir() and not path.name.startswith("."))
    for root in (file.parent, *inside):
        if os.path.isfile(root / first):
            return root
    raise UserError(
        f"{file}: its image {one_line(first, 200)} is neither beside it nor in a folder beside it; add the images"
    )
