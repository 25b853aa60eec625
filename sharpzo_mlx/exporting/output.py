"""Make the file or folder of an export: whole or not at all, and never in place of something else.

All is written into a hidden folder beside the place and moved there when it is whole. What a killed export leaves, the
next one to the same place removes.

>>> with make_file(Path("photo.onnx")) as unfinished:  # doctest: +SKIP
...     unfinished.write_bytes(b"...")
"""

from __future__ import annotations

import fcntl
import glob
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sharpzo_mlx.errors import UserError, remedy, why
from sharpzo_mlx.files import OWN, check_spelling, expand, missing_folders, remove_empty, usual_mode
from sharpzo_mlx.runtime.unfinished import make_unfinished, remove_unfinished

_TAKEN = "exists; choose another --output, or remove it"


def resolve(output: str | Path, *, folder: bool = True) -> Path:
    """Return the place to write to, once it is certain that nothing is there.

    Args:
        output: the place.
        folder: whether a folder is written, or a package, which may take the place of an empty folder; else a file.

    Raises:
        UserError: something but an empty folder exists there, or a folder where a file is written, or its name is not
            UTF-8.
    """
    place = expand(output)
    check_spelling(place)
    if os.path.lexists(place) and not _is_empty(place):
        raise UserError(f"{output}: {_TAKEN}")
    if place.is_dir() and not folder:
        raise UserError(f"{output}: a folder; name the file to write, such as {place / 'classifier.onnx'}")
    return place


def _is_empty(place: Path) -> bool:
    return place.is_dir() and not place.is_symlink() and not any(place.iterdir())


@contextmanager
def make_file(place: Path) -> Iterator[Path]:
    """Yield the path of a file to write; move it to its place when the block succeeds, with what lies beside it.

    A package, which is a folder with the name of a file, is written and moved alike; nothing may lie beside it.

    Args:
        place: what `resolve` returned. A second file, such as weights outside of a graph, begins with its name.

    Raises:
        UserError: something is at the place by now, or it cannot be written to.
    """
    with _unfinished(place) as folder:
        yield folder / place.name
        moved: list[Path] = []
        try:
            for one in sorted(folder.iterdir(), key=lambda path: path.name == place.name):  # the file itself comes last
                target = place.with_name(one.name)
                _refuse_taken(target)
                one.replace(target)
                moved.append(target)
        except BaseException:
            for one in moved:
                one.unlink(missing_ok=True)
            raise


@contextmanager
def make_folder(place: Path) -> Iterator[Path]:
    """Yield a folder to fill; move it to its place when the block succeeds.

    Raises:
        UserError: something is at the place by now, or it cannot be written to.
    """
    with _unfinished(place) as folder:
        yield folder
        _refuse_taken(place)
        folder.chmod(usual_mode(0o777))
        folder.replace(place)


def _refuse_taken(place: Path) -> None:
    if os.path.lexists(place) and not _is_empty(place):
        raise UserError(f"{place}: {_TAKEN}")


@contextmanager
def _unfinished(place: Path) -> Iterator[Path]:
    """Yield a new hidden folder beside a place, and remove it in the end; errors of the disk become one line."""
    place = place.absolute()
    made = missing_folders(place.parent)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        _clear_up(place)
        folder, handle = make_unfinished(place, OWN)
    except OSError as error:
        remove_empty(made)
        raise _cannot_write(place, error) from error
    try:
        yield folder
    except OSError as error:
        raise _cannot_write(place, error) from error
    finally:
        os.close(handle)
        remove_unfinished(folder)
        remove_empty(made)


def _cannot_write(place: Path, error: OSError) -> UserError:
    return UserError(f"{place}: cannot be written ({why(error)}); {remedy(error, 'choose another --output')}")


def _clear_up(place: Path) -> None:
    """Remove what killed exports to a place have left; the folder of one that lives is locked."""
    for leftover in place.parent.glob(f".{glob.escape(place.name)}-{OWN}*"):
        with suppress(OSError):
            handle = os.open(leftover, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # OSError while its writer lives
                shutil.rmtree(leftover)
            finally:
                os.close(handle)
