"""Take one step of a sorting back, whatever of it was done: what is there now decides.

Each function returns True if it changed something, False if nothing was to do, or the reason why a file stays.

>>> take_back(step, Path("new/a.jpg"), Path("sorted/cat/a.jpg"), Path("sorted/cat/.sharpzo-1"))  # doctest: +SKIP
True
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
from contextlib import suppress
from pathlib import Path

from sharpzo_mlx.errors import why
from sharpzo_mlx.sorting.copying import digest_file, same_content
from sharpzo_mlx.sorting.journal import Step
from sharpzo_mlx.sorting.transfer import is_reserved, move, remove_part, replace_known

Took = bool | str
CHANGED = "was changed since"
NO_ORIGINAL = "its original is gone"
OTHER_ORIGINAL = "its original has another content by now"
NEW_FILE = "a new file has its old name"
DAMAGED = "was not kept whole in the journal"
GONE = "is gone, moved or removed since"


def take_back(step: Step, source: Path, target: Path, part: Path) -> Took:
    """Take a step back.

    Args:
        step: what was about to be done.
        source: the file that it was done to.
        target: where that was put.
        part: the hidden name of a file that was not in place yet.

    Raises:
        OSError: the disk does not allow it.
    """
    if step.act == "move":
        return _undo_moved_link(step, source, target) if step.before is not None else _undo_move(source, target, part)
    if step.act == "tag":
        return _undo_tag(step, target, part)
    if step.act == "symlink":
        return _undo_symlink(step, target)
    return _undo_copy(step, source, target, part)


def _undo_copy(step: Step, source: Path, target: Path, part: Path) -> Took:
    if os.path.lexists(part):  # it was not renamed, so what has its name is another's, but for a second name of it
        ours = _same_file(part, target) or is_reserved(target)
        part.unlink()
        if not ours:
            return True
        target.unlink()
        return True
    if not os.path.lexists(target):
        return False
    if is_reserved(target):
        target.unlink()
        return True
    if target.is_symlink() or (step.inode is not None and target.stat().st_ino != step.inode):
        return CHANGED
    try:
        if digest_file(target) != step.sha256:
            return CHANGED
        if not source.exists() or os.path.realpath(source) == os.path.realpath(target):
            return NO_ORIGINAL
        if not same_content(source, target):  # another file may have its name by now, as cameras count anew
            return OTHER_ORIGINAL
    except OSError as error:
        return f"cannot be read ({why(error)})"
    target.unlink()
    return True


def _undo_symlink(step: Step, target: Path) -> Took:
    if not os.path.lexists(target):
        return False
    if not target.is_symlink() or os.readlink(target) != step.words:
        return CHANGED
    target.unlink()
    return True


def _undo_moved_link(step: Step, source: Path, target: Path) -> Took:
    if not target.is_symlink() or os.readlink(target) != step.words:
        return False if os.path.lexists(source) else CHANGED if os.path.lexists(target) else GONE
    if not os.path.lexists(source):
        assert step.before is not None
        source.parent.mkdir(parents=True, exist_ok=True)
        os.symlink(step.before, source)
    elif not (source.is_symlink() and os.readlink(source) == step.before):
        return NEW_FILE
    target.unlink()
    return True


def _undo_move(source: Path, target: Path, part: Path) -> Took:
    # it was on the way to another disk, so that the file itself is where it was; except when it is on its way back
    waiting = remove_part(part)
    remove_part(source.with_name(part.name))
    if is_reserved(target):
        target.unlink()
        return True
    if is_reserved(source):
        source.unlink()
    if not os.path.lexists(target):
        return waiting if os.path.lexists(source) else GONE
    if os.path.lexists(source):
        if _same_file(source, target):  # two names of one file
            target.unlink()
            return True
        if waiting:
            return True
        if source.is_symlink() or _same_disk(source, target) or not same_content(source, target):
            return NEW_FILE
        target.unlink()
        return True
    source.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):
        move(target, source, source.with_name(part.name))
        return True
    remove_part(source.with_name(part.name))
    return NEW_FILE


def _undo_tag(step: Step, target: Path, part: Path) -> Took:
    waiting = remove_part(part)
    if not os.path.lexists(target):
        return waiting if step.old is None else GONE
    try:
        old = None if step.old is None else base64.b64decode(step.old, validate=True)
        if old is not None and target.read_bytes() == old:
            return waiting
        if target.is_symlink() or digest_file(target) != step.sha256:
            return CHANGED
        if old is not None and hashlib.sha256(old).hexdigest() != step.old_sha256:
            return DAMAGED
    except (OSError, binascii.Error) as error:
        return f"cannot be read ({error})"
    if old is None:
        target.unlink()
        return True
    return _write_old(step, target, part, old) or CHANGED


def _write_old(step: Step, target: Path, part: Path, old: bytes) -> bool:
    new = target.read_bytes()
    with part.open("xb") as file:
        file.write(old)
    with suppress(OSError):
        os.chmod(part, target.stat().st_mode & 0o7777)
    if step.mtime_ns is not None:
        os.utime(part, ns=(step.mtime_ns, step.mtime_ns))
    if not replace_known(target, new, part):
        part.unlink()
        return False
    return True


def _same_file(one: Path, other: Path) -> bool:
    try:
        return os.path.samestat(os.lstat(one), os.lstat(other))
    except OSError:
        return False


def _same_disk(one: Path, other: Path) -> bool:
    return os.lstat(one).st_dev == os.lstat(other).st_dev
