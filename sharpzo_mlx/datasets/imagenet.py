"""What is known of ImageNet's thousand classes: their WordNet ids, CLIP's curated names, and who else uses them.

The facts lie in `imagenet_classes.txt` beside this file, whose head names their sources. Folders are recognised by
their own names: WordNet ids, or the numbers 0 .. 999 of ImageNet-V2, which count the ids in their order.

>>> names_of(("n01440764", "n01443537"))
('tench', 'goldfish')
>>> described(("cat", "dog")) is None
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
    """ImageNet's classes in their order."""

    ids: tuple[str, ...]
    names: dict[str, str]  # by id
    subsets: dict[str, frozenset[str]]  # "ImageNet-A", "ImageNet-R": their 200 ids


@cache
def classes() -> Classes:
    """The thousand classes, read once."""
    lines = [line for line in FILE.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    rows = [line.split(" ", 2) for line in lines]
    return Classes(
        ids=tuple(wnid for wnid, _, _ in rows),
        names={wnid: name for wnid, _, name in rows},
        subsets={title: frozenset(wnid for wnid, marks, _ in rows if mark in marks) for mark, title in SUBSETS.items()},
    )


def numbered(folders: Sequence[str]) -> bool:
    """Whether all folders are plain numbers, as ImageNet-V2's are."""
    return bool(folders) and all(name.isascii() and name.isdecimal() for name in folders)


def with_ids(folders: Sequence[str]) -> tuple[str, ...]:
    """The folders' names, with ids in the place of the numbers where they are exactly 0 .. 999."""
    if numbered(folders) and sorted(map(int, folders)) == list(range(1000)):
        return tuple(classes().ids[int(name)] for name in folders)
    return tuple(folders)


def names_of(folders: Sequence[str]) -> tuple[str, ...] | None:
    """CLIP's curated names of class folders, or None where they are not ImageNet's."""
    known = classes().names if _may_be_ids(folders) else {}
    ids = with_ids(folders)
    return tuple(known[wnid] for wnid in ids) if ids and all(wnid in known for wnid in ids) else None


def nameless(folders: Sequence[str]) -> tuple[str, ...]:
    """WordNet ids among the folders that are none of the thousand: a prompt made of one says nothing."""
    ids = [name for name in folders if WORDNET_ID.fullmatch(name)]
    return tuple(wnid for wnid in ids if wnid not in classes().names) if ids else ()


def subset(folders: Sequence[str]) -> str | None:
    """ "ImageNet-A" or "ImageNet-R" where the folders are exactly its 200 classes."""
    if len(folders) != 200 or not _may_be_ids(folders):
        return None
    return next((title for title, ids in classes().subsets.items() if ids == frozenset(folders)), None)


def described(folders: Sequence[str]) -> str | None:
    """What the folders are, in words, or None where they are not ImageNet's."""
    if names_of(folders) is None:
        return None
    if title := subset(folders):
        return f"{title}'s 200 classes"
    how = "by number" if numbered(folders) else "by WordNet id"
    return f"ImageNet's 1000 classes {how}" if len(folders) == 1000 else f"{len(folders)} of ImageNet's classes {how}"


def _may_be_ids(folders: Sequence[str]) -> bool:
    """Cheap, before the list is read: most data sets are not ImageNet's."""
    return bool(folders) and (WORDNET_ID.fullmatch(folders[0]) is not None or len(folders) == 1000)
