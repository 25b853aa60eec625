"""What tuning changed in a run, class by class and image by image, and the loss around its result.

The images are those of the test split, or of validation where there is no test split; their features come from the
cache. A run on very few images may have neither: then only the loss is left.

>>> analysis = analyse_run(Run.load("runs/photo-m-0"), clip)  # doctest: +SKIP
>>> analysis.confusion.trace() / analysis.confusion.sum() == run.results.test  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx
import numpy as np

from sharpzo_mlx.clip.handle import Clip
from sharpzo_mlx.datasets.image_set import ImageSet
from sharpzo_mlx.errors import notify
from sharpzo_mlx.evaluation.metrics import class_accuracies
from sharpzo_mlx.features.extract import Features, encode
from sharpzo_mlx.files import root_of
from sharpzo_mlx.report.landscape import Landscape, compute_landscape
from sharpzo_mlx.runs.run import Run

BLOCK = 4096  # images whose logits are in memory at once


@dataclass(frozen=True)
class ChangedImage:
    """One image, and the probability of its class before and after tuning.

    Attributes:
        path: the file.
        label: the class that it belongs to.
        before: probability of that class before tuning, 0..1.
        after: the same after tuning.
        predicted: the most probable class after tuning.
    """

    path: Path
    label: str
    before: float
    after: float
    predicted: str


@dataclass(frozen=True)
class RunAnalysis:
    """What tuning changed in a run.

    Attributes:
        split: "test" or "validation".
        confusion: [K, K] numbers of images, by class (rows) and prediction of the tuned prompt (columns).
        before: [K] zero-shot accuracy on each class; NaN where a class has no images.
        after: [K] the same of the tuned prompt.
        gained: images whose class became more probable, the largest change first.
        lost: images whose class became less probable, likewise.
        landscape: the loss around the result; None where it was not asked for, or where no words were tuned.
    """

    split: str
    confusion: np.ndarray
    before: np.ndarray
    after: np.ndarray
    gained: tuple[ChangedImage, ...]
    lost: tuple[ChangedImage, ...]
    landscape: Landscape | None

    @property
    def images(self) -> int:
        """The number of images that were compared; 0 if the run has neither test nor validation images."""
        return int(self.confusion.sum())


def analyse_run(run: Run, clip: Clip, *, landscape: bool = True, images: int = 6) -> RunAnalysis:
    """Compare the tuned prompt with zero-shot on the images of a run.

    Args:
        run: a run with a prompt.
        clip: the checkpoint that it was tuned on.
        landscape: whether to compute the loss around tuned words, some 150 queries.
        images: how many gained and how many lost images to name.

    Raises:
        UserError: the run has no prompt, or none of its images can be read.
    """
    split = "test" if run.record.images.test else "val"
    features = encode(clip, _drawn_images(run, split))
    labels, classes = features.labels, len(run.prompt.class_names)
    before, first = _probabilities(run.prompt.zero_shot_logits, features)
    after, second = _probabilities(run.prompt.logits, features)
    confusion = np.bincount(labels * classes + second, minlength=classes**2).reshape(classes, classes)
    order = np.argsort(before - after, kind="stable")
    changed = [_changed(run, features, row, before, after, second) for row in (*order[:images], *order[::-1][:images])]
    return RunAnalysis(
        split="test" if split == "test" else "validation",
        confusion=confusion,
        before=class_accuracies(first == labels, labels, classes),
        after=class_accuracies(second == labels, labels, classes),
        gained=tuple(one for one in changed[:images] if one.after > one.before),
        lost=tuple(one for one in changed[images:] if one.after < one.before),
        landscape=_search_landscape(run, clip) if landscape else None,
    )


def _search_landscape(run: Run, clip: Clip) -> Landscape | None:
    """Return the loss around the words of a run, or None where its head kept the plain words or it is not finite."""
    if run.prompt.head is not None and not mx.any(run.prompt.w != 0).item():
        return None
    plane = compute_landscape(run, clip, encode(clip, _drawn_images(run, "train")))
    if np.isfinite(plane.losses).all():
        return plane
    notify(f"{run.folder}: the loss around its result is not finite, so the page does not show it")
    return None


def _drawn_images(run: Run, split: str) -> ImageSet:
    rows = run.record.images.by_split()[split]
    return ImageSet(
        tuple(root_of(run.record.dataset) / path for path, _ in rows),
        tuple(label for _, label in rows),
        run.prompt.class_names,
        run.prompt.folders,
    )


def _probabilities(classifier: Callable[[mx.array], mx.array], features: Features) -> tuple[np.ndarray, np.ndarray]:
    """Return the probability of each image's own class, and the most probable class, [N] each."""
    own, predicted = [np.zeros(0, np.float32)], [np.zeros(0, np.int64)]
    for start in range(0, len(features.labels), BLOCK):
        logits = np.array(classifier(features.embeddings[start : start + BLOCK]))
        shares = np.exp(logits - logits.max(axis=1, keepdims=True))
        labels = features.labels[start : start + BLOCK]
        own.append(shares[np.arange(len(labels)), labels] / shares.sum(axis=1))
        predicted.append(logits.argmax(axis=1))
    return np.concatenate(own), np.concatenate(predicted)


def _changed(
    run: Run, features: Features, row: int, before: np.ndarray, after: np.ndarray, predicted: np.ndarray
) -> ChangedImage:
    names = run.prompt.class_names
    return ChangedImage(
        path=features.paths[row],
        label=names[features.labels[row]],
        before=float(before[row]),
        after=float(after[row]),
        predicted=names[predicted[row]],
    )
