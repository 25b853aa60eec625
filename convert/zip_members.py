"""Find where the members of an uncompressed zip file lie, without copying or unpacking any of them.

Torch's checkpoints and `.npz` files are zip files whose members are stored without compression, so a reader can
memory-map the file and read each tensor at its offset. The standard `zipfile` reads the directory; this module adds
what untrusted files need. It refuses compressed members (they can unfold to any size), suspicious and repeated
names, long directories, and members that lie outside of the file.

>>> find_members("weights.npz")  # doctest: +SKIP
{'a.npy': Span(start=67, length=208)}
"""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

MAXIMUM_DIRECTORY = 4 * 2**20  # bytes; a member takes about a hundred, and a CLIP has at most some thousands
LOCAL_HEADER = struct.Struct("<4s22x2H")  # magic, lengths of the name and of the extra field that follow
ENCRYPTED = 1  # bit of a member's flags
DAMAGED = "its zip directory is damaged"


class BadZip(Exception):
    """The zip file is damaged, or holds something that torch does not write; the message is one line."""


class Span(NamedTuple):
    """The place of some bytes in a file."""

    start: int
    length: int


class _Reader(io.FileIO):
    """A file that refuses to read more than a directory at once; `zipfile` reads the whole directory in one piece."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > MAXIMUM_DIRECTORY:
            raise BadZip(f"{DAMAGED} or absurdly long; download the file again")
        return super().read(size) or b""


def find_members(path: str | Path, ignore: Callable[[str], bool] = lambda _: False) -> dict[str, Span]:
    """Find the bytes of every member.

    Args:
        path: a zip file.
        ignore: returns true for the names of members that nobody reads. These may be compressed; the result leaves
            them out.

    Returns:
        Member name -> offset of its first byte in the file, and its length in bytes.

    Raises:
        BadZip: the file is no zip file or cut short, or a member is compressed, encrypted or has a suspicious name.
        OSError: the file cannot be read.
    """
    with _Reader(path) as file:
        size = file.seek(0, io.SEEK_END)
        try:
            with zipfile.ZipFile(file) as archive:
                infos = archive.infolist()
        except (zipfile.BadZipFile, NotImplementedError, ValueError, OverflowError, struct.error) as error:
            fault = "it has no zip directory at its end" if "not a zip" in str(error) else DAMAGED
            raise BadZip(f"{fault}; download the file again") from error
        _check_names([info.filename for info in infos])
        return {info.filename: _span(file, size, info) for info in infos if not ignore(info.filename)}


def _check_names(names: list[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name.startswith("/") or "\\" in name or ".." in name.split("/"):
            raise BadZip(f"it has a member with the suspicious name {name[:80]!r}")
        if name in seen:
            raise BadZip(f"it has two members named {name[:80]!r}")
        seen.add(name)


def _span(file: _Reader, size: int, info: zipfile.ZipInfo) -> Span:
    """Return the place of a member's bytes, which follow its local header, name and extra field."""
    name = info.filename[:80]
    if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size or info.flag_bits & ENCRYPTED:
        raise BadZip(f"its member {name!r} is compressed or encrypted, which torch does not do")
    if info.header_offset < 0:  # zipfile moves all members by as much as the directory is off its place
        raise BadZip(f"{DAMAGED}; download the file again")
    if info.header_offset + LOCAL_HEADER.size <= size:
        file.seek(info.header_offset)
        magic, *lengths = LOCAL_HEADER.unpack(file.read(LOCAL_HEADER.size))
        start = info.header_offset + LOCAL_HEADER.size + sum(lengths)
        if magic == b"PK\3\4" and start + info.file_size <= size:
            return Span(start, info.file_size)
    raise BadZip(f"its member {name!r} lies outside of the file; download the file again")
