"""Use a run: accuracy on folders of images beside zero-shot, and labels for single images.

Only the image tower is needed: the run holds the tuned and the zero-shot classifier as class features. Folders may
hold a subset of the tuned classes; a class that was not tuned is an error. Features come from the same cache that
tuning fills.

>>> report = evaluate("runs/photo-m-0", ["sketch/"])  # doctest: +SKIP
>>> report.folders[0].tuned - report.folders[0].zero_shot  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx
import numpy as np

from sharpzo_mlx.datasets.folder import ImageSet, read_folder
from sharpzo_mlx.datasets.matching import match_classes
from sharpzo_mlx.encoder import Clip, load
from sharpzo_mlx.errors import UserError
from sharpzo_mlx.features import EncodeProgress, Features, encode_steps
from sharpzo_mlx.images import stream
from sharpzo_mlx.prompt import Prompt
from sharpzo_mlx.run import Run

PREDICT_BATCH = 32


@dataclass(frozen=True)
class FolderResult:
    """Accuracies (0..1) on one folder."""

    path: Path
    images: int
    zero_shot: float
    tuned: float
    skipped: int


@dataclass(frozen=True)
class Report:
    """Accuracies on every folder, in the order asked, and their plain means."""

    folders: tuple[FolderResult, ...]
    zero_shot: float
    tuned: float


@dataclass(frozen=True)
class Prediction:
    """The labels of one image, most probable first; `error` in their place where it cannot be read."""

    path: Path
    labels: tuple[tuple[str, float], ...]
    error: str | None = None


@dataclass(frozen=True)
class FolderProgress:
    """Images of one folder are being encoded."""

    path: Path
    done: int
    total: int


def open_model(run: Run, clip: Clip | None = None) -> Clip:
    """The checkpoint a run was tuned on: the one given, or the run's own folder.

    Raises:
        UserError: it is gone, or it is not the one that was tuned.
    """
    clip = clip or load(run.model_folder)
    if clip.fingerprint != run.record["model"]["fingerprint"]:
        raise UserError(f"{clip.folder}: not the model that {run.folder} was tuned on; convert that one again")
    return clip


def evaluate(run: Run | str | Path, folders: str | Path | Sequence[str | Path], *, clip: Clip | None = None) -> Report:
    """Accuracy of a run and of zero-shot on folders of images.

    Args:
        run: the run or its folder.
        folders: one folder of class folders, or several.
        clip: the checkpoint; None reads the one that the run names.

    Returns:
        The report.

    Raises:
        UserError: a folder cannot be used, or holds classes that were not tuned.
    """
    for event in evaluate_steps(run, folders, clip=clip):
        if isinstance(event, Report):
            return event
    raise AssertionError("evaluate_steps ends with the report")


def evaluate_steps(
    run: Run | str | Path, folders: str | Path | Sequence[str | Path], *, clip: Clip | None = None
) -> Iterator[FolderProgress | FolderResult | Report]:
    """As `evaluate`, with a record a batch, one a folder, and the report at the end."""
    run = run if isinstance(run, Run) else Run.load(run)
    folders = [folders] if isinstance(folders, (str, Path)) else folders
    if not folders:
        raise UserError("no folder to evaluate: name at least one folder of class folders")
    prompt, clip = run.prompt, open_model(run, clip)
    # all folders are checked before the first image is decoded
    sets = [(Path(folder), _matched(Path(folder), prompt)) for folder in folders]
    results = []
    for folder, images in sets:
        features = yield from _encode(clip, folder, images)
        results.append(_result(folder, prompt, features))
        yield results[-1]
    yield Report(
        folders=tuple(results),
        zero_shot=float(np.mean([result.zero_shot for result in results])),
        tuned=float(np.mean([result.tuned for result in results])),
    )


def _matched(folder: Path, prompt: Prompt) -> ImageSet:
    return match_classes(read_folder(folder), prompt.class_names, prompt.folders)


def _encode(clip: Clip, folder: Path, images: ImageSet) -> Generator[FolderProgress, None, Features]:
    steps = encode_steps(clip, images)
    while True:
        try:
            progress: EncodeProgress = next(steps)
        except StopIteration as end:
            features: Features = end.value
            return features
        yield FolderProgress(folder, progress.done, progress.total)


def _result(folder: Path, prompt: Prompt, features: Features) -> FolderResult:
    return FolderResult(
        path=folder,
        images=len(features.paths),
        zero_shot=_accuracy(prompt.zero_shot_features, features),
        tuned=_accuracy(prompt.class_features, features),
        skipped=len(features.skipped),
    )


def _accuracy(class_features: mx.array, features: Features) -> float:
    predicted = np.array(mx.argmax(features.embeddings @ class_features.T, axis=-1))
    return float(np.mean(predicted == features.labels))


def predict(
    run: Run | str | Path, paths: str | Path | Sequence[str | Path], *, top: int = 1, clip: Clip | None = None
) -> list[Prediction]:
    """Labels and probabilities of image files.

    Args:
        run: the run or its folder.
        paths: one image file, or several.
        top: labels an image, at most the number of classes.
        clip: the checkpoint; None reads the one that the run names.

    Returns:
        One prediction a path, in order; one that cannot be read has `error` set.

    Raises:
        UserError: no image given, or `top` below 1.
    """
    run = run if isinstance(run, Run) else Run.load(run)
    paths = [paths] if isinstance(paths, (str, Path)) else paths
    if top < 1 or not paths:
        raise UserError(f"top {top}: at least 1" if top < 1 else "no image to predict: name at least one file")
    prompt, clip = run.prompt, open_model(run, clip)
    found: dict[int, Prediction] = {}
    for batch in stream(paths, clip.config.preprocessor, batch_size=PREDICT_BATCH):
        for index, reason in batch.failed:
            found[index] = Prediction(Path(paths[index]), (), reason)
        if batch.indices:
            probabilities = _probabilities(prompt, clip.encode_pixels(batch.pixels))
            for index, row in zip(batch.indices, probabilities, strict=True):
                found[index] = Prediction(Path(paths[index]), _labels(prompt, row, top))
    return [found[index] for index in range(len(paths))]


def _probabilities(prompt: Prompt, embeddings: mx.array) -> np.ndarray:
    logits = prompt.logit_scale * (embeddings @ prompt.class_features.T)
    return np.array(mx.softmax(logits, axis=-1))


def _labels(prompt: Prompt, row: np.ndarray, top: int) -> tuple[tuple[str, float], ...]:
    return tuple((prompt.class_names[k], float(row[k])) for k in np.argsort(-row, kind="stable")[:top])
