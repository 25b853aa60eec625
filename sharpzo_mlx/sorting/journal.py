"""The journal of a sorting: what is about to be done is on the disk before it is done, so that it can be undone.

A JSON Lines file in `.sharpzo-sort/` of the folder that is sorted into. A line is written for each new folder, and one
for the files that travel together: an image and its sidecars, a group. `docs/reference/files.md` has the format.

>>> with locked(into), Journal.begin(into, folder, "copy") as journal:  # doctest: +SKIP
...     journal.write({"make": "cat"})
"""

from __future__ import annotations

import datetime
import fcntl
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from sharpzo_mlx.datasets.scan import JOURNALS
from sharpzo_mlx.errors import UserError
from sharpzo_mlx.files import naming
from sharpzo_mlx.runs.json_record import JsonRecord, PathText, Text
from sharpzo_mlx.sorting.copying import sync
from sharpzo_mlx.sorting.items import Mode
from sharpzo_mlx.sorting.transfer import place_new

NEW = ".new-"
FORMAT = "sharpzo-mlx sort journal 1"


@dataclass(frozen=True)
class Step(JsonRecord):
    """What is done with one file.

    Attributes:
        act: how; "link" is a second name, "symlink" a symbolic link.
        source: the file, below the folder that is sorted.
        target: its new place, below the folder that is sorted into; of a tag the sidecar.
        sha256: of the content that is put there, for copies, links and tags.
        inode: of the file that gets a second name.
        words: what a symbolic link says, at its new place.
        before: what a moved symbolic link said at its old place.
        old: the content of a tagged sidecar before, in base64; None if there was none.
        old_sha256, mtime_ns: the digest and the time of that content.
    """

    act: Literal["copy", "move", "link", "symlink", "tag"]
    source: PathText
    target: PathText
    sha256: Text | None = None
    inode: int | None = None
    words: PathText | None = None
    before: PathText | None = None
    old: str | None = None
    old_sha256: Text | None = None
    mtime_ns: int | None = None


@dataclass(frozen=True)
class Header(JsonRecord):
    """The first line of a journal.

    Attributes:
        format: `FORMAT`.
        key: a part of the names of the hidden files that this sorting makes.
        mode: how files were sorted.
        folder, into: the two folders, absolute.
        started: the time, in ISO 8601.
    """

    format: Text
    key: Text
    mode: Literal["copy", "move", "link", "symlink", "tag"]
    folder: PathText
    into: PathText
    started: Text


def part_name(key: str, group: int, number: int) -> str:
    """Return the hidden name of a file that is not in place yet."""
    return f".sharpzo-{key}-{group}-{number}"


def now() -> str:
    """Return the time in ISO 8601, to the second, with the zone."""
    return datetime.datetime.now().astimezone().isoformat(timespec="seconds")


class Journal:
    """A journal that is open for writing; use it in a `with` block.

    Attributes:
        path: the file.
        header: its first line.
        size: bytes that were written.
    """

    def __init__(self, path: Path, header: Header, handle: int, size: int) -> None:
        self.path, self.header = path, header
        self._handle, self.size = handle, size

    @classmethod
    def begin(cls, into: Path, folder: Path, mode: Mode) -> Journal:
        """Begin a journal in a folder, whose `.sharpzo-sort` is there; OSError if it cannot be written."""
        header = Header(FORMAT, secrets.token_hex(4), mode, os.path.abspath(folder), os.path.abspath(into), now())
        part = into / JOURNALS / f"{NEW}{header.key}"  # so that no journal is without its first line
        handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o644)
        journal = cls(part, header, handle, 0)
        try:
            journal.write(header.to_json())
            journal.path = _give_name(part)
            sync(part.parent)
        except BaseException:
            os.close(handle)
            part.unlink(missing_ok=True)
            raise
        return journal

    @classmethod
    def reopen(cls, path: Path, header: Header, size: int) -> Journal:
        """Go on with a journal whose whole lines take so many bytes; OSError if it cannot be written."""
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW)
        os.ftruncate(handle, size)
        return cls(path, header, handle, size)

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._handle)

    def write(self, record: dict[str, Any], *, wait: bool = True) -> None:
        """Write one line, whole or not at all.

        Args:
            record: the line.
            wait: whether to return only when it is on the disk.

        Raises:
            OSError: it cannot be written; its `filename` is the journal.
        """
        line = json.dumps(record).encode() + b"\n"
        with naming(self.path):
            try:
                left = line
                while left:  # a full disk takes a part first, and then says so
                    left = left[os.write(self._handle, left) :]
                if wait:
                    os.fsync(self._handle)
            except OSError:
                os.ftruncate(self._handle, self.size)
                raise
        self.size += len(line)


def _give_name(part: Path) -> Path:
    """Give a new journal the time as its name, and return its path."""
    stamp = datetime.datetime.now().strftime("%Y-%m-%dT%H-%M-%S")
    for number in count(1):
        path = part.with_name(f"{stamp}{f'-{number}' if number > 1 else ''}.jsonl")
        try:
            place_new(part, path)
            return path
        except FileExistsError:
            continue
    raise AssertionError("numbers do not end")


@contextmanager
def locked(into: Path) -> Iterator[bool]:
    """Keep other sortings out of a folder, whose `.sharpzo-sort` is made if it is missing, and removed if empty.

    Yields:
        Whether no other process is at work there; False on a disk without locks, where nobody knows.

    Raises:
        UserError: another process sorts there.
        OSError: the folder cannot be made or written to.
    """
    place = into / JOURNALS
    place.mkdir(parents=True, exist_ok=True)
    handle = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        alone = _lock(handle, into)
        for part in place.glob(f"{NEW}*") if alone else ():  # of a journal whose sorting was killed before it began
            part.unlink()
        try:
            yield alone
        finally:
            if alone:
                with suppress(OSError):
                    place.rmdir()
    finally:
        os.close(handle)


def _lock(handle: int, into: Path) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UserError(f"{into}: another sort is at work there; wait for its end") from None
    except OSError:  # a disk without locks; nothing is overwritten all the same
        return False
    return True
