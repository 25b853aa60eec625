"""Read which images a file of predictions holds, as CSV or JSON Lines, and where its whole rows end.

A half-written last line is left out. In CSV so are the other rows of the image before it, because the line may have
been one more of them. Of the paths only digests are held, so that a million images take some tens of megabytes.

>>> import io
>>> done, end = read_done(io.BytesIO(b'{"path": "a.jpg"}' + b"\\n" + b'{"pat'), "jsonl")
>>> end, digest_path("a.jpg") in done
(18, True)
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterator
from typing import BinaryIO

from sharpzo_mlx.cli.prediction_text import CSV_COLUMNS, STYLES
from sharpzo_mlx.reading import parse_json


def digest_path(path: str) -> bytes:
    """Return 16 bytes that stand for a path."""
    return hashlib.blake2b(path.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def read_done(file: BinaryIO, style: str) -> tuple[set[bytes], int]:
    """Return the digests of the paths that a file holds, and how many bytes of it are to be kept.

    Args:
        file: the file, from its beginning.
        style: "csv" or "jsonl".

    Raises:
        ValueError: the file is not one that `predict` wrote; the message is the reason.
    """
    lines = _EndedLines(file)
    done: set[bytes] = set()
    start = end = 0
    last: str | None = None
    for path in _csv_paths(lines) if style == "csv" else _json_paths(lines):
        if path != last:  # the rows of an image lie side by side
            last, start = path, end
            done.add(digest_path(path))
        end = lines.end
    if last is not None and lines.torn and style == "csv":
        done.discard(digest_path(last))
        return done, start
    return done, end


class _EndedLines:
    """The lines of a file that have an end, the bytes and the number of those so far, and whether the last is torn."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.end = self.number = 0
        self.torn = b""
        self.over = False

    def __iter__(self) -> Iterator[str]:
        for line in self._file:
            if not line.endswith(b"\n"):
                self.torn = line
                break
            self.number += 1
            self.end += len(line)
            yield line.decode("utf-8", "surrogateescape")
        self.over = True


def _csv_paths(lines: _EndedLines) -> Iterator[str]:
    rows = csv.reader(lines, strict=True)
    try:
        if (header := next(rows, None)) is None:
            if not STYLES["csv"].header.encode().startswith(lines.torn):
                raise ValueError("line 1 is not the header of a table of predictions")
            return
        if tuple(header) != CSV_COLUMNS:
            raise ValueError("line 1 is not the header of a table of predictions")
        for row in rows:
            if len(row) != len(CSV_COLUMNS):
                raise ValueError(f"line {lines.number} has {len(row)} columns, not {len(CSV_COLUMNS)}")
            yield row[0]
    except csv.Error as error:
        if not lines.over:
            raise ValueError(f"line {lines.number} is no row of a table ({error})") from None
        lines.torn = lines.torn or b"\n"  # a name with an end of line in it, cut off there


def _json_paths(lines: _EndedLines) -> Iterator[str]:
    for line in lines:
        try:
            record = parse_json(line)
        except ValueError as error:
            raise ValueError(f"line {lines.number}: {error}") from None
        path = record.get("path") if isinstance(record, dict) else None
        if not isinstance(path, str):
            raise ValueError(f"line {lines.number} is no prediction")
        yield path
    if lines.torn and not lines.torn.startswith(b"{"):
        raise ValueError("the last line is no prediction")
