"""Where files go and how they are written: whole or not at all.

A file is written beside its place and renamed into it, so that a crash leaves the old file or the new
one, never half of one. The caches are the only places outside the user's folders that are ever written.

>>> atomic_write(Path("runs/x/run.json"), "{}")  # doctest: +SKIP
"""

from __future__ import annotations

import errno
import os
import stat
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from sharpzo_mlx.errors import UserError

CACHE_VARIABLE = "SHARPZO_MLX_CACHE"
DEFAULT_MODEL = "openai/clip-vit-base-patch16"


def cache_folder() -> Path:
    """The documented cache: $SHARPZO_MLX_CACHE, or the platform's place for caches."""
    if named := os.environ.get(CACHE_VARIABLE):
        return Path(named).expanduser()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "sharpzo-mlx"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sharpzo-mlx"


def default_model_folder() -> Path:
    """Where `sharpzo-mlx convert` without an output puts the default model, and where `tune` looks for it."""
    return cache_folder() / "models" / DEFAULT_MODEL.replace("/", "--")


def refuse_empty(*paths: str | Path) -> None:
    """Refuse an empty string, which as a path would be the current folder.

    Raises:
        UserError: one of them is empty.
    """
    if "" in paths:
        raise UserError("an empty path was given: name one, or . for the current folder")


def check_place(folder: Path) -> None:
    """Make sure that files can be written into a folder, by trying; nothing is left behind.

    Args:
        folder: where files shall go; it may be missing.

    Raises:
        UserError: it cannot be made, or not be written to.
    """
    made = missing(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise UserError(f"{folder}: cannot be written to ({reason}); choose another --output") from error
    finally:
        remove_empty(made)


def missing(folder: Path) -> list[Path]:
    """Of a folder and those above it, the ones that are not there; the innermost first."""
    return [place for place in (folder, *folder.parents) if not os.path.lexists(place)]


def remove_empty(folders: Iterable[Path]) -> None:
    """Remove those of these folders that were made and are empty, in this order."""
    for folder in folders:
        with suppress(OSError):  # not made after all, or in use
            folder.rmdir()


def check_spelling(path: Path) -> None:
    """Refuse a name that is not UTF-8: MLX can write no file there.

    Raises:
        UserError: with the name, its bytes escaped.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        shown = os.fsencode(path).decode(errors="backslashreplace")
        raise UserError(f"{shown}: a name that is not UTF-8; choose another --output") from error


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; rename it into place when the block ends well, else remove it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # the ending is kept because MLX's save functions insist on it
    handle, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def atomic_write(path: Path, data: bytes | str) -> None:
    """Write a whole file beside its place, then rename it into it.

    Args:
        path: where the file shall stand; its folder is made when it is missing.
        data: bytes, or text that is written as UTF-8; what is none (in a file's name) becomes `?`.
    """
    with atomic_path(path) as temporary:
        temporary.write_bytes(data.encode("utf-8", "replace") if isinstance(data, str) else data)


def remove_leftovers(path: Path) -> None:
    """Remove what a process that was killed while writing `path` left beside it."""
    for leftover in path.parent.glob(f".{path.stem}-*{path.suffix}"):
        leftover.unlink(missing_ok=True)


def open_regular(path: Path) -> BinaryIO:
    """Open a file for reading; OSError at a pipe, socket or device, whose reader may wait for ever."""
    mode = path.stat().st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):  # opening a folder has an error of its own
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return path.open("rb")
