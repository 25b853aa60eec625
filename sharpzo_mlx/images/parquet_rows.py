"""Read the images of a Parquet file row by row, with some tens of rows in memory, whatever the size of its row groups.

The rows of a file are decoded onwards from two places. A row that lies before both, or in a later row group, makes
reading begin anew at its row group, so images are best read in order (`stored.read_order`). The image column is the one
that Hugging Face's metadata names, else one called like an image, of binary values or of structs {bytes, path}.

>>> len(read_row(Path("train-00000-of-00001.parquet"), 0))  # doctest: +SKIP
73214
"""

from __future__ import annotations

import errno
import json
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from sharpzo_mlx.errors import UserError
from sharpzo_mlx.files import open_regular
from sharpzo_mlx.runtime.extras import install

BATCH = 16  # rows that are decoded at a time
CURSORS = 2  # of a file: images are digested some hundreds at a time, and then read again
KEPT = 8  # batches in memory, for threads that read side by side
OPEN_FILES = 4
NAMES = ("image", "img", "picture", "photo", "jpg", "png", "image_bytes", "bytes")


@cache
def parquet() -> Any:
    """Return the module pyarrow.parquet; UserError says how to install it where it is missing."""
    try:
        import pyarrow.parquet as module
    except ImportError as error:
        raise UserError(f"Parquet files are read by another package: {install('parquet')}") from error
    return module


def open_parquet(file: Path) -> Any:
    """Open a Parquet file; OSError or ValueError if it cannot be read, or is none."""
    open_regular(file).close()  # no pipe, no device
    module = parquet()
    try:
        return module.ParquetFile(file, memory_map=False)
    except (OSError, ValueError):
        raise
    except Exception as error:
        raise ValueError(f"no Parquet file that can be read ({type(error).__name__})") from error


def hugging_face_features(file: Any) -> dict[str, Any]:
    """Return the features by column that `datasets` wrote into a file's metadata; empty if there are none."""
    try:
        written = json.loads((file.schema_arrow.metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, TypeError, ValueError, RecursionError):
        return {}
    return written if isinstance(written, dict) else {}


def image_column(file: Any) -> str | None:
    """Return the name of the column that holds the images, or None."""
    features, found = hugging_face_features(file), []
    for field in file.schema_arrow:
        if isinstance(kind := features.get(field.name), dict) and kind.get("_type") == "Image":
            return str(field.name)
        if _holds_bytes(field.type):
            found.append(str(field.name))
    named = [name for name in found if name.lower() in NAMES]
    return (named or found)[0] if named or len(found) == 1 else None


def _holds_bytes(kind: Any) -> bool:
    import pyarrow.types as types

    if types.is_struct(kind):
        return any(field.name == "bytes" and _holds_bytes(field.type) for field in kind)
    return bool(types.is_binary(kind) or types.is_large_binary(kind))


@dataclass
class _Cursor:
    """A place in a file from which it is decoded onwards.

    Attributes:
        following: the batches from there.
        next: the row that the next batch begins with.
        last: the batch before, with its first row.
    """

    following: Iterator[Any]
    next: int
    last: tuple[int, Any] = (0, ())


class _Rows:
    """The images of one open file; use it under its lock."""

    def __init__(self, path: Path) -> None:
        self.lock = threading.Lock()
        self._file = open_parquet(path)
        column = image_column(self._file)
        if column is None:
            raise ValueError("no column of images")
        self._column = column
        self._starts = [0]  # the first row of each group, and the number of rows
        for group in range(self._file.num_row_groups):
            self._starts.append(self._starts[-1] + self._file.metadata.row_group(group).num_rows)
        self._kept: OrderedDict[int, Any] = OrderedDict()  # batches by their first row
        self._cursors: list[_Cursor] = []  # the last used last

    def read(self, row: int) -> bytes:
        if not 0 <= row < self._starts[-1]:
            raise IndexError(row)
        held = (cursor.last for cursor in self._cursors)
        for start, batch in (*self._kept.items(), *held):
            if start <= row < start + len(batch):
                return _as_bytes(batch[row - start].as_py())
        cursor = self._find_cursor(row)
        while True:
            batch = next(cursor.following).column(0)
            start, cursor.next = cursor.next, cursor.next + len(batch)
            cursor.last = (start, batch)
            if row < cursor.next:
                self._kept[start] = batch
                while len(self._kept) > KEPT:
                    self._kept.popitem(last=False)
                return _as_bytes(batch[row - start].as_py())

    def _find_cursor(self, row: int) -> _Cursor:
        """Return the cursor that comes to a row soonest: one that is there, or a new one at the row's group."""
        group = next(place for place, start in enumerate(self._starts) if start > row) - 1
        near = [cursor for cursor in self._cursors if self._starts[group] <= cursor.next <= row]
        chosen = max(near, key=lambda cursor: cursor.next) if near else self._begin(group)
        self._cursors = [*(cursor for cursor in self._cursors if cursor is not chosen), chosen][-CURSORS:]
        return chosen

    def _begin(self, group: int) -> _Cursor:
        groups = range(group, self._file.num_row_groups)
        following = self._file.iter_batches(
            batch_size=BATCH, row_groups=groups, columns=[self._column], use_threads=False
        )
        return _Cursor(following, self._starts[group])


def _as_bytes(value: Any) -> bytes:
    content = value.get("bytes") if isinstance(value, dict) else value
    if not isinstance(content, bytes):
        raise ValueError("the row holds no image, perhaps the path of one")
    return content


_open: OrderedDict[tuple[Path, int, int, int], _Rows] = OrderedDict()
_opening = threading.Lock()


def read_row(file: Path, row: int) -> bytes:
    """Return the image of a row, counted from 0.

    Raises:
        OSError: the file or the row cannot be read.
        IndexError: there is no such row.
        UserError: the package that reads Parquet files is missing.
    """
    state = os.stat(file)
    key = (file, state.st_ino, state.st_size, state.st_mtime_ns)
    try:
        with _opening:
            if key not in _open:
                _open[key] = _Rows(file)
            _open.move_to_end(key)
            rows = _open[key]
            while len(_open) > OPEN_FILES:
                _open.popitem(last=False)
        with rows.lock:
            return rows.read(row)
    except (OSError, UserError, IndexError):
        raise
    except Exception as error:  # whatever a damaged file makes the package raise
        raise OSError(errno.EIO, f"cannot be read from its Parquet file ({_first_line(error)})", str(file)) from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:80]
