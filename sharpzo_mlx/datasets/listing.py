"""List the image files that files and folders name, one at a time, and count what is left out.

A named file counts as an image whatever it is called, so that whoever reads it says what is wrong. Of a folder those
files count that have the suffix of an image, in the order of their names, and the folders inside only if asked. No more
than the names in one folder are in memory at once.

>>> listing = ImageListing(["new.jpg", "holiday/"])
>>> for path in listing:  # doctest: +SKIP
...     print(path)
>>> listing.describe_left_out()  # doctest: +SKIP
'3 .mov'
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from sharpzo_mlx.datasets.image_set import nfc
from sharpzo_mlx.datasets.scan import AGAIN, HIDDEN, OUTPUT, SPECIAL, Walk, list_folder
from sharpzo_mlx.files import refuse_empty

INSIDE, PLAIN = "inside", "plain"  # kinds that are counted beside those of `scan`


class ImageListing(Iterable[Path]):
    """The image files that some paths name; iterate over it once.

    Args:
        paths: files and folders; may be an iterator that never holds all of them.
        recursive: whether folders inside folders are read too, and those that links lead to: each real folder once,
            so that no loop is endless.

    Attributes:
        count: the images so far.
        left_out: the number of other files so far by kind or suffix.
    """

    def __init__(self, paths: Iterable[str | Path], *, recursive: bool = False) -> None:
        self.count = 0
        self.left_out: Counter[str] = Counter()
        self._paths = paths
        self._recursive = recursive

    def __iter__(self) -> Iterator[Path]:
        """Yield the files; UserError for an empty path or a folder that cannot be read."""
        for path in self._paths:
            refuse_empty(path)
            for file in self._inside(Path(path)) if os.path.isdir(path) else (Path(path),):
                self.count += 1
                yield file

    def describe_left_out(self) -> str:
        """Return what was left out so far in words, such as "3 .mov, 2 folders inside"; empty if that is nothing."""
        words = {
            SPECIAL: "pipes or sockets",
            PLAIN: "without a suffix",
            OUTPUT: "folders that this program wrote",
            AGAIN: "links to folders that are read already",
            INSIDE: "folders inside (--recursive reads them)",
        }
        kinds = sorted(self.left_out, key=lambda kind: (list(words).index(kind) if kind in words else -1, kind))
        return ", ".join(f"{self.left_out[kind]} {words.get(kind, kind)}" for kind in kinds)

    def _inside(self, folder: Path) -> Iterator[Path]:
        walk = Walk(folder)
        for place in walk:
            here = list_folder(place)
            if here.written:
                self.left_out[OUTPUT] += 1
                continue
            self._count(here.others, 0 if self._recursive else len(here.folders) + len(here.linked))
            if self._recursive:
                walk.add(place, here)
            yield from (place / name for name in sorted(here.images, key=nfc))
        self.left_out += Counter({AGAIN: walk.again})

    def _count(self, others: Counter[str], inside: int) -> None:
        self.left_out.update({kind or PLAIN: number for kind, number in others.items() if kind != HIDDEN})
        self.left_out += Counter({INSIDE: inside})  # without what is 0
