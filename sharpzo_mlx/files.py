"""Where files go and how they are written: whole or not at all.

A file is written beside its place and renamed into it, so that a crash leaves the old file or the new
one, never half of one. The caches are the only places outside the user's folders that are ever written.

>>> atomic_write(Path("runs/x/run.json"), "{}")  # doctest: +SKIP
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

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


def check_place(folder: Path) -> None:
    """Make sure that files can be written into a folder, by trying; nothing is left behind.

    Args:
        folder: where files shall go; it may be missing.

    Raises:
        UserError: it cannot be made, or not be written to.
    """
    made = [place for place in (folder, *folder.parents) if not os.path.lexists(place)]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise UserError(f"{folder}: cannot be written to ({reason}); choose another --output") from error
    finally:
        with suppress(OSError):  # the first that cannot be removed was not made, or is in use
            for place in made:
                place.rmdir()


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
        data: bytes, or text that is written as UTF-8.
    """
    with atomic_path(path) as temporary:
        temporary.write_bytes(data.encode("utf-8") if isinstance(data, str) else data)


def remove_leftovers(path: Path) -> None:
    """Remove what a process that was killed while writing `path` left beside it."""
    for leftover in path.parent.glob(f".{path.stem}-*{path.suffix}"):
        leftover.unlink(missing_ok=True)
