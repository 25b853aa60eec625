"""The checkpoint that a run was tuned on.

>>> clip = open_model(Run.load("runs/photo-m-0"))  # doctest: +SKIP
"""

from __future__ import annotations

from sharpzo_mlx.clip.handle import Clip, load
from sharpzo_mlx.errors import UserError
from sharpzo_mlx.runs.run import PROMPT, Run


def open_model(run: Run, clip: Clip | None = None) -> Clip:
    """Return the checkpoint that a run was tuned on.

    Args:
        run: the run.
        clip: a checkpoint to use in place of the folder that the run names.

    Raises:
        UserError: the model's folder is gone or has another model, or the run's prompt is missing or of another width.
    """
    clip = clip or load(run.model_folder)
    if clip.fingerprint != run.record.model.fingerprint:
        raise UserError(f"{clip.folder}: not the model that {run.folder} was tuned on; convert that one again")
    width, own = run.prompt.class_features.shape[1], clip.config.projection_dim
    if width != own:
        raise UserError(
            f"{run.folder / PROMPT}: damaged (class_features of width {width}, the model's {own}); tune again"
        )
    return clip
