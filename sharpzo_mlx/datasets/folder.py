"""List a folder of class folders of images as an ImageSet; no image is opened.

Each folder directly inside is a class. The images of a class may lie deeper (Tiny-ImageNet has `n01443537/images/`).
Hidden entries (.DS_Store, ._*) and files that are not images are skipped. Names are compared in composed unicode (NFC),
because macOS hands them out decomposed. The order, and with it every draw, depends on the sorted names alone.

>>> read_folder(Path("photos")).class_names  # doctest: +SKIP
('cat', 'golden retriever')
"""

from __future__ import annotations

import itertools
import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from sharpzo_mlx.datasets.coop import find_split_file, read_split_file
from sharpzo_mlx.datasets.image_set import ImageSet, nfc
from sharpzo_mlx.datasets.listed import FILES, is_listed_file, read_listed
from sharpzo_mlx.datasets.names import class_names
from sharpzo_mlx.datasets.path_list import PathList
from sharpzo_mlx.datasets.rows import SPLITS, UNDIVIDED
from sharpzo_mlx.datasets.scan import (
    AGAIN,
    HIDDEN,
    NESTED,
    OUTPUT,
    PLACEHOLDER,
    SPECIAL,
    class_images,
    entries,
    folders_inside,
    loose_images,
)
from sharpzo_mlx.errors import UserError, notify
from sharpzo_mlx.files import expand, identify, refuse_empty
from sharpzo_mlx.images.load import IMAGE_SUFFIXES

INNER = "images"
QUIET_SUFFIXES = frozenset((".txt", ".json", ".csv", ".md", ".xml", ".db", ".ini"))


def read_folder(folder: str | Path) -> ImageSet:
    """List the images of a folder.

    Args:
        folder: holds one folder for each class; class folders without images are left out, with a notice. Or a file
            or folder with a list, see `listed`. If that or CoOp's split file has test images, these are listed.

    Returns:
        Every image of every class.

    Raises:
        UserError: the folder is missing or unreadable, holds no class folders or no images, holds splits, or its names
            do not fit `classnames.txt`.
    """
    folder = checked_folder(folder)
    if (file := find_split_file(folder)) is not None:
        return _test_images(file)
    if (listed_sets := read_listed(folder)) is not None:
        return _listed_images(folder, listed_sets)
    if splits := split_folders(inner_folder(folder)):
        folder = inner_folder(folder)
        one = next(iter(splits.values()))
        raise UserError(f"{folder}: holds {_listed(splits.values())}; name one of them, such as {folder / one.name}")
    refuse_flat_splits(folder)
    classes = class_folders(folder)
    around = {identify(place) for place in (*classes, folder, *folder.resolve().parents)}
    listed = [(entry, *class_images(entry, around)) for entry in classes]
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
    notify(f"{file.parent}: the test images of {file.name}")
    return images


def _listed_images(place: Path, sets: dict[str, ImageSet]) -> ImageSet:
    """Return the test images of a list, or all images of an undivided one."""
    split = next(name for name in ("test", UNDIVIDED, "val", "train") if name in sets)
    if split != UNDIVIDED:
        notify(f"{place}: its {split} images")
    return sets[split]


def checked_folder(folder: str | Path) -> Path:
    """Return the folder of a data set, or the file that lists one, as a path.

    Raises:
        UserError: it does not exist, is another file, or cannot be read.
    """
    refuse_empty(folder)
    path = expand(folder)
    if not path.exists():
        raise UserError(f"{path}: no such folder")
    if is_listed_file(path):
        return path
    if not path.is_dir():
        raise UserError(
            f"{path}: a file; name the folder that holds one folder of images for each class, or a list of images "
            f"({', '.join(FILES)})"
        )
    if not os.access(path, os.R_OK | os.X_OK):
        next(entries(path), None)  # raises the system's own reason, which may be another
        raise UserError(f"{path}: permission denied; allow reading it")
    return path


def class_folders(folder: Path) -> list[Path]:
    """Return the folders directly inside, sorted by their names in composed unicode.

    Raises:
        UserError: there are none, a name is not UTF-8, or two names are the same in composed unicode.
    """
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
    except UnicodeEncodeError:  # a byte that could not be decoded, as in names from old zip files
        return False


def split_folders(folder: Path) -> dict[str, Path]:
    """Return the folders `train`, `val` and `test` (or their longer names) inside, by the short name.

    A folder with such a name that holds images itself is a class ("train", the vehicle) and not a split.

    Raises:
        UserError: two folders are the same split.
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
    """Return the folder of the splits: `images/` inside if only that holds splits (CoOp's ImageNet), else `folder`."""
    inside = folder / INNER
    return inside if inside.is_dir() and not split_folders(folder) and split_folders(inside) else folder


def refuse_flat_splits(folder: Path) -> None:
    """Refuse splits without class folders, which would otherwise count as the classes "train" and "test".

    Raises:
        UserError: there are two or more of `train`, `val` and `test`, and images lie directly in one.
    """
    called = [entry for entry in folders_inside(folder) if entry.name.lower() in SPLITS]
    flat = [entry for entry in called if loose_images(entry)]
    if flat and len({SPLITS[entry.name.lower()] for entry in called}) > 1:
        raise UserError(
            f"{folder}: images lie directly in {_listed(flat)}; put those of each class in a folder of its own there"
        )


def report_beside(folder: Path, splits: Iterable[Path]) -> None:
    """Notify the user of folders and images beside the splits, which are not used."""
    taken = set(splits)
    if others := [entry for entry in folders_inside(folder) if entry not in taken and class_images(entry)[0]]:
        notify(f"{folder}: {_listed(others)}: beside the splits, so left out; move what belongs to a class into them")
    _report_loose(folder)


def _report_loose(folder: Path) -> None:
    if count := loose_images(folder):
        notify(f"{folder}: {count} images lie beside the class folders and are left out; move them into one")


def _report(folder: Path, listed: list[tuple[Path, list[str], Counter[str]]]) -> None:
    """Notify the user of empty classes, images that are in the cloud only, other kinds of files, and nested images."""
    others: Counter[str] = Counter()
    for _, _, counts in listed:
        others.update(counts)
    if own := [entry for entry, _, counts in listed if counts[OUTPUT]]:
        notify(f"{folder}: {_listed(own)}: written by this program, so not a class")
    if empty := [entry for entry, files, counts in listed if not files and not counts[OUTPUT]]:
        notify(f"{folder}: {_listed(empty)}: no images, so not a class")
    if missing := others.pop(PLACEHOLDER, 0):
        notify(f"{folder}: {missing} images are in iCloud only and are left out; download them in Finder first")
    if special := others.pop(SPECIAL, 0):
        notify(f"{folder}: {special} with the name of an image are not regular files (pipes, sockets) and are left out")
    if again := others.pop(AGAIN, 0):
        notify(f"{folder}: {again} links lead to folders that are read elsewhere, and are left out")
    nested, _, _ = (others.pop(kind, 0) for kind in (NESTED, OUTPUT, HIDDEN))
    if ignored := {suffix: n for suffix, n in others.items() if suffix not in QUIET_SUFFIXES}:
        kinds = ", ".join(f"{n} {suffix or 'without an ending'}" for suffix, n in sorted(ignored.items()))
        notify(f"{folder}: files that this program cannot read as images are left out: {kinds}")
    if nested:
        notify(f"{folder}: {nested} images lie deeper than their class folder and belong to its class")
    _report_loose(folder)


def _listed(entries: Iterable[Path], most: int = 5) -> str:
    names = [nfc(entry.name) for entry in entries]
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
