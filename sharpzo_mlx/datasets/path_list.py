"""Keep millions of paths in little memory: a sequence of files below one folder, stored as one block of bytes.

A `Path` takes about 370 bytes, and ImageNet-C has 3.75 million images. Here a file takes the bytes of its name below
the folder, and 8 more; a `Path` is made when it is asked for.

>>> files = PathList("photos", ["cat/1.jpg", "dog/2.jpg"])
>>> files[1].as_posix(), len(files.take([1, 1, 0]))
('photos/dog/2.jpg', 3)
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import overload

import numpy as np


class PathList(Sequence[Path]):
    """Files below one folder; equal to any sequence of the same paths.

    Args:
        folder: the folder that all files lie below.
        names: the files' paths below it, as the file system spells them.
    """

    def __init__(self, folder: str | Path, names: Iterable[str]) -> None:
        self._folder = os.fspath(folder)
        self._keep([os.fsencode(name) for name in names])

    def _keep(self, names: list[bytes]) -> None:
        self._block = b"".join(names)
        self._ends = np.cumsum([0, *map(len, names)], dtype=np.int64)  # [N + 1]

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, index: int) -> Path: ...
    @overload
    def __getitem__(self, index: slice) -> PathList: ...
    def __getitem__(self, index: int | slice) -> Path | PathList:
        """Return the path at a position, or the paths of a slice."""
        if isinstance(index, slice):
            return self.take(range(len(self))[index])
        return Path(self._folder, os.fsdecode(self._name(range(len(self))[index])))

    def __iter__(self) -> Iterator[Path]:
        return (self[index] for index in range(len(self)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(Path.__eq__, self, other))

    def __hash__(self) -> int:
        return hash(tuple(self))

    def take(self, rows: Iterable[int]) -> PathList:
        """Return the paths at some positions, in the order given."""
        taken = PathList(self._folder, ())
        taken._keep([self._name(row) for row in rows])
        return taken

    def _name(self, row: int) -> bytes:
        return self._block[self._ends[row] : self._ends[row + 1]]
