"""Rename in one step without overwriting, and exchange two names so that at every moment either has its file.

Linux and macOS can do both on most disks, but Python has no call for them.

>>> exchange(Path("new"), Path("old"))  # doctest: +SKIP
True
>>> rename_new(Path("new"), Path("free"))  # doctest: +SKIP
True
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from pathlib import Path

LINUX_HERE, LINUX_NEW, LINUX_EXCHANGE = -100, 1, 2  # AT_FDCWD of fcntl.h, RENAME_NOREPLACE and _EXCHANGE of stdio.h
MACOS_SWAP, MACOS_NEW = 2, 4  # RENAME_SWAP and RENAME_EXCL of sys/stdio.h
# what a system or a disk that cannot do it answers
_CANNOT = {errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EPERM}


def exchange(one: Path, other: Path) -> bool:
    """Exchange the names of two files or folders of one disk.

    Returns:
        Whether it was done; False where the system or the disk cannot.

    Raises:
        OSError: it can, but may not, or one of them is not there.
    """
    return _rename(one, other, MACOS_SWAP if sys.platform == "darwin" else LINUX_EXCHANGE)


def rename_new(path: Path, free: Path) -> bool:
    """Give a file another name of the same disk, which nothing has.

    Returns:
        Whether it was done; False where the system or the disk cannot do so without overwriting.

    Raises:
        FileExistsError: something has the name.
        OSError: it can, but may not, the file is not there, or the name is on another disk (EXDEV).
    """
    return _rename(path, free, MACOS_NEW if sys.platform == "darwin" else LINUX_NEW)


def _rename(path: Path, other: Path, flag: int) -> bool:
    names = os.fsencode(path), os.fsencode(other)
    try:
        library = ctypes.CDLL(None, use_errno=True)
        if sys.platform == "darwin":
            failed = library.renamex_np(*names, ctypes.c_uint(flag))
        else:
            first, second = ((LINUX_HERE, name) for name in names)
            failed = library.renameat2(*first, *second, ctypes.c_uint(flag))
    except (OSError, AttributeError):  # no such library or function
        return False
    if not failed:
        return True
    number = ctypes.get_errno()
    if number in _CANNOT:
        return False
    raise OSError(number, os.strerror(number), str(other))
