"""The record of one listed image, and the words by which columns and splits are recognised.

>>> split_of("validation-00000-of-00002")
'val'
>>> split_of("photos") == UNDIVIDED
True
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

SPLITS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
UNDIVIDED = ""
IMAGE_COLUMNS = ("path", "file_name", "filename", "file", "filepath", "file_path", "image_path", "image", "img")
LABEL_COLUMNS = ("label", "labels", "class", "class_name", "label_name", "category", "target")
SPLIT_COLUMNS = ("split", "subset", "partition", "set")


@dataclass(frozen=True)
class Row:
    """One image: its path below the data set's folder or an absolute one, its label, and its split or ""."""

    name: str
    label: str
    split: str = UNDIVIDED


def split_of(name: str) -> str:
    """Return the split that a file or folder is called by, the first of several; "" if none."""
    words = re.split(r"[^a-z]+", name.lower())
    return next((SPLITS[word] for word in words if word in SPLITS), UNDIVIDED)


def find_column(columns: Sequence[str], known: Iterable[str]) -> int | None:
    """Return the place of the first of the known columns, whatever its case; None if there is none."""
    lower = [column.strip().lower() for column in columns]
    return next((lower.index(name) for name in known if name in lower), None)
