"""Put one file in place without ever overwriting another: copy, move or link, in steps that can be killed anywhere.

A copy is made under a hidden name beside its place (a part) and renamed without overwriting. A move on one disk is a
rename; across disks it is a copy that is compared with the original before this is removed.

>>> move(Path("a.jpg"), Path("cat/a.jpg"), Path("cat/.sharpzo-1"))  # doctest: +SKIP
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

from sharpzo_mlx.runtime.renames import exchange, rename_new
from sharpzo_mlx.sorting.copying import copy_new, same_content, sync

_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EINVAL}


class ChangedError(OSError):
    """A file was changed while it was moved."""


def place_new(path: Path, free: Path) -> None:
    """Give a file another name of the same disk that nothing has: in one step, or by a second name, or a reserved one.

    Raises:
        FileExistsError: something has the name.
        OSError: it cannot be done, such as on another disk (EXDEV).
    """
    if rename_new(path, free):
        return
    try:
        os.link(path, free, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        _reserve(path, free)
    else:
        path.unlink()


def _reserve(path: Path, free: Path) -> None:
    """Rename over a file of our own that holds the name, for disks of memory cards, which can do nothing else."""
    with free.open("xb") as file:
        file.write(reservation(free))
    try:
        path.rename(free)
    except BaseException:
        if is_reserved(free):
            free.unlink()
        raise


def reservation(path: Path) -> bytes:
    """Return the content of a file that only holds a name."""
    return b"sharpzo-mlx sort: reserved " + os.fsencode(path.name)


def is_reserved(path: Path) -> bool:
    """Return whether a file only holds its name."""
    try:
        words = reservation(path)
        return not path.is_symlink() and path.stat().st_size == len(words) and path.read_bytes() == words
    except OSError:
        return False


def copy(source: Path, target: Path, part: Path) -> None:
    """Copy a file; raises what `copy_new` and `place_new` raise, and may leave the part."""
    copy_new(source, part)
    place_new(part, target)


def move(source: Path, target: Path, part: Path) -> None:
    """Move a file, also to another disk.

    Args:
        source: the file.
        target: a name that nothing has.
        part: a hidden name beside it; may be left after an error.

    Raises:
        FileExistsError: something has the name.
        OSError: it cannot be done, or the file was changed meanwhile; the source is there then.
    """
    try:
        place_new(source, target)
        return
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
    before = _state(source)
    copy_new(source, part)
    sync(part)
    if not same_content(source, part):
        raise ChangedError(errno.EIO, "was changed, or was not written as it was read", str(source))
    place_new(part, target)
    sync(target.parent)
    if _state(source) != before:
        target.unlink()
        raise ChangedError(errno.EIO, "was changed while it was moved", str(source))
    source.unlink()


def link(source: Path, target: Path) -> None:
    """Give a file, or the one that a link leads to, a second name; raises what `os.link` raises."""
    os.link(os.path.realpath(source), target)


def moved_link(source: Path, target: Path) -> str:
    """Return what a link must say at another place to lead to the same file."""
    words = os.readlink(source)
    if os.path.isabs(words):
        return words
    aim = os.path.join(os.path.realpath(source.parent), words)
    return os.path.relpath(aim, os.path.realpath(target.parent))


def replace_known(path: Path, old: bytes, part: Path) -> bool:
    """Replace a file by a part beside it, if it still has the bytes that are known.

    Returns:
        Whether it was replaced; else both are as they were.
    """
    if path.read_bytes() != old:
        return False
    if not exchange(part, path):
        part.replace(path)
    elif part.read_bytes() != old:  # somebody wrote between the two
        exchange(part, path)
        return False
    else:
        part.unlink()
    return True


def remove_part(part: Path) -> bool:
    """Remove a part if it is there; return whether it was."""
    if not os.path.lexists(part):  # on a read-only disk, unlink names that first
        return False
    part.unlink()
    return True


def _state(path: Path) -> tuple[int, int, int]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns, found.st_ino
