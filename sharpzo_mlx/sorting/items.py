"""What is sorted, how, and what became of it: the records that the other files of this folder hand on.

>>> Item("a.jpg", None).label is None  # goes to unsorted/
True
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Mode = Literal["copy", "move", "link", "symlink", "tag"]
MODES: tuple[Mode, ...] = ("copy", "move", "link", "symlink", "tag")
DONE = {"copy": "copied", "move": "moved", "link": "linked", "symlink": "linked", "tag": "tagged"}


@dataclass(frozen=True)
class Item:
    """One image and its label.

    Attributes:
        path: below the folder that is sorted, with slashes.
        label: a class name, or None for an image that is none of the classes.
    """

    path: str
    label: str | None


@dataclass(frozen=True)
class Failure:
    """A file that stays as it is, and why."""

    path: str
    reason: str


@dataclass(frozen=True)
class Order:
    """What is to be done.

    Attributes:
        folder: the folder that is sorted.
        into: the folder of the class folders; the same for tags.
        mode: how.
        items: the images, in the order in which they are sorted.
        in_place: whether images change places inside one data set, so that those of a split stay in it.
        xmp_by_stem: whether a new sidecar of `a.jpg` is `a.xmp`, not `a.jpg.xmp`.
        classes: all labels that there may be, so that each has the same folder whichever images are sorted.
    """

    folder: Path
    into: Path
    mode: Mode
    items: tuple[Item, ...]
    in_place: bool = False
    xmp_by_stem: bool = False
    classes: tuple[str, ...] = ()


@dataclass
class Sorted:
    """How far the carrying out of a plan is; the counts grow while it goes on.

    Attributes:
        total: images in the plan.
        seen: images that were looked at.
        done: images that were put in place, or tagged.
        there: images that were in place already, with the same content or label.
        numbered: images that got a number because another file has their name.
        sidecars: files beside images that travelled along.
        failures: files that stay where they are, and why.
        journal: the journal's path, or None if nothing was to do.
    """

    total: int
    seen: int = 0
    done: int = 0
    there: int = 0
    numbered: int = 0
    sidecars: int = 0
    failures: list[Failure] = field(default_factory=list)
    journal: str | None = None
