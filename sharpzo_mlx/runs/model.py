"""The checkpoint that a run was tuned on.

>>> clip = open_model(Run.load("runs/photo-m-0"))  # doctest: +SKIP
"""

from __future__ import annotations

from sharpzo_mlx.clip import catalog
from sharpzo_mlx.clip.handle import Clip, load
from sharpzo_mlx.errors import UserError
from sharpzo_mlx.runs.run import PROMPT, Run


def open_model(run: Run, clip: Clip | None = None) -> Clip:
    """Return the checkpoint that a run was tuned on.

    Args:
        run: the run.
        clip: a checkpoint to use in place of the folder that the run names.

    Raises:
        UserError: the model's folder is gone (of a run from the hub: not converted yet) or has another model, or the
            run's prompt is missing or of another width.
    """
    named = run.name is not None or not run.record.model.folder  # a folder that a stranger's run names is not opened
    clip = clip or (_load_named(run) if named else _load_folder(run))
    if clip.fingerprint != run.record.model.fingerprint:
        again = f": sharpzo-mlx convert {run.record.model.source} --output FOLDER, then --model FOLDER"
        raise UserError(
            f"{clip.folder}: not the model that {run.name or run.folder} was tuned on; convert that one again"
            + (again if run.record.model.source else "")
        )
    width, own = run.prompt.class_features.shape[1], clip.config.projection_dim
    if width != own:
        raise UserError(
            f"{run.folder / PROMPT}: damaged (class_features of width {width}, the model's {own}); tune again"
        )
    return clip


def _load_folder(run: Run) -> Clip:
    """Open the model in the folder that a run on this machine names."""
    if not catalog.locate(run.model_folder).exists():
        raise UserError(
            f"{run.folder}: its model is not at {run.model_folder} any more; "
            "name its new folder with --model, or convert it again"
        )
    return load(run.model_folder)


def _load_named(run: Run) -> Clip:
    """Open the model that a run from the hub, or a copy of one, names, which must have been converted by its name."""
    source, what = run.record.model.source, run.name or run.folder
    if source is None:
        raise UserError(f"{what}: does not name its model; ask who made it, and give the folder with --model")
    if not (folder := catalog.place(source.split()[0])).is_dir():
        raise UserError(f"{what}: its model is not here; make it once: sharpzo-mlx convert {source}")
    return load(folder)
