"""Copy one file to a new name: as a clone where the disk can, else its bytes, with its times and attributes.

A clone shares its bytes with the original until one of them is changed, so that it takes no room and no time: APFS of
macOS, Btrfs and XFS of Linux have it.

>>> copy_new(Path("a.jpg"), Path("sorted/.part"))  # doctest: +SKIP
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import shutil
import sys
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from sharpzo_mlx.files import open_regular, sha256_of

BLOCK = 1 << 20  # bytes
LINUX_CLONE = 0x40049409  # FICLONE of linux/fs.h
MACOS_CLONE = 1 << 24  # COPYFILE_CLONE of copyfile.h: a clone, else a copy with all attributes; never overwrites


def digest_file(path: Path) -> str:
    """Return the SHA-256 of a regular file's content; OSError if it cannot be read."""
    with open_regular(path) as file:
        return sha256_of(file).hex()


def same_content(one: Path, other: Path) -> bool:
    """Return whether two files have the same bytes, links followed; False where one cannot be read.

    Raises:
        OSError: the first cannot be read.
    """
    with open_regular(one) as first:
        try:
            second = open_regular(other)
        except OSError:
            return False
        with second:
            if os.fstat(first.fileno()).st_size != os.fstat(second.fileno()).st_size:
                return False
            return _same_bytes(first, second)


def _same_bytes(first: BinaryIO, second: BinaryIO) -> bool:
    while block := first.read(BLOCK):
        if block != second.read(BLOCK):
            return False
    return not second.read(1)


def copy_new(source: Path, new: Path) -> None:
    """Copy a regular file to a name that nothing has, a link's target for a link.

    Raises:
        FileExistsError: something has the name.
        OSError: the file cannot be read, or the copy cannot be written; a part of it may be there.
    """
    if sys.platform == "darwin" and _copy_on_macos(source, new):
        return
    with open_regular(source) as file:
        handle = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(handle, "wb") as copy:
            if not _clone_on_linux(file.fileno(), handle):
                shutil.copyfileobj(file, copy, BLOCK)
    with suppress(OSError):  # a disk without owners' rights or attributes
        shutil.copystat(source, new)


def sync(path: Path) -> None:
    """Wait until a file's content, or a folder's names, are on the disk; on a Mac also out of the disk's own memory."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        full = getattr(fcntl, "F_FULLFSYNC", None)
        if full is not None:
            with suppress(OSError):  # a disk without it
                fcntl.fcntl(handle, full)
                return
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):  # folders of some network disks
            raise
    finally:
        os.close(handle)


def _clone_on_linux(source: int, copy: int) -> bool:
    if sys.platform != "linux":
        return False
    try:
        fcntl.ioctl(copy, LINUX_CLONE, source)
    except OSError:  # another disk, or one that cannot
        return False
    return True


def _copy_on_macos(source: Path, new: Path) -> bool:
    """Return whether the system's own call copied; False where it is missing."""
    with open_regular(source):  # refuses what is no file
        real = os.path.realpath(source)
    try:
        library = ctypes.CDLL(None, use_errno=True)
        failed = library.copyfile(os.fsencode(real), os.fsencode(new), None, ctypes.c_uint32(MACOS_CLONE))
    except (OSError, AttributeError):
        return False
    if failed:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(new))
    return True
