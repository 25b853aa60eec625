"""Open an image wherever it is stored: as a file, as a row of a Parquet file, or as a member of a tar file.

The latter two are spelled as paths, which reports, records and messages show: `train-0.parquet#123` is row 123, counted
from 0, and `shard-0.tar#dog/1.jpg` the member of that name. A file of such a name is a file. Nothing is extracted.

>>> split_stored(Path("data/shard-0.tar#dog/1.jpg"))
(PosixPath('data/shard-0.tar'), 'dog/1.jpg')
>>> split_stored(Path("dog/1.jpg")) is None
True
"""

from __future__ import annotations

import errno
import io
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from sharpzo_mlx.files import open_regular
from sharpzo_mlx.images.parquet_rows import read_row
from sharpzo_mlx.images.tar_members import read_member

PARQUET, TAR = ".parquet", ".tar"
_SPELLED = re.compile(r"(.+?\.(?:parquet|tar))#(.+)", re.IGNORECASE | re.DOTALL)


def split_stored(path: Path) -> tuple[Path, str] | None:
    """Return the file that an image is stored in and its name there; None if the image is a file itself."""
    found = _SPELLED.fullmatch(str(path))
    if found is None or os.path.lexists(path):
        return None
    return Path(found[1]), found[2]


def open_stored(path: Path) -> BinaryIO:
    """Open an image for reading; a stored one is read whole.

    Raises:
        OSError: it cannot be read, or is not there.
        UserError: it is in a Parquet file, and the package that reads these is missing.
    """
    stored = split_stored(path)
    if stored is None:
        return open_regular(path)
    container, name = stored
    try:
        read = _read_row if container.suffix.lower() == PARQUET else read_member
        return io.BytesIO(read(container, name))
    except (KeyError, IndexError):
        raise FileNotFoundError(errno.ENOENT, "no such image in the file", str(path)) from None


def is_there(path: Path) -> bool:
    """Return whether an image is a file, or the file that it is stored in is there."""
    stored = split_stored(path)
    return os.path.isfile(stored[0] if stored else path)


def read_order(paths: Sequence[Path]) -> list[int]:
    """Return the place of each image in the order in which reading them all is quick.

    That is their own order, except that rows of a Parquet file, which can only be read onwards, come row by row.
    """
    if not len(paths) or _row_key(paths[0]) is None:  # a set is stored in one way
        return list(range(len(paths)))
    keys = [_row_key(path) for path in paths]
    order = sorted(range(len(paths)), key=lambda place: keys[place] or ("", 0))
    places = [0] * len(paths)
    for place, index in enumerate(order):
        places[index] = place
    return places


def _row_key(path: Path) -> tuple[str, int] | None:
    if f"{PARQUET}#" not in path.name.lower():
        return None
    container, _, row = str(path).rpartition("#")
    return (container, int(row)) if row.isdecimal() and row.isascii() else None


def _read_row(file: Path, name: str) -> bytes:
    if not (name.isascii() and name.isdecimal() and len(name) < 19):
        raise KeyError(name)
    return read_row(file, int(name))
