"""Where the members of an uncompressed zip file lie, without copying or unpacking any of them.

Torch's files are zip files whose members are stored, not compressed, so that a tensor can be read
through a memory map of the file. Only such members are accepted: a compressed one can unfold to any
size. The directory is read as the zip specification (APPNOTE 4.3 and 4.5.3, zip64) lays it out; every
length and offset is checked against the file's size.

>>> members(b"not a zip")
Traceback (most recent call last):
sharpzo_mlx.convert.stored_zip.BadZip: it has no zip directory at its end; download the file again
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Callable
from typing import TypeAlias

MAXIMUM_DIRECTORY = 32 * 2**20  # bytes; a member takes about a hundred

Buffer: TypeAlias = "mmap.mmap | bytes"
Span: TypeAlias = "tuple[int, int]"  # first byte, length

_END = struct.Struct("<4s4H2LH")
_END64_LOCATOR = struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQ2H2L4Q")
# magic, 2 versions, flags, method, time, date, crc, packed, size, 3 lengths, disk, 2 attributes, offset
_ENTRY = struct.Struct("<4s4x2H8x2L3H8xL")
_LOCAL = struct.Struct("<4s5H3L2H")
_FULL16, _FULL32 = 0xFFFF, 0xFFFFFFFF  # "look in the zip64 record"


class BadZip(Exception):
    """The zip file is damaged, or holds what torch does not write; the message is one line."""


def members(data: Buffer, ignore: Callable[[str], bool] = lambda _: False) -> dict[str, Span]:
    """Find every member's bytes.

    Args:
        data: the whole file, usually a memory map.
        ignore: true for the names of members that nobody reads; these may be compressed, and are left out.

    Returns:
        By name, the offset of the member's first byte in the file and its length in bytes.

    Raises:
        BadZip: no zip file, cut short, compressed or encrypted members, names that lead out of a folder.
    """
    try:
        position, count = _directory(data)
        found: dict[str, Span] = {}
        for _ in range(count):
            name, span, position = _entry(data, position, ignore)
            if name in found:
                raise BadZip(f"it has two members named {name[:80]!r}")
            if span is not None:
                found[name] = span
    except (struct.error, UnicodeError) as error:
        raise BadZip("its zip directory is damaged; download the file again") from error
    return found


def _directory(data: Buffer) -> tuple[int, int]:
    """Offset and number of entries of the central directory."""
    end = data.rfind(b"PK\5\6", max(0, len(data) - _END.size - _FULL16))
    if end < 0:
        raise BadZip("it has no zip directory at its end; download the file again")
    _, _, _, _, count, length, offset, _ = _END.unpack_from(data, end)
    if count == _FULL16 or length == _FULL32 or offset == _FULL32:
        count, length, offset = _directory64(data, end)
    if offset + length > end or length > MAXIMUM_DIRECTORY or count * _ENTRY.size > length:
        raise BadZip("its zip directory is damaged or absurdly long; download the file again")
    return offset, count


def _directory64(data: Buffer, end: int) -> tuple[int, int, int]:
    """Number of entries, length and offset, from the zip64 record that stands before the end record."""
    if end < _END64_LOCATOR.size:
        raise BadZip("its zip directory is damaged; download the file again")
    magic, _, where, _ = _END64_LOCATOR.unpack_from(data, end - _END64_LOCATOR.size)
    if magic != b"PK\6\7" or where + _END64.size > end or data[where : where + 4] != b"PK\6\6":
        raise BadZip("its zip directory is damaged; download the file again")
    *_, count, length, offset = _END64.unpack_from(data, where)
    return count, length, offset


def _entry(data: Buffer, position: int, ignore: Callable[[str], bool]) -> tuple[str, Span | None, int]:
    """Name and bytes (None: ignored) of the member whose entry stands here, and the next entry's position."""
    magic, flags, method, packed, size, *lengths, local = _ENTRY.unpack_from(data, position)
    name_length, extra_length, comment_length = lengths
    first = position + _ENTRY.size
    after = first + name_length + extra_length + comment_length
    if magic != b"PK\1\2" or after > len(data):
        raise BadZip("its zip directory is damaged; download the file again")
    name = bytes(data[first : first + name_length]).decode()
    if name.startswith("/") or "\\" in name or ".." in name.split("/"):
        raise BadZip(f"it has a member with the suspicious name {name[:80]!r}")
    if ignore(name):
        return name, None, after
    size, packed, local = _sizes64(data, (first + name_length, extra_length), (size, packed, local))
    if method != 0 or packed != size or flags & 1:
        raise BadZip(f"its member {name[:80]!r} is compressed or encrypted, which torch does not do")
    return name, (_first_byte(data, local, size, name), size), after


def _sizes64(data: Buffer, extra: Span, sizes: tuple[int, int, int]) -> tuple[int, int, int]:
    """Size, packed size and offset of a member, with those that are full taken from its zip64 extra field."""
    if _FULL32 not in sizes:
        return sizes
    position, end = extra[0], extra[0] + extra[1]
    while position + 4 <= end:
        kind, length = struct.unpack_from("<2H", data, position)
        if kind == 1:
            wide = iter(struct.unpack_from(f"<{length // 8}Q", data, position + 4))
            size, packed, local = (next(wide, _FULL32) if value == _FULL32 else value for value in sizes)
            return size, packed, local
        position += 4 + length
    return sizes


def _first_byte(data: Buffer, local: int, size: int, name: str) -> int:
    """Offset of a member's first byte; its local header has a name and an extra field of its own lengths."""
    if local + _LOCAL.size > len(data):
        raise BadZip(f"its member {name[:80]!r} lies outside of the file; download the file again")
    magic, *_, name_length, extra_length = _LOCAL.unpack_from(data, local)
    first: int = local + _LOCAL.size + name_length + extra_length
    if magic != b"PK\3\4" or first + size > len(data):
        raise BadZip(f"its member {name[:80]!r} lies outside of the file; download the file again")
    return first
