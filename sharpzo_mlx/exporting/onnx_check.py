"""Run an exported ONNX file with onnxruntime and compare its answers with our own on a few images.

The images are some that the run has drawn, where they are still there, and some of noise, which are of no class.

>>> check_onnx(Path("photo.onnx"), run, clip, record, OnnxForm()).difference  # doctest: +SKIP
2.1e-06
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx
import numpy as np

from sharpzo_mlx.clip.handle import Clip
from sharpzo_mlx.errors import UserError, notify
from sharpzo_mlx.exporting.classifier import ClassifierRecord
from sharpzo_mlx.exporting.onnx_model import OnnxForm
from sharpzo_mlx.images.load import stream
from sharpzo_mlx.runs.run import Run

KNOWN, NOISE = 6, 2  # images of each kind
LARGEST = 1e-2  # difference of a probability that rounding explains; 1e-5 is common, sharp heads have more


@dataclass(frozen=True)
class Checked:
    """What a check found: how many images were compared, and the largest difference of a probability."""

    images: int
    difference: float


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
    pictures = _pictures(run, clip, record)
    features = clip.encode_pixels(pictures)
    expected = np.array(mx.softmax(run.prompt.logits(features), axis=-1))
    given = session.get_inputs()[0].name
    taken = np.array(features) if given == "feature" else as_input(pictures, form)
    (found,) = session.run(["probabilities"], {given: taken})
    difference = float(np.abs(found - expected).max())
    if not difference <= LARGEST:
        _complain(run, difference, form)
    return Checked(len(pictures), difference)


def _complain(run: Run, difference: float, form: OnnxForm) -> None:
    """Say that probabilities differ by more than rounding explains; only weights in half precision may."""
    if form.half and difference < 1:
        notify(f"{run.folder}: probabilities differ by up to {difference:.2g} with --dtype float16; float32 is exact")
        return
    raise UserError(
        f"{run.folder}: the exported graph gives other probabilities than this program, by {difference:.2g}; "
        "nothing was written: please report this"
    )


def as_input(pictures: np.ndarray, form: OnnxForm) -> np.ndarray:
    """Return pictures of bytes [N, H, W, 3] as a file of this form takes them."""
    if not form.floats:
        return pictures
    return (pictures.transpose(0, 3, 1, 2) / 255).astype(np.float32)


def _pictures(run: Run, clip: Clip, record: ClassifierRecord) -> np.ndarray:
    """Return images of the run and of noise as bytes [N, H, W, 3]."""
    noise = np.random.default_rng(0).integers(0, 256, (NOISE, *record.size, 3), dtype=np.uint8)
    known = [batch.pictures for batch in stream(_known(run), clip.config.preprocessor, workers=1) if len(batch.indices)]
    return np.concatenate([*known, noise])


def _known(run: Run) -> list[Path]:
    """Return some images that the run has drawn, evenly spaced, of those that are still there."""
    paths = list(_existing(run))
    return paths[:: max(1, len(paths) // KNOWN)][:KNOWN]


def _existing(run: Run) -> Iterator[Path]:
    for rows in run.record.images.by_split().values():
        for relative, _ in rows[:: max(1, len(rows) // KNOWN)]:
            if (path := Path(run.record.dataset) / relative).is_file():
                yield path
