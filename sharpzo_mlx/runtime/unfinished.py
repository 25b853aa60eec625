"""Make a hidden folder beside the place that it will have when it is whole.

>>> folder, lock = make_unfinished(Path("photo-web"))  # doctest: +SKIP
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path


def make_unfinished(place: Path, mark: str = "") -> tuple[Path, int]:
    """Return a new hidden folder beside a place, and its open handle, whose lock says that its writer lives.

    Args:
        place: where the folder goes later; its parent exists.
        mark: how the middle of the hidden name begins, behind the name of the place.

    Raises:
        OSError: the folder cannot be made.
    """
    while True:
        unfinished = Path(tempfile.mkdtemp(prefix=f".{place.name}-{mark}", dir=place.parent))
        try:
            handle = os.open(unfinished, os.O_RDONLY)
            with suppress(OSError):  # a disk without locks
                fcntl.flock(handle, fcntl.LOCK_EX)
        except BaseException:
            with suppress(OSError):
                unfinished.rmdir()
            raise
        if unfinished.exists():  # else another process has taken it for a leftover before it was locked
            return unfinished, handle
        os.close(handle)


def remove_unfinished(folder: Path) -> None:
    """Remove a hidden folder, also when Ctrl-C comes while it is removed."""
    try:
        shutil.rmtree(folder, ignore_errors=True)
    except KeyboardInterrupt:
        shutil.rmtree(folder, ignore_errors=True)
        raise
