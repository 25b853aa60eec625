"""Run an exported package with Core ML, which only a Mac has, and compare its answers with our own on a few images.

>>> check_coreml(Path("photo.mlpackage"), run, clip, record, half=False).difference  # doctest: +SKIP
3.2e-06
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sharpzo_mlx.clip.handle import Clip
from sharpzo_mlx.errors import UserError, one_line
from sharpzo_mlx.exporting.classifier import ClassifierRecord
from sharpzo_mlx.exporting.coreml_model import LABEL, PROBABILITIES, name_labels
from sharpzo_mlx.exporting.coreml_tools import ct, quiet
from sharpzo_mlx.exporting.sample import Checked, Sample, draw_sample, judge
from sharpzo_mlx.runs.run import Run


def check_coreml(path: Path, run: Run, clip: Clip, record: ClassifierRecord, *, half: bool) -> Checked:
    """Compare a package's probabilities, labels and rejections with ours.

    Args:
        path: the package.
        run, clip: the run and its checkpoint.
        record: the run's classifier.
        half: whether its image tower computes in half precision.

    Raises:
        UserError: Core ML cannot load it, its answers contradict themselves, or they differ from ours by more than
            rounding explains; a notice where that is of half precision.
    """
    sample = draw_sample(run, clip, record.size)
    try:
        with quiet():
            answers = _predict(load_package(path), sample)
        found = np.array([[answer[PROBABILITIES][name] for name in name_labels(record)] for answer in answers])
    except Exception as error:  # what Core ML raises has no kind of its own
        raise UserError(
            f"{run.folder}: Core ML cannot run the exported package ({one_line(str(error))}); please report this"
        ) from error
    if (problem := _find_contradiction(answers, found, record)) is not None:
        raise UserError(f"{run.folder}: the exported package contradicts itself, {problem}; please report this")
    checked = Checked(len(answers), float(np.abs(found - sample.probabilities).max()))
    judge(checked, run.folder, rounded=half)
    return checked


def load_package(path: Path) -> Any:
    """Return a package as Core ML has loaded it."""
    return ct.models.MLModel(str(path))


def _predict(model: Any, sample: Sample) -> list[dict[str, Any]]:
    if model.get_spec().description.input[0].name == "feature":
        return [model.predict({"feature": feature[None]}) for feature in sample.features]
    return [model.predict({"image": Image.fromarray(picture)}) for picture in sample.pictures]


def _find_contradiction(answers: list[dict[str, Any]], found: np.ndarray, record: ClassifierRecord) -> str | None:
    """Return what is wrong with labels or rejections in the light of the package's own numbers."""
    labels = name_labels(record)
    for answer, row in zip(answers, found, strict=True):
        if answer[PROBABILITIES][answer[LABEL]] < row.max():
            return f"its label is {answer[LABEL]} and not {labels[row.argmax()]}"
        if record.head is None:
            continue
        distance, rejected = (np.asarray(answer[name]).item() for name in ("distance", "rejected"))
        if bool(rejected) != (distance > record.head.farthest):
            return f"rejected is {rejected} at the distance {distance:.4g}"
    return None
