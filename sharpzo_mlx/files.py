"""Write files whole or not at all, check that a folder can be written to, and name the cache folders.

A file is written under a temporary name beside its place and then renamed, so that a crash leaves the old file or the
new one, never a part. Outside the folders that the user names, only the cache folder is written to.

>>> atomic_write(Path("runs/x/run.json"), "{}")  # doctest: +SKIP
"""

from __future__ import annotations

import errno
import fcntl
import glob
import hashlib
import os
import stat
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from sharpzo_mlx.errors import UserError, remedy, why

CACHE_VARIABLE = "SHARPZO_MLX_CACHE"
DEFAULT_MODEL = "openai/clip-vit-base-patch16"
OWN = "sharpzo-"  # in the names of temporary files, so that no file of a user's is taken for one
WRITE_ERRORS = ("[write]", "[save_safetensors]")  # how MLX's errors of a file that cannot be written begin


def cache_folder() -> Path:
    """Return the cache folder: $SHARPZO_MLX_CACHE, else the platform's place for caches."""
    if named := os.environ.get(CACHE_VARIABLE):
        return expand(named)
    if sys.platform == "darwin":
        return expand("~/Library/Caches/sharpzo-mlx")
    return expand(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "sharpzo-mlx"


def expand(path: str | Path) -> Path:
    """Return a path with a home folder in place of `~` or `~NAME` at its beginning.

    What is called so in the current folder, such as `~old`, is meant itself if no user has that name.

    Raises:
        UserError: there is no such user, or this one has no home folder.
    """
    path = Path(path)
    try:
        return path.expanduser()
    except RuntimeError as error:
        name = path.parts[0]
        if name == "~":
            raise UserError(f"{path}: the home folder is not known; set HOME or name a path without ~") from error
        if os.path.lexists(name):
            return path
        raise UserError(f"{path}: no user and no folder is called {name}; name another path") from error


def models_folder() -> Path:
    """Return the folder of the models that were converted by their names."""
    return cache_folder() / "models"


def default_model_folder() -> Path:
    """Return the folder of the default model, where `convert` puts it and `tune` looks for it."""
    return models_folder() / DEFAULT_MODEL.replace("/", "--")


def root_of(dataset: str | Path) -> Path:
    """Return the folder that a data set's images lie in: itself, or the folder of the file that lists them."""
    path = Path(os.path.abspath(dataset))
    return path.parent if path.is_file() or (path.suffix and not path.exists()) else path


def refuse_empty(*paths: str | Path) -> None:
    """Refuse an empty string, which would mean the current folder as a path.

    Raises:
        UserError: one of the paths is empty.
    """
    if "" in paths:
        raise UserError("an empty path was given: name one, or . for the current folder")


def check_place(folder: Path, option: str = "--output") -> None:
    """Check that files can be written to a folder by writing one; everything made for the check is removed again.

    Args:
        folder: the folder for the files; it need not exist.
        option: which names another one.

    Raises:
        UserError: the folder cannot be made or written to.
    """
    made = missing_folders(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        advice = remedy(error, f"choose another {option}")
        raise UserError(f"{folder}: cannot be written to ({why(error)}); {advice}") from error
    finally:
        remove_empty(made)


def missing_folders(folder: Path) -> list[Path]:
    """Return those of a folder and its parents that do not exist, the innermost first."""
    return [place for place in (folder, *folder.parents) if not os.path.lexists(place)]


def remove_empty(folders: Iterable[Path]) -> None:
    """Remove those of the folders that exist and are empty, in the order given."""
    for folder in folders:
        with suppress(OSError):  # it does not exist, or is in use
            folder.rmdir()


def identify(path: str | Path) -> tuple[int, int] | str:
    """Return what tells a file or folder from every other: the numbers of its disk and of itself.

    Its spelling does not: macOS finds `Photos` under `photos`, and in both forms of Unicode. Where it is gone, or its
    disk has no such numbers, its real path.
    """
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return os.path.realpath(path)
    return (found.st_dev, found.st_ino) if found.st_ino else os.path.realpath(path)


def is_inside(path: str | Path, folder: str | Path) -> bool:
    """Return whether a path is a folder or lies in it, whatever the spelling of both and the links that lead there."""
    real, own = Path(os.path.realpath(path)), identify(folder)
    return any(identify(place) == own for place in (real, *real.parents))


def check_spelling(path: Path) -> None:
    """Refuse a path that is not UTF-8, because MLX cannot write a file there.

    Raises:
        UserError: the path is not UTF-8; the message shows it with escaped bytes.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        shown = os.fsencode(path).decode(errors="backslashreplace")
        raise UserError(f"{shown}: a name that is not UTF-8; choose another --output") from error


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`, and rename it to `path` after the block; remove it after an error.

    What killed processes left of the same file is removed first.

    Raises:
        OSError: the file cannot be written; its `filename` is `path`. MLX's error of a full disk becomes one too.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = _make_temporary(path)
    try:
        with naming(path, temporary):
            yield temporary
            temporary.chmod(usual_mode(0o666))
            temporary.replace(path)
    except RuntimeError as error:
        if not str(error).startswith(WRITE_ERRORS):
            raise
        raise _find_reason(temporary, path) from error
    finally:
        temporary.unlink(missing_ok=True)
        os.close(handle)


def usual_mode(most: int) -> int:
    """Return the permissions that the user's umask leaves of the most that a new file or folder may have."""
    mask = os.umask(0)
    os.umask(mask)
    return most & ~mask


def sha256_of(file: BinaryIO) -> bytes:
    """Return the SHA-256 of what is left of an open file, as 32 bytes."""
    found = hashlib.sha256()
    while block := file.read(1 << 20):
        found.update(block)
    return found.digest()


@contextmanager
def naming(path: Path, temporary: Path | None = None) -> Iterator[None]:
    """Let an OSError that names no file, or the temporary one, name `path`."""
    try:
        yield
    except OSError as error:
        if error.filename is None or error.filename == str(temporary):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def _make_temporary(path: Path) -> tuple[int, Path]:
    """Return an open new file beside a path, which is locked while its writer lives, and remove those that are not."""
    remove_leftovers(path, OWN)
    while True:
        try:
            # MLX's save functions insist on the suffix
            handle, name = tempfile.mkstemp(prefix=f".{path.stem}-{OWN}", suffix=path.suffix, dir=path.parent)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(path)) from error
        with suppress(OSError):  # a disk without locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        if os.path.exists(name):  # else another process has taken it for a leftover before it was locked
            return handle, Path(name)
        os.close(handle)


def _find_reason(temporary: Path, path: Path) -> OSError:
    """Return why MLX could not write a file, which it does not say: by writing more into it."""
    try:
        with temporary.open("ab") as file:
            file.write(bytes(1 << 20))
    except OSError as error:
        return OSError(error.errno, error.strerror, str(path))
    return OSError(errno.EIO, "could not be written whole", str(path))


def atomic_write(path: Path, data: bytes | str) -> None:
    """Write a file whole: under a temporary name first, which is then renamed.

    Args:
        path: the file; its folder is made if it is missing.
        data: bytes, or text to write as UTF-8; characters that UTF-8 cannot hold (from file names) become `?`.
    """
    with atomic_path(path) as temporary:
        temporary.write_bytes(data.encode("utf-8", "replace") if isinstance(data, str) else data)


def remove_leftovers(path: Path, mark: str = "") -> None:
    """Remove the temporary files that a process left beside `path` when it was killed while writing.

    A file whose writer lives is locked, and stays; so do all on a disk without locks.

    Args:
        path: the file that was to be written.
        mark: how the middle of their names begins.
    """
    for leftover in path.parent.glob(f".{glob.escape(path.stem)}-{mark}*{glob.escape(path.suffix)}"):
        with suppress(OSError):
            handle = os.open(leftover, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                leftover.unlink()
            finally:
                os.close(handle)


def open_regular(path: Path) -> BinaryIO:
    """Open a file for reading without ever waiting for a writer.

    What was opened is asked for its kind too, because the path may be another file's by then. A link is followed.

    Raises:
        OSError: the file cannot be opened, or is a folder, pipe, socket or device.
    """
    _refuse_odd(path.stat().st_mode, path)  # opening some devices does something already
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    try:
        _refuse_odd(os.fstat(handle).st_mode, path)
        os.set_blocking(handle, True)
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def _refuse_odd(mode: int, path: Path) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "not a regular file", str(path))
