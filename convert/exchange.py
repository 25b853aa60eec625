"""Exchange two folders in one step, so that at every moment either of them has its name.

Linux and macOS can do so on most disks, but Python has no call for it.

>>> exchange(Path("new"), Path("old"))  # doctest: +SKIP
True
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from pathlib import Path

LINUX_HERE, LINUX_EXCHANGE = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of fcntl.h and stdio.h
MACOS_SWAP = 2  # RENAME_SWAP of sys/stdio.h
# what a system or a disk that cannot do it answers
_CANNOT = {errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EPERM}


def exchange(one: Path, other: Path) -> bool:
    """Exchange the names of two folders of one disk.

    Returns:
        Whether it was done; False where the system or the disk cannot.

    Raises:
        OSError: it can, but may not, or a folder is not there.
    """
    names = os.fsencode(one), os.fsencode(other)
    try:
        library = ctypes.CDLL(None, use_errno=True)
        if sys.platform == "darwin":
            failed = library.renamex_np(*names, ctypes.c_uint(MACOS_SWAP))
        else:
            first, second = ((LINUX_HERE, name) for name in names)
            failed = library.renameat2(*first, *second, ctypes.c_uint(LINUX_EXCHANGE))
    except (OSError, AttributeError):  # no such library or function
        return False
    if not failed:
        return True
    number = ctypes.get_errno()
    if number in _CANNOT:
        return False
    raise OSError(number, os.strerror(number), str(other))
