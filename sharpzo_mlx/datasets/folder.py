"""A folder of class folders of images -> ImageSet: which files there are and what they show.

Each folder directly inside is a class; its images may lie in folders of their own (Tiny-ImageNet has
`n01443537/images/`) and still belong to it. Hidden entries (.DS_Store, ._*) and files that are no images are
passed over; names are compared in composed unicode (NFC), since macOS hands them out decomposed. The order, and so
every draw, depends on the sorted relative names alone. No image is opened here.

>>> read_folder(Path("photos")).class_names  # doctest: +SKIP
('cat', 'golden retriever')
"""

from __future__ import annotations

import itertools
import logging
import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from sharpzo_mlx.datasets.coop import find_split_file, read_split_file
from sharpzo_mlx.datasets.image_set import ImageSet, nfc
from sharpzo_mlx.datasets.names import class_names
from sharpzo_mlx.datasets.path_list import PathList
from sharpzo_mlx.datasets.scan import (
    HIDDEN,
    NESTED,
    OUTPUT,
    PLACEHOLDER,
    SPECIAL,
    class_images,
    folders_inside,
    loose_images,
)
from sharpzo_mlx.errors import UserError
from sharpzo_mlx.files import refuse_empty
from sharpzo_mlx.images.load import IMAGE_SUFFIXES

__all__ = ["ImageSet", "checked_folder", "notice", "read_class_names", "read_folder", "split_folders"]

SPLITS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
INNER = "images"
QUIET_SUFFIXES = frozenset((".txt", ".json", ".csv", ".md", ".xml", ".db", ".ini", ""))


def notice(line: str) -> None:
    """One line for the user, by way of logging."""
    logging.getLogger("sharpzo_mlx").warning(line)


def read_folder(folder: str | Path) -> ImageSet:
    """List a folder of class folders.

    Args:
        folder: holds one folder a class. Class folders without images are left out, with a notice. Of a data set
            with CoOp's split file, the file's test images are meant.

    Returns:
        Every image of every class; nothing is decoded.

    Raises:
        UserError: no such folder, or one that cannot be read; no class folders; no images; a folder of splits; names
            that do not fit.
    """
    folder = checked_folder(folder)
    if (file := find_split_file(folder)) is not None:
        return _test_images(file)
    if splits := split_folders(inner_folder(folder)):
        folder = inner_folder(folder)
        one = next(iter(splits.values()))
        raise UserError(f"{folder}: holds {_listed(splits.values())}; name one of them, such as {folder / one.name}")
    refuse_flat_splits(folder)
    classes = class_folders(folder)
    listed = [(entry, *class_images(entry)) for entry in classes]
    _report(folder, listed)
    kept = [(entry, files) for entry, files, _ in listed if files]
    if not kept:
        kinds = " ".join(sorted(suffix[1:] for suffix in IMAGE_SUFFIXES))
        raise UserError(f"{folder}: no images in its class folders; put files of these kinds there: {kinds}")
    names = tuple(nfc(entry.name) for entry, _ in kept)
    return ImageSet(
        paths=PathList(folder, (f"{entry.name}/{name}" for entry, files in kept for name in files)),
        labels=tuple(label for label, (_, files) in enumerate(kept) for _ in files),
        class_names=class_names(folder, names, fits_parent=folder.name.lower() in SPLITS),
        folders=names,
    )


def _test_images(file: Path) -> ImageSet:
    images = read_split_file(file)["test"]
    if not len(images):
        raise UserError(f"{file}: no test images in it; add some, or name a folder of class folders")
    notice(f"{file.parent}: the test images of {file.name}")
    return images


def read_class_names(folder: str | Path) -> tuple[str, ...]:
    """The prompt names of a folder's classes, in the order of `read_folder`; Raises as it does."""
    return read_folder(folder).class_names


def checked_folder(folder: str | Path) -> Path:
    """The folder as an existing path, or a UserError."""
    refuse_empty(folder)
    path = Path(folder).expanduser()
    if not path.exists():
        raise UserError(f"{path}: no such folder")
    if not path.is_dir():
        raise UserError(f"{path}: a file; name the folder that holds one folder of images for each class")
    if not os.access(path, os.R_OK | os.X_OK):
        raise UserError(f"{path}: permission denied; allow reading it")
    return path


