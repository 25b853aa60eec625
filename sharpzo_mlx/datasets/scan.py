"""Scan a folder without opening files: list the images of one class, and count everything else by kind.

Only regular files and links to them count as images, because opening a pipe may block forever. An unreadable folder is
an error and never counts as empty. Folders that this program wrote (`runs/`, `comparisons/`) are skipped, and so is the
`unsorted/` of a folder that `sort` sorted into.

>>> class_images(Path("photos/cat"))[0]  # doctest: +SKIP
['1.jpg', 'more/2.jpg']
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sharpzo_mlx.datasets.image_set import nfc
from sharpzo_mlx.errors import UserError, remedy, why
from sharpzo_mlx.images.load import IMAGE_SUFFIXES

# the kinds that are counted beside the suffixes of files that are not images
PLACEHOLDER, NESTED, SPECIAL, OUTPUT, HIDDEN = "in iCloud", "nested", "special", "output", "hidden"
NOT_CLASSES = frozenset(("__MACOSX", "@eaDir"))
UNSORTED, JOURNALS = "unsorted", ".sharpzo-sort"  # where `sort` puts images without a label, and its journals
RECORDS = frozenset(("run.json", "comparison.json"))  # one of them lies in the folder of a run or comparison


@dataclass(frozen=True)
class Contents:
    """What lies directly inside a folder.

    Attributes:
        images: the images' names, in no order.
        folders: the names of the folders that may hold images, in no order.
        linked: how many links to folders there are, which are not among `folders`.
        others: the number of other files by kind or suffix.
        written: whether this program wrote the folder: a run or a comparison.
    """

    images: list[str]
    folders: list[str]
    linked: int
    others: Counter[str]
    written: bool


def list_folder(folder: str | Path) -> Contents:
    """List what lies directly inside a folder; raises what `entries` raises."""
    images, folders, linked, written = [], [], 0, False
    others: Counter[str] = Counter()
    for entry in _all_entries(folder):
        name = entry.name
        written = written or name in RECORDS
        if _is_folder(entry):
            if _may_be_class(name) and entry.is_symlink():
                linked += 1
            elif _may_be_class(name):
                folders.append(name)
        elif (kind := _kind(entry)) is None:
            images.append(name)
        else:
            others[kind] += 1
    return Contents(images, folders, linked, others, written)


def entries(folder: str | Path) -> Iterator[os.DirEntry[str]]:
    """Yield the entries directly inside a folder, without the hidden ones.

    Raises:
        UserError: the folder cannot be read.
    """
    return (entry for entry in _all_entries(folder) if not entry.name.startswith("."))


def folders_inside(folder: Path) -> list[Path]:
    """Return the sorted folders directly inside that may be classes or splits; raises what `entries` raises."""
    return sorted(folder / entry.name for entry in entries(folder) if _is_folder(entry) and _may_be_class(entry.name))


def loose_images(folder: Path) -> int:
    """Count the images that lie directly inside a folder; raises what `entries` raises."""
    return sum(_kind(entry) is None for entry in entries(folder) if not _is_folder(entry))


def class_images(folder: Path) -> tuple[list[str], Counter[str]]:
    """List the images of one class, also in folders inside, and count the other files.

    Returns:
        The images' names below the folder, sorted in composed unicode, and the number of other files by kind or
        suffix. For a folder that this program wrote and that is no class: no images, and one count of OUTPUT.

    Raises:
        UserError: a folder in it, or itself, cannot be read.
    """
    if folder.name == UNSORTED and (folder.parent / JOURNALS).is_dir():
        return [], Counter({OUTPUT: 1})
    found: list[str] = []
    others: Counter[str] = Counter()
    places = [""]  # folders still to scan, below `folder`; all but the first end with a slash
    while places:
        place = places.pop()
        here = list_folder(folder / place)
        if here.written and place.count("/") < 2:
            return [], Counter({OUTPUT: 1})
        places += [f"{place}{name}/" for name in here.folders]
        found += [place + name for name in here.images]
        others.update(here.others)
        others[NESTED] += len(here.images) if place else 0
    found.sort(key=nfc)
    return found, others


def _kind(entry: os.DirEntry[str]) -> str | None:
    """Return None for an image, else the kind to count; a broken link is an image, and is reported when it is read."""
    name = entry.name
    suffix = os.path.splitext(name)[1].lower()
    if name.startswith("."):
        return PLACEHOLDER if suffix == ".icloud" else HIDDEN  # .photo.jpg.icloud: not downloaded yet
    if suffix not in IMAGE_SUFFIXES:
        return suffix
    return None if _is_file(entry) or not os.path.exists(entry.path) else SPECIAL


def _all_entries(folder: str | Path) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as found:
            yield from found
    except OSError as error:
        raise UserError(f"{folder}: {why(error)}; {remedy(error, 'allow reading it')}") from error


def _may_be_class(name: str) -> bool:
    return not name.startswith(".") and name not in NOT_CLASSES


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads back to itself
        return False


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:
        return False
