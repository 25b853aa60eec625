"""Scan a folder without opening files: list the images of one class, and count everything else by kind.

Only regular files and links to them count as images, because opening a pipe may block forever. An unreadable folder is
an error and never counts as empty. Folders that this program wrote (`runs/`, `comparisons/`) are skipped, and so is the
`unsorted/` of one that `sort` filled. Links to folders are followed, each real folder once, so that a circle ends.

>>> class_images(Path("photos/cat"))[0]  # doctest: +SKIP
['1.jpg', 'more/2.jpg']
"""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Set
from dataclasses import dataclass
from pathlib import Path

from sharpzo_mlx.datasets.image_set import nfc
from sharpzo_mlx.errors import UserError, remedy, why
from sharpzo_mlx.files import identify
from sharpzo_mlx.images.load import IMAGE_SUFFIXES

# the kinds that are counted beside the suffixes of files that are not images
PLACEHOLDER, NESTED, SPECIAL, OUTPUT, HIDDEN = "in iCloud", "nested", "special", "output", "hidden"
AGAIN = "linked again"  # a link to a folder that is read elsewhere
NOT_CLASSES = frozenset(("__MACOSX", "@eaDir"))
UNSORTED, JOURNALS = "unsorted", ".sharpzo-sort"  # where `sort` puts images without a label, and its journals
RECORDS = frozenset(("run.json", "comparison.json"))  # one of them lies in the folder of a run or comparison


@dataclass(frozen=True)
class Contents:
    """What lies directly inside a folder.

    Attributes:
        images: the images' names, in no order.
        folders: the names of the folders that may hold images, in no order.
        linked: the names of links to such folders, in no order; they are not among `folders`.
        others: the number of other files by kind or suffix.
        written: whether this program wrote the folder: a run or a comparison.
    """

    images: list[str]
    folders: list[str]
    linked: list[str]
    others: Counter[str]
    written: bool


def list_folder(folder: str | Path) -> Contents:
    """List what lies directly inside a folder; raises what `entries` raises."""
    images, folders, written = list[str](), list[str](), False
    linked: list[str] = []
    others: Counter[str] = Counter()
    for entry in _all_entries(folder):
        name = entry.name
        written = written or name in RECORDS
        if _is_folder(entry):
            if _may_be_class(name):
                (linked if entry.is_symlink() else folders).append(name)
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


class Walk(Iterable[Path]):
    """The folders to read, beginning with one; each real folder once, real ones before the links to them.

    Args:
        folder: the first one.
        elsewhere: what `identify` says of folders that are read otherwise, so that no link is followed to them.

    Attributes:
        again: the links so far that lead to a folder which is read elsewhere, or was read already.
    """

    def __init__(self, folder: Path, elsewhere: Set[object] = frozenset()) -> None:
        self.again = 0
        self._folders, self._links = [folder], deque[Path]()
        self._elsewhere, self._seen = elsewhere, {identify(folder)}

    def __iter__(self) -> Iterator[Path]:
        """Yield the folders; `add` what each holds before the next one is asked for."""
        while self._folders or self._links:
            if self._folders:
                yield self._folders.pop()
            elif self._enter(link := self._links.popleft()):
                yield link
            else:
                self.again += 1

    def add(self, place: Path, contents: Contents) -> None:
        """Let the folders inside a folder follow."""
        inside = [place / name for name in sorted(contents.folders, key=nfc, reverse=True)]
        self._folders += [one for one in inside if self._enter(one)]
        self._links += [place / name for name in sorted(contents.linked, key=nfc)]

    def _enter(self, folder: Path) -> bool:
        """Return whether a folder was not read so far; from now on it was."""
        found = identify(folder)
        new = found not in self._seen and found not in self._elsewhere
        self._seen.add(found)
        return new


def class_images(folder: Path, elsewhere: Set[object] = frozenset()) -> tuple[list[str], Counter[str]]:
    """List the images of one class, also in folders inside and in those that links lead to, and count the other files.

    Args:
        folder: the folder of the class.
        elsewhere: what `identify` says of the other classes' folders and of those around them.

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
    walk = Walk(folder, elsewhere)
    for place in walk:
        here = list_folder(place)
        inside = place.relative_to(folder).parts
        if here.written and len(inside) < 2:
            return [], Counter({OUTPUT: 1})
        walk.add(place, here)
        found += ["/".join((*inside, name)) for name in here.images]
        others.update(here.others)
        others[NESTED] += len(here.images) if inside else 0
    others[AGAIN] += walk.again
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
