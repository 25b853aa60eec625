"""Label single images with a run.

>>> predict("runs/photo-m-0", "new.jpg", top=2)[0].labels  # doctest: +SKIP
(('dog', 0.91), ('horse', 0.05))
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx
import numpy as np

from sharpzo_mlx.clip.handle import Clip
from sharpzo_mlx.errors import UserError
from sharpzo_mlx.files import refuse_empty
from sharpzo_mlx.images.load import stream
from sharpzo_mlx.prompts.prompt import Prompt
from sharpzo_mlx.runs.model import open_model
from sharpzo_mlx.runs.run import Run

BATCH = 32


@dataclass(frozen=True)
class Prediction:
    """The labels of one image.

    Attributes:
        path: the file.
        labels: (class name, probability 0..1), the most probable first; empty where the image cannot be read.
        error: the reason, where it cannot be read.
    """

    path: Path
    labels: tuple[tuple[str, float], ...]
    error: str | None = None


def predict(
    run: Run | str | Path, paths: str | Path | Sequence[str | Path], *, top: int = 1, clip: Clip | None = None
) -> list[Prediction]:
    """Return the most probable labels of image files.

    Args:
        run: the run or its folder.
        paths: one image file, or several.
        top: labels for each image, at most the number of classes.
        clip: the checkpoint; None loads the one that the run names.

    Returns:
        One prediction for each path, in order.

    Raises:
        UserError: no image is given, or `top` is below 1.
    """
    run = run if isinstance(run, Run) else Run.load(run)
    paths = [paths] if isinstance(paths, (str, Path)) else paths
    if top < 1 or not paths:
        raise UserError(f"top {top}: at least 1" if top < 1 else "no image to predict: name at least one file")
    refuse_empty(*paths)
    prompt, clip = run.prompt, open_model(run, clip)
    found: dict[int, Prediction] = {}
    for batch in stream(paths, clip.config.preprocessor, batch_size=BATCH):
        for index, reason in batch.failed:
            found[index] = Prediction(Path(paths[index]), (), reason)
        if batch.indices:
            probabilities = np.array(mx.softmax(prompt.logits(clip.encode_pixels(batch.pixels)), axis=-1))
            for index, row in zip(batch.indices, probabilities, strict=True):
                found[index] = Prediction(Path(paths[index]), _top_labels(prompt, row, top))
    return [found[index] for index in range(len(paths))]


def _top_labels(prompt: Prompt, row: np.ndarray, top: int) -> tuple[tuple[str, float], ...]:
    return tuple((prompt.class_names[k], float(row[k])) for k in np.argsort(-row, kind="stable")[:top])
