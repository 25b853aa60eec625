"""The output folder: never half-written, never over something that is not ours.

A new folder is filled beside its place under a hidden name and renamed when it is whole, so Ctrl-C or a
full disk leave what was there. An existing folder is replaced only when asked for, and only when it is a
model folder of this project and holds nothing else.

>>> with fill(resolve(Path("m"), force=False)) as folder:  # doctest: +SKIP
...     (folder / "config.json").write_text("{}")
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sharpzo_mlx.clip.checkpoint import CARD, CONFIG, TOKENIZER, WEIGHTS
from sharpzo_mlx.clip.safetensors_file import read_header
from sharpzo_mlx.errors import UserError
from sharpzo_mlx.files import check_spelling, missing, remove_empty

OUR_FILES = frozenset({CARD, CONFIG, TOKENIZER, WEIGHTS, ".DS_Store"})


def resolve(output: Path, *, force: bool) -> Path:
    """The folder to make, once it is sure that it may be made there.

    Raises:
        UserError: something stands there that is not to be replaced.
    """
    folder = output.expanduser()
    check_spelling(folder)
    if folder.is_symlink():  # replace what a link leads to, not the link
        folder = folder.resolve()
    if not folder.exists():
        return folder
    if not folder.is_dir():
        raise UserError(f"{output}: a file stands there; choose another --output")
    if not any(folder.iterdir()):
        return folder
    if not _is_ours(folder):
        raise UserError(f"{output}: exists and is not just a model folder of sharpzo-mlx; choose another --output")
    if not force:
        raise UserError(f"{output}: exists; choose another --output, or replace it with --force")
    return folder


def _is_ours(folder: Path) -> bool:
    """True for a folder that holds a converted model and nothing besides."""
    if not {path.name for path in folder.iterdir()} <= OUR_FILES:
        return False
    try:
        return "fingerprint" in read_header(folder / WEIGHTS).metadata
    except UserError:
        return False


@contextmanager
def fill(folder: Path) -> Iterator[Path]:
    """Give an empty folder beside `folder`; put it in its place when the block ends well, else remove it.

    Raises:
        UserError: the disk is full, or the place cannot be written to.
    """
    made = missing(folder.parent)
    try:
        folder.absolute().parent.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.absolute().parent))
    except OSError as error:
        remove_empty(made)
        raise UserError(f"{folder}: cannot be written ({error.strerror}); choose another --output") from error
    try:
        yield unfinished
        read_header(unfinished / WEIGHTS)  # a full disk can cut a file short without an error
        mask = os.umask(0)
        os.umask(mask)
        unfinished.chmod(0o777 & ~mask)
        _swap(unfinished, folder.absolute())
    except (OSError, RuntimeError) as error:  # MLX raises RuntimeError where a file cannot be written
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error).partition("\n")[0]
        raise UserError(f"{folder}: cannot be written ({reason}); choose another --output") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _swap(unfinished: Path, folder: Path) -> None:
    """Rename the new folder into place; the old one is put aside first and comes back if that fails."""
    if not folder.exists() or not any(folder.iterdir()):
        unfinished.replace(folder)
        return
    aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}-old-", dir=folder.parent))
    folder.replace(aside)
    try:
        unfinished.replace(folder)
    except BaseException:
        aside.replace(folder)
        raise
    shutil.rmtree(aside, ignore_errors=True)
