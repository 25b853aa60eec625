"""Read members of an uncompressed tar file without extracting them.

Only regular members of the size of an image are known. Links, devices and sparse members are not, nor names that lead
out of the file (`../a`, `/a`): a stranger's tar cannot make this program read or write anything but itself.

>>> [member.name for member in walk_members(Path("shard-0.tar"))]  # doctest: +SKIP
['0001.jpg', '0001.cls']
"""

from __future__ import annotations

import tarfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from sharpzo_mlx.files import open_regular
from sharpzo_mlx.images.decoding_memory import BYTES

LARGEST_HEADER = 1 << 20  # bytes that are read at once for a member's header; names are far shorter
OPEN_INDEXES = 64  # tar files whose members are known at a time


@dataclass(frozen=True)
class Member:
    """A regular member: its name, and where its content lies in the tar file, in bytes."""

    name: str
    offset: int
    size: int


class _ShortReads:
    """A file of which no more than a header is read at once, however long a header says it is."""

    def __init__(self, file: Any, size: int) -> None:
        self.tell = file.tell
        self._file, self._size = file, size

    def seek(self, place: int) -> int:
        if not 0 <= place <= self._size:
            raise tarfile.ReadError("it is cut off")
        return int(self._file.seek(place))

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= LARGEST_HEADER:
            raise tarfile.ReadError("a header that is too long")
        data: bytes = self._file.read(size)
        return data


def walk_members(file: Path, left_out: Counter[str] | None = None) -> Iterator[Member]:
    """Yield the regular members of a tar file, in order.

    Args:
        file: an uncompressed tar file.
        left_out: takes the number of other members, by kind.

    Raises:
        OSError: it cannot be opened.
        ValueError: it is no tar file, is compressed, or is damaged.
    """
    counts = Counter[str]() if left_out is None else left_out
    with open_regular(file) as opened:
        size = opened.seek(0, 2)
        opened.seek(0)
        try:
            with tarfile.open(fileobj=_ShortReads(opened, size), mode="r:") as tar:  # type: ignore[call-overload]
                for info in tar:
                    tar.members = []  # which would hold every header
                    if info.isdir():
                        continue
                    if kind := _odd_kind(info, size):
                        counts[kind] += 1
                    else:
                        yield Member(info.name.removeprefix("./"), info.offset_data, info.size)
        except (tarfile.TarError, EOFError, UnicodeError, OverflowError) as error:
            raise ValueError(f"no tar file that can be read ({error})") from None


def _odd_kind(info: tarfile.TarInfo, size: int) -> str | None:
    """Return why a member is left out; None for one that is read."""
    name = info.name.removeprefix("./")
    if not info.isreg() or info.issparse():
        return "links and other members that are no files"
    if not 0 <= info.size <= BYTES or info.offset_data + info.size > size:
        return "members larger than any image, or cut off"
    if any(part in ("", ".", "..") for part in name.split("/")) or not name.isprintable():
        return "members with odd names"
    return None


@lru_cache(maxsize=OPEN_INDEXES)
def _index(file: Path, _mark: tuple[int, int, int]) -> dict[str, tuple[int, int]]:
    return {member.name: (member.offset, member.size) for member in walk_members(file)}


def read_member(file: Path, name: str) -> bytes:
    """Return the content of a member; of two with the same name, the last.

    Raises:
        OSError: the file cannot be read.
        KeyError: it has no such member, or is no tar file.
    """
    state = file.stat()
    try:
        offset, size = _index(file, (state.st_ino, state.st_size, state.st_mtime_ns))[name]
    except ValueError as error:
        raise KeyError(name) from error
    with open_regular(file) as opened:
        opened.seek(offset)
        return opened.read(size)
