"""List the images that files and folders name, one at a time, and count what is left out.

A file that lists or stores images (`listed`: CSV, TSV, Parquet, tar) stands for these, in its own order. Another named
file counts as an image whatever it is called, so that whoever reads it says what is wrong. Of a folder those files
count that have the suffix of an image, in the order of their names, and the folders inside only if asked. If no image
lies in it or in class folders inside, those count that its Parquet or tar files store. No more than the names in one
folder or file are in memory at once.

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
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from sharpzo_mlx.datasets import parquet, shards
from sharpzo_mlx.datasets.image_set import nfc
from sharpzo_mlx.datasets.listed import find_containers, is_listed_file, list_images
from sharpzo_mlx.datasets.scan import AGAIN, HIDDEN, OUTPUT, SPECIAL, Walk, list_folder
from sharpzo_mlx.errors import UserError, notify
from sharpzo_mlx.files import refuse_empty

STORED = (parquet.ENDING, shards.ENDING)
INSIDE, PLAIN = "inside", "plain"  # kinds that are counted beside those of `scan`


@dataclass(frozen=True)
class _Refused:
    """A file that should list or store images and cannot be read."""

    path: Path
    error: UserError


class ImageListing(Iterable[Path]):
    """The images that some paths name; iterate over it once.

    Args:
        paths: files and folders; may be an iterator that never holds all of them.
        recursive: whether folders inside folders are read too, and those that links lead to: each real folder once,
            so that no loop is endless.
        lists: whether files that list or store images stand for these.

    Attributes:
        count: the images so far.
        left_out: the number of other files so far by kind or suffix.
    """

    def __init__(self, paths: Iterable[str | Path], *, recursive: bool = False, lists: bool = True) -> None:
        self.count = 0
        self.left_out: Counter[str] = Counter()
        self._paths = paths
        self._recursive, self._lists = recursive, lists

    def __iter__(self) -> Iterator[Path]:
        """Yield the images; of a file of images that cannot be read a notice says why, and it counts as one itself.

        Raises:
            UserError: a path is empty, a folder cannot be read, or such a file, and there is no image beside it.
        """
        refused: list[_Refused] = []
        for one in self._files():
            if isinstance(one, _Refused):
                refused.append(one)
                if not self.count:
                    continue  # whether there is an image, others will show
            for file in refused:
                notify(str(file.error))
                self.count += 1
                yield file.path
            refused.clear()
            if isinstance(one, Path):
                self.count += 1
                yield one
        if refused:
            raise refused[0].error

    def describe_left_out(self) -> str:
        """Return what was left out so far in words, such as "3 .mov, 2 folders inside"; empty if that is nothing."""
        words = {
            SPECIAL: "pipes or sockets",
            PLAIN: "without a suffix",
            OUTPUT: "folders that this program wrote",
            AGAIN: "links to folders that are read already",
            INSIDE: "folders inside (--recursive reads them)",
        }
        if self._lists:
            words |= {kind: f"{kind} (name such a file, and its images are read)" for kind in STORED}
        kinds = sorted(self.left_out, key=lambda kind: (list(words).index(kind) if kind in words else -1, kind))
        return ", ".join(f"{self.left_out[kind]} {words.get(kind, kind)}" for kind in kinds)

    def _files(self) -> Iterator[Path | _Refused]:
        for path in self._paths:
            refuse_empty(path)
            yield from self._find(Path(path))

    def _find(self, path: Path) -> Iterable[Path | _Refused]:
        if os.path.isdir(path):
            stored = find_containers(path) if self._lists else []
            return chain.from_iterable(self._listed(file) for file in stored) if stored else self._inside(path)
        if self._lists and (is_listed_file(path) or (shards.is_compressed(path) and path.is_file())):
            return self._listed(path)
        return (path,)

    def _listed(self, file: Path) -> Iterator[Path | _Refused]:
        try:
            yield from list_images(file, self.left_out)
        except UserError as error:
            yield _Refused(file, error)

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
