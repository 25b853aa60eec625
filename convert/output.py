"""Make the output folder of a conversion: never half-written, and never in place of something that is not ours.

A new folder is filled beside its place under a hidden name and renamed when it is whole, so that Ctrl-C or a full disk
change nothing. An existing folder is replaced only with `force`, and only when it is a model folder of this project and
holds nothing else. The new and the old folder are exchanged in one step; where the disk cannot, the old one is moved
aside first. What a killed conversion leaves, the next one to the same place removes or puts back.

>>> with fill(resolve(Path("m"), force=False)) as folder:  # doctest: +SKIP
...     (folder / "config.json").write_text("{}")
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sharpzo_mlx.clip.checkpoint import CARD, CONFIG, TOKENIZER, WEIGHTS
from sharpzo_mlx.clip.safetensors_file import read_header
from sharpzo_mlx.errors import UserError, is_gpu_error, notify, remedy, why
from sharpzo_mlx.files import check_spelling, expand, missing_folders, remove_empty, usual_mode
from sharpzo_mlx.runtime.renames import exchange
from sharpzo_mlx.runtime.unfinished import make_unfinished

OUR_FILES = frozenset({CARD, CONFIG, TOKENIZER, WEIGHTS})
UNFINISHED = re.compile("|".join(rf"\.{re.escape(Path(name).stem)}-.*" for name in sorted(OUR_FILES)))
_RANDOM = "[a-z0-9_]{8}"  # how mkdtemp ends a name


def resolve(output: Path, *, force: bool) -> Path:
    """Return the folder to make, once it is certain that it may be made.

    Raises:
        UserError: something exists at this path that may not be replaced, or nothing can be made there.
    """
    folder = expand(output)
    check_spelling(folder)
    if folder.is_symlink():  # replace the folder that a link points to, not the link
        folder = folder.resolve()
    _clear_up(folder.absolute())
    if folder.is_dir() and folder.samefile(os.curdir):  # it would be exchanged for another one
        raise UserError(f"{output}: is the current folder; choose another --output, such as {folder / 'm'}")
    _check_parent(folder.absolute())
    if not folder.exists():
        return folder
    if not folder.is_dir():
        raise UserError(f"{output}: is a file; choose another --output")
    if not _list_files(folder):
        return folder
    if not _is_ours(folder):
        raise UserError(f"{output}: exists and is not just a model folder of sharpzo-mlx; choose another --output")
    if not force:
        raise UserError(f"{output}: exists; choose another --output, or replace it with --force")
    return folder


def _check_parent(folder: Path) -> None:
    """Refuse a place where no folder can be made, before a checkpoint is downloaded; nothing is made for the check."""
    there = next(place for place in folder.parents if os.path.lexists(place))
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        advice = remedy(error, "choose another --output")
        raise UserError(f"{folder}: cannot be written ({there}: {why(error)}); {advice}") from error


def _list_files(folder: Path) -> set[str]:
    """Return the names in a folder without those that the Finder leaves in one that it has shown."""
    return {path.name for path in folder.iterdir() if path.name != ".DS_Store" and not path.name.startswith("._")}


def _is_ours(folder: Path) -> bool:
    """Tell whether a folder holds a converted model and nothing else."""
    if not _list_files(folder) <= OUR_FILES:
        return False
    try:
        return "fingerprint" in read_header(folder / WEIGHTS).metadata
    except UserError:
        return False


@contextmanager
def fill(folder: Path, *, force: bool = False) -> Iterator[Path]:
    """Yield an empty folder beside `folder`; rename it to `folder` when the block succeeds, else remove it.

    Args:
        folder: what `resolve` returned.
        force: replace a model folder that is there by then.

    Raises:
        UserError: the disk is full, the folder cannot be written to, or another conversion was sooner.
    """
    made = missing_folders(folder.parent)
    try:
        folder.absolute().parent.mkdir(parents=True, exist_ok=True)
        unfinished, lock = make_unfinished(folder.absolute())
    except OSError as error:
        remove_empty(made)
        advice = remedy(error, "choose another --output")
        raise UserError(f"{folder}: cannot be written ({error.strerror}); {advice}") from error
    try:
        yield unfinished
        read_header(unfinished / WEIGHTS)  # a full disk can cut a file short without an error
        unfinished.chmod(usual_mode(0o777))
        _swap(unfinished, folder.absolute(), force=force)
    except (OSError, RuntimeError) as error:  # MLX raises RuntimeError where a file cannot be written
        if is_gpu_error(error):
            raise
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error).partition("\n")[0]
        raise UserError(f"{folder}: cannot be written ({reason}); choose another --output") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
        os.close(lock)


def _clear_up(folder: Path) -> None:
    """Put back or remove what killed conversions to this place have left beside it."""
    leftover = re.compile(rf"\.{re.escape(folder.name)}-(old-)?{_RANDOM}")
    try:
        names = [name for name in os.listdir(folder.parent) if leftover.fullmatch(name)]
    except OSError:
        return
    for name in sorted(names):
        with suppress(OSError):
            _clear_up_one(folder.parent / name, folder)


def _clear_up_one(leftover: Path, folder: Path) -> None:
    """Put back the old folder where the new one did not take its place; remove any other whose writer is dead."""
    handle = os.open(leftover, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # OSError while its writer lives
        names = os.listdir(leftover)
        if any(name not in OUR_FILES and not UNFINISHED.fullmatch(name) for name in names):
            return  # not of a conversion
        if leftover.name.startswith(f".{folder.name}-old-") and not folder.exists() and _is_ours(leftover):
            leftover.rename(folder)
            notify(f"{folder}: put back after a conversion that was killed")
        else:
            for one in names:
                (leftover / one).unlink()  # OSError for a folder, which is not of a conversion either
            leftover.rmdir()
    finally:
        os.close(handle)


def _swap(unfinished: Path, folder: Path, *, force: bool) -> None:
    """Bring the new folder to its place, and the old one under a hidden name, which is removed.

    Raises:
        UserError: a folder that may not be replaced has come there meanwhile.
    """
    if not folder.exists() or not any(folder.iterdir()):
        try:
            unfinished.replace(folder)
            return
        except OSError as error:  # a rename replaces an empty folder only
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
    if _list_files(folder) and not (force and _is_ours(folder)):
        raise UserError(f"{folder}: another folder has come there meanwhile; choose another --output")
    if exchange(unfinished, folder):
        return  # what has the hidden name now is removed as an unfinished folder is
    aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}-old-", dir=folder.parent))
    folder.replace(aside)
    try:
        unfinished.replace(folder)
    except BaseException:
        aside.replace(folder)
        raise
    shutil.rmtree(aside, ignore_errors=True)
