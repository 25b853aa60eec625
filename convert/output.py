"""Make the output folder of a conversion: never half-written, and never in place of something that is not ours.

A new folder is filled beside its place under a hidden name and renamed when it is whole, so that Ctrl-C or a full disk
change nothing. An existing folder is replaced only with `force`, and only when it is a model folder of this project and
holds nothing else.

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
from sharpzo_mlx.errors import UserError, is_gpu_error, remedy
from sharpzo_mlx.files import check_spelling, missing_folders, remove_empty

OUR_FILES = frozenset({CARD, CONFIG, TOKENIZER, WEIGHTS})


def resolve(output: Path, *, force: bool) -> Path:
    """Return the folder to make, once it is certain that it may be made.

    Raises:
        UserError: something exists at this path that may not be replaced.
    """
    folder = output.expanduser()
    check_spelling(folder)
    if folder.is_symlink():  # replace the folder that a link points to, not the link
        folder = folder.resolve()
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
def fill(folder: Path) -> Iterator[Path]:
    """Yield an empty folder beside `folder`; rename it to `folder` when the block succeeds, else remove it.

    Raises:
        UserError: the disk is full, or the folder cannot be written to.
    """
    made = missing_folders(folder.parent)
    try:
        folder.absolute().parent.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.absolute().parent))
    except OSError as error:
        remove_empty(made)
        advice = remedy(error, "choose another --output")
        raise UserError(f"{folder}: cannot be written ({error.strerror}); {advice}") from error
    try:
        yield unfinished
        read_header(unfinished / WEIGHTS)  # a full disk can cut a file short without an error
        mask = os.umask(0)
        os.umask(mask)
        unfinished.chmod(0o777 & ~mask)
        _swap(unfinished, folder.absolute())
    except (OSError, RuntimeError) as error:  # MLX raises RuntimeError where a file cannot be written
        if is_gpu_error(error):
            raise
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error).partition("\n")[0]
        raise UserError(f"{folder}: cannot be written ({reason}); choose another --output") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _swap(unfinished: Path, folder: Path) -> None:
    """Rename the new folder to its place; an old one is moved aside first, and back if the rename fails."""
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
