"""Recognise ImageNet's thousand classes by the names of their folders, and give them CLIP's curated names.

The names of class folders are WordNet ids, or the numbers 0 to 999 of ImageNet-V2, which count the ids in order. The
table `imagenet_classes.txt` beside this file names its sources.

>>> curated_names(("n01440764", "n01443537"))
('tench', 'goldfish')
>>> describe(("cat", "dog")) is None
True
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

FILE = Path(__file__).with_name("imagenet_classes.txt")
WORDNET_ID = re.compile(r"n\d{8}")
SUBSETS = {"a": "ImageNet-A", "r": "ImageNet-R"}


@dataclass(frozen=True)
class Classes:
    """ImageNet's classes in order."""

    ids: tuple[str, ...]
    names: dict[str, str]  # WordNet id -> CLIP's curated name
    subsets: dict[str, frozenset[str]]  # "ImageNet-A", "ImageNet-R" -> its 200 ids


@cache
def classes() -> Classes:
    """Read the thousand classes; the file is read once."""
    lines = [line for line in FILE.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    rows = [line.split(" ", 2) for line in lines]
    return Classes(
        ids=tuple(wnid for wnid, _, _ in rows),
        names={wnid: name for wnid, _, name in rows},
        subsets={title: frozenset(wnid for wnid, marks, _ in rows if mark in marks) for mark, title in SUBSETS.items()},
    )


def numbered(folders: Sequence[str]) -> bool:
    """Return whether the names of all folders are numbers, as in ImageNet-V2."""
    return bool(folders) and all(name.isascii() and name.isdecimal() for name in folders)


def with_ids(folders: Sequence[str]) -> tuple[str, ...]:
    """Return the folders' names; the numbers 0 to 999, if they are all there, are replaced by WordNet ids."""
    if numbered(folders) and sorted(map(int, folders)) == list(range(1000)):
        return tuple(classes().ids[int(name)] for name in folders)
    return tuple(folders)


def curated_names(folders: Sequence[str]) -> tuple[str, ...] | None:
    """Return CLIP's curated names of class folders, or None if they are not all ImageNet's."""
    known = classes().names if _may_be_ids(folders) else {}
    ids = with_ids(folders)
    return tuple(known[wnid] for wnid in ids) if ids and all(wnid in known for wnid in ids) else None


def nameless(folders: Sequence[str]) -> tuple[str, ...]:
    """Return the WordNet ids among the folders that are not ImageNet's; a prompt with an id says nothing."""
    ids = [name for name in folders if WORDNET_ID.fullmatch(name)]
    return tuple(wnid for wnid in ids if wnid not in classes().names) if ids else ()


def subset(folders: Sequence[str]) -> str | None:
    """Return "ImageNet-A" or "ImageNet-R" if the folders are exactly its 200 classes, else None."""
    if len(folders) != 200 or not _may_be_ids(folders):
        return None
    return next((title for title, ids in classes().subsets.items() if ids == frozenset(folders)), None)


def describe(folders: Sequence[str]) -> str | None:
    """Say in words which classes of ImageNet the folders are, or return None if they are not ImageNet's."""
    if curated_names(folders) is None:
        return None
    if title := subset(folders):
        return f"{title}'s 200 classes"
    how = "by number" if numbered(folders) else "by WordNet id"
    return f"ImageNet's 1000 classes {how}" if len(folders) == 1000 else f"{len(folders)} of ImageNet's classes {how}"


def _may_be_ids(folders: Sequence[str]) -> bool:
    """Return quickly whether the table is worth reading: most data sets are not ImageNet's."""
    return bool(folders) and (WORDNET_ID.fullmatch(folders[0]) is not None or len(folders) == 1000)
