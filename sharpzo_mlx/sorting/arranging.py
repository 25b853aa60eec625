"""Find the place and name of an image and its sidecars: free ones, or those where they are already.

What has a name is asked of the disk itself, so that a disk that does not tell `A.jpg` from `a.jpg` is right about it.
For a plan that is only shown, the names that earlier images of the plan will have count too.

>>> Arrangement(order).arrange(order.items[0]).files  # doctest: +SKIP
(Transfer(source='a.jpg', target='cat/a (2).jpg', act='copy'),)
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Literal

from sharpzo_mlx.datasets.safe_names import fold
from sharpzo_mlx.sorting.class_folders import ClassFolders, split_of
from sharpzo_mlx.sorting.copying import same_content
from sharpzo_mlx.sorting.file_names import numbered
from sharpzo_mlx.sorting.items import Item, Order
from sharpzo_mlx.sorting.sidecars import Sidecar, Sidecars

Act = Literal["copy", "move", "link", "symlink"]


@dataclass(frozen=True)
class Transfer:
    """One file, its new place, and how it gets there; both paths with slashes, below the two folders."""

    source: str
    target: str
    act: Act


@dataclass(frozen=True)
class Group:
    """Files that travel together.

    Attributes:
        place: the folder that they come to, below the folder that is sorted into.
        target: the image's new path, or the one that it has already.
        number: the number that its name gets; 1 for none.
        there: whether the image is in place already.
        files: what is to be put in place, the image last; empty if all is there.
    """

    place: str
    target: str
    number: int
    there: bool
    files: tuple[Transfer, ...]


class Arrangement:
    """The places of the images of an order.

    Args:
        order: copies, moves or links.
        pretend: whether the names of images that were asked for count as taken, as if they were put there.
    """

    def __init__(self, order: Order, *, pretend: bool = False) -> None:
        self._order = order
        self._index = {item.path: index for index, item in enumerate(order.items)}
        self._labels = {item.label: None for item in order.items if item.label is not None}
        self._folders = ClassFolders(order.into, (*order.classes, *self._labels))
        self._sidecars = Sidecars(order.folder, self._index.keys())
        self._claimed: dict[str, Path] | None = {} if pretend else None

    def find_renamed(self) -> dict[str, str]:
        """Return the labels whose folder is called otherwise, with its name."""
        return {label: name for label, name in self._folders.find_renamed().items() if label in self._labels}

    def find_place(self, item: Item) -> str:
        """Return the folder that an image comes to, below the folder that is sorted into."""
        return self._folders.find(item.label, split_of(item.path) if self._order.in_place else "")

    def arrange(self, item: Item) -> Group:
        """Return where an image and its sidecars go; OSError if the image cannot be compared with what is there."""
        place, name = self.find_place(item), item.path.rpartition("/")[2]
        stem, ending = os.path.splitext(name)
        sidecars = list(self._carried(item, place))
        for number in count(1):
            target = f"{place}/{numbered(stem, ending, number)}"
            files, free = self._find_missing(item, place, number, sidecars)
            there = self._is_there(item.path, target)
            if there is False or (there is None and not free):
                continue
            if there is None:
                files.append(Transfer(item.path, target, self._act()))
            elif self._order.mode == "move":
                files = []  # the image stays, and so does what belongs to it
            self._claim(files)
            return Group(place, target, number, there is True, tuple(files))
        raise AssertionError("numbers do not end")

    def _find_missing(
        self, item: Item, place: str, number: int, sidecars: list[tuple[Sidecar, Act]]
    ) -> tuple[list[Transfer], bool]:
        """Return the sidecars that are to be put in place, and whether none of their names is another file's."""
        folder = item.path[: item.path.rfind("/") + 1]
        files: list[Transfer] = []
        free = True
        for sidecar, act in sidecars:
            source, target = folder + sidecar.name, f"{place}/{numbered(sidecar.stem, sidecar.ending, number)}"
            there = self._is_there(source, target)
            free = free and there is not False
            if there is None:
                files.append(Transfer(source, target, act))
        return files, free

    def _carried(self, item: Item, place: str) -> Iterator[tuple[Sidecar, Act]]:
        """Yield the sidecars that travel with an image; one of several images goes to each of their folders once."""
        folder = item.path[: item.path.rfind("/") + 1]
        for sidecar in self._sidecars.find(item.path):
            paths = [folder + name for name in sidecar.owners]
            known = sorted(self._index[path] for path in paths if path in self._index)
            first: dict[str, int] = {}
            for index in known:
                first.setdefault(self.find_place(self._order.items[index]), index)
            if first[place] == self._index[item.path]:
                last = len(known) == len(paths) and max(first.values()) == first[place]
                yield sidecar, self._act() if last or self._act() != "move" else "copy"

    def _act(self) -> Act:
        assert self._order.mode != "tag"
        return self._order.mode

    def _is_there(self, source: str, target: str) -> bool | None:
        """Return None if a name is free, else whether what has it is the file itself or has the same content."""
        holder = self._holder(target)
        return None if holder is None else same_content(self._order.folder / source, holder)

    def _holder(self, target: str) -> Path | None:
        path = self._order.into / target
        if self._claimed is not None and (claimed := self._claimed.get(_key(target))) is not None:
            return claimed
        return path if os.path.lexists(path) else None

    def _claim(self, files: list[Transfer]) -> None:
        if self._claimed is not None:
            self._claimed.update({_key(file.target): self._order.folder / file.source for file in files})


def _key(target: str) -> str:
    """Return a form of a path that is equal where a disk of this system finds the same file."""
    return fold(target) if sys.platform == "darwin" else target
