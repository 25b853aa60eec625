"""CoOp's published splits: `split_zhou_*.json` beside a folder of images, as most papers of this field use them.

FGVC-Aircraft alone has none and is known by its makers' lists (`sharpzo_mlx.datasets.aircraft`).

The file lists for train, val and test each image's path, label and class name; the paths start in the folder itself
or in one of the folders inside (`2750/`, `images/`, `101_ObjectCategories/`, …), which is found by trying.

>>> read_split_file(Path("eurosat/split_zhou_EuroSAT.json"))["train"].class_names[:2]  # doctest: +SKIP
('Annual Crop Land', 'Forest')
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sharpzo_mlx.datasets import aircraft
from sharpzo_mlx.datasets.image_set import ImageSet, nfc
from sharpzo_mlx.datasets.names import plain_name
from sharpzo_mlx.errors import UserError

PATTERN = "split_zhou_*.json"
PARTS = ("train", "val", "test")
Entry = tuple[str, int, str]  # path, label, class name


def find_split_file(folder: Path) -> Path | None:
    """The folder's `split_zhou_*.json` or list of aircraft, if it has one; two split files are an error."""
    found = sorted(path for path in folder.glob(PATTERN) if not path.name.startswith("."))
    if len(found) > 1:
        raise UserError(f"{folder}: holds {found[0].name} and {found[1].name}; keep the one to use")
    if not found and (folder / aircraft.MARK).is_file():
        return folder / aircraft.MARK
    return found[0] if found else None


def read_split_file(file: Path) -> dict[str, ImageSet]:
    """Read a split file.

    Args:
        file: JSON; `train`, `val` and `test` each a list of [path, label, class name]. Or the list of
            FGVC-Aircraft's training images.

    Returns:
        The three sets by name, all with the same classes in the order of their labels. A class's folder is its
        name as the file spells it.

    Raises:
        UserError: it is no such file, its labels contradict each other, or the images are not beside it.
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
        return _some(file, aircraft.read_lists(file))
    try:
        given = json.loads(file.read_text(encoding="utf-8"))
        parts = {part: [_entry(entry) for entry in given[part]] for part in PARTS}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{file}: no split file of CoOp's kind (train, val, test: lists of [path, label, class name])"
        ) from error
    return _some(file, parts)


def _some(file: Path, parts: dict[str, list[Entry]]) -> dict[str, list[Entry]]:
    if not parts["train"]:
        raise UserError(f"{file}: no training images in it")
    return parts


def _entry(given: Any) -> Entry:
    path, label, name = given
    if not (isinstance(path, str) and isinstance(label, int) and isinstance(name, str)):
        raise ValueError(given)
    return path, label, name


def _classes(file: Path, parts: dict[str, list[Entry]]) -> dict[int, str]:
    classes: dict[int, str] = {}
    for entries in parts.values():
        for path, label, name in entries:
            if classes.setdefault(label, name) != name:
                raise UserError(
                    f"{file}: label {label} is both {classes[label]!r} and {name!r} ({path}); correct the file"
                )
    return classes


def _image_root(file: Path, first: str) -> Path:
    inside = sorted(path for path in file.parent.iterdir() if path.is_dir() and not path.name.startswith("."))
    for root in (file.parent, *inside):
        if (root / first).is_file():
            return root
    raise UserError(f"{file}: its image {first} is neither beside it nor in a folder beside it; add the images")
