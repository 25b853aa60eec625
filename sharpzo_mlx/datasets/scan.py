"""What lies in a folder, told by names and kinds alone: the images of one class, and all else counted.

Only regular files, or links to them, are images: to open a pipe may wait for ever. A folder that cannot be read is an
error, never an empty one. What this program wrote itself (`runs/`, `comparisons/`) is known by its records.

>>> class_images(Path("photos/cat"))[0]  # doctest: +SKIP
['1.jpg', 'more/2.jpg']
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from sharpzo_mlx.datasets.image_set import nfc
from sharpzo_mlx.errors import UserError
from sharpzo_mlx.images.load import IMAGE_SUFFIXES

# counted beside the endings of files that are no images
PLACEHOLDER, NESTED, SPECIAL, OUTPUT, HIDDEN = "in iCloud", "nested", "special", "output", "hidden"
NOT_CLASSES = frozenset(("__MACOSX", "@eaDir"))
RECORDS = frozenset(("run.json", "comparison.json"))  # what the folders of runs and comparisons hold


def entries(folder: str | Path) -> Iterator[os.DirEntry[str]]:
    """What lies directly inside, but for hidden entries.

    Raises:
        UserError: the folder cannot be read.
    """
    return (entry for entry in _all_entries(folder) if not entry.name.startswith("."))


def folders_inside(folder: Path) -> list[Path]:
    """The folders directly inside that may be classes or splits, sorted; Raises as `entries` does."""
    return sorted(folder / entry.name for entry in entries(folder) if _is_folder(entry) and _may_be_class(entry.name))


def loose_images(folder: Path) -> int:
    """How many images lie directly inside; Raises as `entries` does."""
    return sum(_kind(entry) is None for entry in entries(folder) if not _is_folder(entry))


def class_images(folder: Path) -> tuple[list[str], Counter[str]]:
    """The images of one class, sorted by NFC relative name, and what else there was, counted by ending.

    Names are below the class's folder. A folder of this program's own output has no images, and counts as that.

    Raises:
        UserError: a folder in it, or itself, cannot be read.
    """
    found: list[str] = []
    others: Counter[str] = Counter()
    places = [""]  # below the folder, each but the first with a slash at its end
    while places:
        place = places.pop()
        for entry in _all_entries(folder / place):
            name = entry.name
            if name in RECORDS and place.count("/") < 2:
                return [], Counter({OUTPUT: 1})
            if _is_folder(entry):
                if _may_be_class(name) and not entry.is_symlink():
                    places.append(f"{place}{name}/")
            elif (kind := _kind(entry)) is None:
                found.append(place + name)
                others[NESTED] += bool(place)
            else:
                others[kind] += 1
    found.sort(key=nfc)
    return found, others


def _kind(entry: os.DirEntry[str]) -> str | None:
    """None for an image, else what the file is counted as; a link into the void is one, so that it is said later."""
    name = entry.name
    suffix = os.path.splitext(name)[1].lower()
    if name.startswith("."):
        return PLACEHOLDER if suffix == ".icloud" else HIDDEN  # a placeholder: .photo.jpg.icloud
    if suffix not in IMAGE_SUFFIXES:
        return suffix
    return None if _is_file(entry) or not os.path.exists(entry.path) else SPECIAL


def _all_entries(folder: str | Path) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as found:
            yield from found
    except OSError as error:
        raise UserError(f"{folder}: {(error.strerror or str(error)).lower()}; allow reading it") from error


def _may_be_class(name: str) -> bool:
    return not name.startswith(".") and name not in NOT_CLASSES


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link in a circle
        return False


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:
        return False
