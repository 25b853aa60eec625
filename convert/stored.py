"""List the models that were converted by their names, which stand in the cache, and remove one.

Only folders directly below the cache's folder of models are looked at, and only those that hold nothing but the files
of a conversion are removed.

>>> [model.name for model in stored_models()]  # doctest: +SKIP
['openai/clip-vit-base-patch16']
"""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from sharpzo_mlx.clip import catalog
from sharpzo_mlx.clip.checkpoint import CARD, CONFIG, WEIGHTS
from sharpzo_mlx.clip.model_card import read_licence
from sharpzo_mlx.errors import UserError, remedy, why
from sharpzo_mlx.files import models_folder, refuse_empty

from .output import OUR_FILES, UNFINISHED

LEFT_BY_FINDERS = (".DS_Store", "._")


@dataclass(frozen=True)
class Stored:
    """A model in the cache.

    Attributes:
        name: `owner/name` on the hub.
        folder: its folder.
        bytes: what its files take.
        licence: the licence of its weights, from its card or the list of known models; "" where neither names it.
    """

    name: str
    folder: Path
    bytes: int
    licence: str


def stored_models() -> list[Stored]:
    """Return the models in the cache, by name."""
    try:
        folders = [path for path in sorted(models_folder().iterdir()) if not path.name.startswith(".")]
    except OSError:
        return []
    return [_describe(path) for path in folders if _is_whole(path)]


def find_stored(name: str) -> Stored:
    """Return the model of a name in the cache: `owner/name`, its short name, or its folder's name.

    Raises:
        UserError: there is none; nothing outside of the cache is ever found.
    """
    refuse_empty(name)
    models = {model.name: model for model in stored_models()}
    by_folder = {model.folder.name: model for model in models.values()}
    if found := models.get(catalog.resolve(name)) or by_folder.get(name):
        return found
    here = f"here are {', '.join(models)}" if models else "none is here"
    raise UserError(f"{name}: no such model in {models_folder()}; {here}")


def remove_stored(model: Stored) -> None:
    """Remove a model's folder from the cache.

    Raises:
        UserError: the folder is a link or holds other files, or the disk refuses.
    """
    folder = model.folder
    if folder.is_symlink() or folder.parent != models_folder():
        raise UserError(f"{folder}: leads out of the cache; remove it by hand")
    others = [path.name for path in folder.iterdir() if not _is_ours(path)]
    if others:
        raise UserError(f"{folder}: holds {others[0]!r}, which no conversion has written; remove the folder by hand")
    try:
        _remove_at_once(folder)
    except OSError as error:
        advice = remedy(error, "check its permissions")
        raise UserError(f"{folder}: cannot be removed ({why(error)}); {advice}") from error


def _remove_at_once(folder: Path) -> None:
    """Rename a folder, as a conversion to its place names an unfinished one, and remove that.

    What is left where this is killed is not taken for a model, and the next conversion to the same place removes it.
    """
    hidden = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        folder.replace(hidden)
    except OSError:
        hidden.rmdir()
        raise
    try:
        shutil.rmtree(hidden)
    except OSError:
        if _is_whole(hidden):
            hidden.replace(folder)
        raise


def _is_whole(folder: Path) -> bool:
    return os.access(folder, os.X_OK) and (folder / WEIGHTS).is_file() and (folder / CONFIG).is_file()


def _is_ours(path: Path) -> bool:
    ours = path.name in OUR_FILES or UNFINISHED.fullmatch(path.name) or path.name.startswith(LEFT_BY_FINDERS)
    return bool(ours) and not path.is_dir()


def _describe(folder: Path) -> Stored:
    name = catalog.name_of(folder)
    known = catalog.find(name)
    licence = read_licence(folder / CARD) or (known.licence if known else "")
    size = sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
    return Stored(name, folder, size, licence)
