"""Read a list of paths on stdin, one a line or separated by NUL bytes, as it comes.

Paths are bytes to the system, so what is not UTF-8 reaches the file all the same.

>>> import io
>>> list(read_paths(io.BytesIO(b"a.jpg" + bytes(1) + b"b.jpg"), null=True))
['a.jpg', 'b.jpg']
"""

from __future__ import annotations

import codecs
import io
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from sharpzo_mlx.errors import UserError

STDIN = Path("-")
BLOCK = 1 << 16
LONGEST = 1 << 16  # bytes of a path; no system allows as many


def named_paths(paths: tuple[Path, ...], *, null: bool) -> Iterator[str | Path]:
    """Yield the paths of a command line, with those of the list on stdin in the place of `-`."""
    for path in paths:
        if path == STDIN:
            yield from read_paths(getattr(sys.stdin, "buffer", io.BytesIO()), null=null)
        else:
            yield path


def read_paths(stream: BinaryIO, *, null: bool) -> Iterator[str]:
    """Yield the paths of a list; empty ones are passed over.

    Args:
        stream: the list.
        null: whether NUL bytes separate the paths; else ends of lines do, also those of Windows.

    Raises:
        UserError: a path is longer than any system allows, or NUL bytes separate lines.
    """
    separator, rest = (b"\0" if null else b"\n"), b""
    while block := _read(stream):
        *whole, rest = (rest + block).split(separator)
        yield from (path for one in whole if (path := _decode(one, null)))
        if len(rest) > LONGEST:
            raise UserError(f"stdin: a path of more than {LONGEST} bytes; separate the paths by {_other(null)}")
    if path := _decode(rest, null):
        yield path


def _read(stream: BinaryIO) -> bytes:
    """Return what is there, so that no path waits for others."""
    return stream.read1(BLOCK) if isinstance(stream, (io.BufferedReader, io.BytesIO)) else stream.read(BLOCK)


def _decode(path: bytes, null: bool) -> str:
    if not null and b"\0" in path:
        raise UserError("stdin: the list has NUL bytes between the paths; add --null")
    return os.fsdecode(path if null else path.removeprefix(codecs.BOM_UTF8).removesuffix(b"\r"))


def _other(null: bool) -> str:
    return "NUL bytes, as `find -print0` does" if null else "ends of lines, or by NUL bytes with --null"
