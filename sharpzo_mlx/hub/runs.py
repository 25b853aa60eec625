"""Load a run by its folder, or by its name on the hub.

A run on the hub is two files, run.json and prompt.safetensors. They are a stranger's and are read as every run is. Only
what cannot be a path here is asked for on the hub, so that a mistyped folder is never sent over the network. Whatever
images such a run names, they are none of this machine's.

>>> load_run("owner/pets").results.test  # doctest: +SKIP
0.93
"""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from sharpzo_mlx.clip import catalog
from sharpzo_mlx.errors import UserError, notify
from sharpzo_mlx.hub.download import Kind, Reader, fetch
from sharpzo_mlx.runs.record import UNSAID
from sharpzo_mlx.runs.run import PROMPT, RECORD, Run

LARGEST = 1 << 30  # bytes of a file of a run; 1000 classes with a head of width 1024 take 25 MB
KIND = Kind("run", (RECORD,), f"{RECORD} and {PROMPT}", LARGEST)
LOCAL = "runs"  # where `tune` writes: never a name on the hub


def load_run(run: str | Path, *, progress: bool = False) -> Run:
    """Load a run.

    Args:
        run: the folder that `tune` wrote, or the name `owner/name` of a run that `sharpzo-mlx upload` sent to the hub.
            A path comes before a name, and `a/b` is a path where there is a folder `a`.
        progress: let a download draw progress bars.

    Returns:
        The run. Its folder is the hub's cache where it was downloaded, and is not written to.

    Raises:
        UserError: there is no such run, it cannot be downloaded, or it is damaged.
    """
    name = str(run)
    if not is_name(name):
        return Run.load(run)
    folder = fetch(name, _choose, kind=KIND, progress=progress)
    found = _read(name, folder)
    found.name = name
    found.record = replace(found.record, dataset=UNSAID, images=found.record.images.without_names())
    notify(f"{name}: a run from the hub, commit {folder.name[:12]}")
    return found


def _read(name: str, folder: Path) -> Run:
    """Read a downloaded run; an error calls it by its name, and has the remedy of one who did not make it."""
    try:
        found = Run.load(folder)
        if not found.finished:
            raise UserError("a run that is not finished")
        _ = found.prompt
    except UserError as error:
        said = str(error).replace(f"{folder}/", "")
        raise UserError(f"{name}: {said.rpartition('; ')[0] or said}; ask who made it") from error
    return found


def is_name(text: str) -> bool:
    """Tell whether a text is looked for on the hub: a name that is no path and does not begin with a folder's."""
    owner = text.partition("/")[0]
    return bool(catalog.HUB_NAME.fullmatch(text)) and owner != LOCAL and not os.path.lexists(owner)


def _choose(names: Collection[str], _: Reader) -> list[str]:
    if RECORD in names and PROMPT in names:
        return [RECORD, PROMPT]
    if "config.json" in names:
        raise UserError("a model, not a run; use it with `sharpzo-mlx convert` and `tune --model`")
    raise UserError(f"no run there ({RECORD if PROMPT in names else PROMPT} is missing); check the name")
