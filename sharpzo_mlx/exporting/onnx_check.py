"""Run an exported ONNX file with onnxruntime and compare its answers with our own on a few images.

>>> check_onnx(Path("photo.onnx"), run, clip, record, OnnxForm()).difference  # doctest: +SKIP
2.1e-06
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sharpzo_mlx.clip.handle import Clip
from sharpzo_mlx.exporting.classifier import ClassifierRecord
from sharpzo_mlx.exporting.onnx_model import OnnxForm
from sharpzo_mlx.exporting.sample import Checked, draw_sample, judge
from sharpzo_mlx.runs.run import Run


def check_onnx(path: Path, run: Run, clip: Clip, record: ClassifierRecord, form: OnnxForm) -> Checked:
    """Compare a file's probabilities with ours.

    Args:
        path: the file.
        run, clip: the run and its checkpoint.
        record: the run's classifier.
        form: what the file takes, and how it stores weights.

    Raises:
        UserError: they differ by more than rounding explains; a notice where weights are in half precision.
        ImportError: onnxruntime is not installed.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    sample = draw_sample(run, clip, record.size)
    given = session.get_inputs()[0].name
    taken = sample.features if given == "feature" else as_input(sample.pictures, form)
    (found,) = session.run(["probabilities"], {given: taken})
    checked = Checked(len(sample.pictures), float(np.abs(found - sample.probabilities).max()))
    judge(checked, run.folder, rounded=form.half)
    return checked


def as_input(pictures: np.ndarray, form: OnnxForm) -> np.ndarray:
    """Return pictures of bytes [N, H, W, 3] as a file of this form takes them."""
    if not form.floats:
        return pictures
    return (pictures.transpose(0, 3, 1, 2) / 255).astype(np.float32)