def class_folders(folder: Path) -> list[Path]:
    """The folders directly inside, sorted by their NFC names; one name in two spellings is an error."""
    found = folders_inside(folder)
    if not found:
        raise UserError(f"{folder}: no class folders; put the images of each class in a folder of its own")
    for entry in found:
        if not _is_utf8(entry.name):
            raise UserError(f"{folder}: the name of the folder {os.fsencode(entry.name)!r} is not UTF-8; rename it")
    found.sort(key=lambda entry: nfc(entry.name))
    for one, other in itertools.pairwise(found):
        if nfc(one.name) == nfc(other.name):
            raise UserError(f"{folder}: two folders are called {nfc(one.name)!r} in two unicode spellings; merge them")
    return found


def _is_utf8(name: str) -> bool:
    try:
        return bool(name.encode())
    except UnicodeEncodeError:  # a byte that could not be decoded, as old zip files leave them
        return False


def split_folders(folder: Path) -> dict[str, Path]:
    """The folders `train`, `val`, `test` (or their longer names) inside, by the short name.

    A folder of one of these names that holds images itself is a class ("train", the vehicle), not a split.
    """
    found: dict[str, Path] = {}
    for entry in folders_inside(folder):
        short = SPLITS.get(entry.name.lower())
        if short is None or not folders_inside(entry) or loose_images(entry):
            continue
        if short in found:
            raise UserError(f"{folder}: both {found[short].name} and {entry.name}; keep one of them")
        found[short] = entry
    return found


def inner_folder(folder: Path) -> Path:
    """Where the class folders or splits stand: `images/` inside, if that alone holds splits (CoOp's ImageNet)."""
    inside = folder / INNER
    return inside if inside.is_dir() and not split_folders(folder) and split_folders(inside) else folder


def refuse_flat_splits(folder: Path) -> None:
    """Refuse two or more of `train`, `val` and `test` where images lie directly in one: as classes they say nothing.

    Raises:
        UserError: with their names.
    """
    called = [entry for entry in folders_inside(folder) if entry.name.lower() in SPLITS]
    flat = [entry for entry in called if loose_images(entry)]
    if flat and len({SPLITS[entry.name.lower()] for entry in called}) > 1:
        raise UserError(
            f"{folder}: images lie directly in {_listed(flat)}; put those of each class in a folder of its own there"
        )


def report_beside(folder: Path, splits: Iterable[Path]) -> None:
    """One line on folders of images beside the splits, and one on images there: neither is used."""
    taken = set(splits)
    if others := [entry for entry in folders_inside(folder) if entry not in taken and class_images(entry)[0]]:
        notice(f"{folder}: {_listed(others)}: beside the splits, so left out; move what belongs to a class into them")
    _report_loose(folder)


def _report_loose(folder: Path) -> None:
    if count := loose_images(folder):
        notice(f"{folder}: {count} images lie beside the class folders and are left out; move them into one")


def _report(folder: Path, listed: list[tuple[Path, list[str], Counter[str]]]) -> None:
    """One line each on what a user would want to know: empty classes, placeholders, other kinds, nesting."""
    others: Counter[str] = Counter()
    for _, _, counts in listed:
        others.update(counts)
    if own := [entry for entry, _, counts in listed if counts[OUTPUT]]:
        notice(f"{folder}: {_listed(own)}: written by this program, so no class")
    if empty := [entry for entry, files, counts in listed if not files and not counts[OUTPUT]]:
        notice(f"{folder}: {_listed(empty)}: no images, so no class")
    if missing := others.pop(PLACEHOLDER, 0):
        notice(f"{folder}: {missing} images are in iCloud only and are left out; download them in Finder first")
    if special := others.pop(SPECIAL, 0):
        notice(f"{folder}: {special} called images are no regular files (pipes, sockets) and are left out")
    nested, _, _ = (others.pop(kind, 0) for kind in (NESTED, OUTPUT, HIDDEN))
    if ignored := {suffix: n for suffix, n in others.items() if suffix not in QUIET_SUFFIXES}:
        kinds = ", ".join(f"{n} {suffix}" for suffix, n in sorted(ignored.items()))
        notice(f"{folder}: files that are no images this program reads are left out: {kinds}")
    if nested:
        notice(f"{folder}: {nested} images lie deeper than their class folder and are counted to it")
    _report_loose(folder)


def _listed(entries: Iterable[Path], most: int = 5) -> str:
    names = [nfc(entry.name) for entry in entries]
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
