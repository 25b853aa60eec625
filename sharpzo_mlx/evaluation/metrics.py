"""The metrics of a classifier on labelled images, made from what it says of each image.

Top-1 and top-5 accuracy, the mean of the classes' accuracies, the expected calibration error over 15 bins of equal
width (Guo et al., arXiv 1706.04599), and 95 % intervals by a paired bootstrap over images. Both classifiers are seen
on the same resampled images, so what is hard for both does not widen the interval of their difference. An image is one
of four cases (each classifier right or wrong), so resampling N images is one multinomial draw of the four counts.

>>> outcomes = find_outcomes(np.array(prompt.logits(embeddings)), labels, images)  # doctest: +SKIP
>>> measure(outcomes, labels).top1  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sharpzo_mlx.datasets.evaluation_sets import EvaluationSet
from sharpzo_mlx.rng import generator_for
from sharpzo_mlx.runs.json_record import Count, JsonRecord, Share, Text

RESAMPLES = 10_000
BINS = 15
TOP = 5


@dataclass(frozen=True)
class Outcomes:
    """What one classifier says of N images; arrays of shape [N].

    Attributes:
        correct: bool, whether the most probable class is the image's own.
        in_top5: bool, whether one of the five most probable classes is.
        confidence: float32, the probability of the most probable class.
        predicted: int32, the most probable class, as a position among the tuned classes.
    """

    correct: np.ndarray
    in_top5: np.ndarray
    confidence: np.ndarray
    predicted: np.ndarray

    @property
    def accuracy(self) -> float:
        """The share of images whose most probable class is their own, 0..1."""
        return float(self.correct.mean())


@dataclass(frozen=True)
class Metrics:
    """The figures of one classifier on one folder, 0..1.

    Attributes:
        top1: accuracy.
        top5: share of images with their class among the five most probable.
        per_class: mean of the classes' accuracies.
        ece: expected calibration error.
        interval: 95 % interval of `top1`.
    """

    top1: float
    top5: float
    per_class: float
    ece: float
    interval: tuple[float, float]


@dataclass(frozen=True)
class ClassResult(JsonRecord):
    """One class of a folder: its images, and the accuracy before and after tuning, 0..1."""

    name: Text
    images: Count
    zero_shot: Share
    tuned: Share


def predict_classes(logits: np.ndarray, images: EvaluationSet) -> np.ndarray:
    """Return the most probable of the competing classes for each image.

    Args:
        logits: [N, K], over all tuned classes.
        images: which of the K classes compete.

    Returns:
        [N] positions among the K tuned classes; the first of equals.
    """
    predicted: np.ndarray = images.candidates[logits[:, images.candidates].argmax(axis=1)]
    return predicted


def count_correct(logits: np.ndarray, labels: np.ndarray, images: EvaluationSet) -> int:
    """Return how many images are given their own class.

    Args:
        logits: [N, K], over all tuned classes.
        labels: [N] positions in the classes of `images`.
        images: which of the K classes compete, and the label that each stands for.
    """
    return int((images.owner[predict_classes(logits, images)] == labels).sum())


def find_outcomes(logits: np.ndarray, labels: np.ndarray, images: EvaluationSet) -> Outcomes:
    """Return what a classifier says of each image.

    Args:
        logits: [N, K], over all tuned classes.
        labels: [N] positions in the classes of `images`.
        images: which of the K classes compete, and the label that each stands for.
    """
    predicted = predict_classes(logits, images)
    logits = logits[:, images.candidates]  # [N, C]
    order = np.argsort(-logits, axis=1, kind="stable")[:, :TOP]
    stands_for = images.owner[images.candidates][order]  # [N, 5]
    shifted = logits - logits.max(axis=1, keepdims=True)
    return Outcomes(
        correct=images.owner[predicted] == labels,
        in_top5=(stands_for == labels[:, None]).any(axis=1),
        confidence=(1 / np.exp(shifted).sum(axis=1)).astype(np.float32),
        predicted=predicted.astype(np.int32),
    )


def join_outcomes(parts: Sequence[Outcomes]) -> Outcomes:
    """Return the outcomes of several batches of images as one."""
    names = ("correct", "in_top5", "confidence", "predicted")
    return Outcomes(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def measure(outcomes: Outcomes, labels: np.ndarray) -> Metrics:
    """Return the metrics of one classifier.

    Args:
        outcomes: what it says of N images.
        labels: [N].
    """
    per_class = class_accuracies(outcomes.correct, labels, int(labels.max()) + 1)
    return Metrics(
        top1=outcomes.accuracy,
        top5=float(outcomes.in_top5.mean()),
        per_class=float(per_class[~np.isnan(per_class)].mean()),
        ece=calibration_error(outcomes),
        interval=_interval(_resample(outcomes.correct, outcomes.correct)[0]),
    )


def class_accuracies(correct: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """Return the accuracy on each class.

    Args:
        correct: bool [N].
        labels: [N].
        classes: K.

    Returns:
        [K], NaN where a class has no images.
    """
    counts = np.bincount(labels, minlength=classes).astype(float)
    counts[counts == 0] = np.nan
    accuracies: np.ndarray = np.bincount(labels, weights=correct, minlength=classes) / counts
    return accuracies


def compare_classes(
    zero_shot: Outcomes, tuned: Outcomes, labels: np.ndarray, names: Sequence[str]
) -> tuple[ClassResult, ...]:
    """Return both accuracies on each class that has images, the lowest after tuning first."""
    counts = np.bincount(labels, minlength=len(names))
    before, after = (class_accuracies(one.correct, labels, len(names)) for one in (zero_shot, tuned))
    found = [
        ClassResult(names[k], int(counts[k]), float(before[k]), float(after[k]))
        for k in np.flatnonzero(counts).tolist()
    ]
    return tuple(sorted(found, key=lambda result: result.tuned))


def calibration_error(outcomes: Outcomes) -> float:
    """Return the mean distance between confidence and accuracy over bins of confidence, weighted by their images."""
    place = np.minimum((outcomes.confidence * BINS).astype(int), BINS - 1)
    gaps = np.bincount(place, weights=outcomes.correct - outcomes.confidence.astype(np.float64), minlength=BINS)
    return float(np.abs(gaps).sum() / len(place))


def difference_interval(zero_shot: Outcomes, tuned: Outcomes) -> tuple[float, float]:
    """Return the 95 % interval of tuned minus zero-shot accuracy, by the paired bootstrap over images."""
    before, after = _resample(zero_shot.correct, tuned.correct)
    return _interval(after - before)


def pooled_interval(changes: Sequence[np.ndarray]) -> tuple[float, float]:
    """Return the 95 % interval, over images, of the mean change of several runs on the same images.

    Args:
        changes: for each run [N]: 1 where only the tuned prompt is right, -1 where only zero-shot is, else 0.
    """
    values, counts = np.unique(np.sum(changes, axis=0, dtype=int), return_counts=True)
    images = int(counts.sum())
    drawn = generator_for(0, "bootstrap").multinomial(images, counts / images, size=RESAMPLES)
    return _interval(drawn @ values / (images * len(changes)))


def _interval(draws: np.ndarray) -> tuple[float, float]:
    """Return the 2.5 and 97.5 percentiles."""
    low, high = np.percentile(draws, (2.5, 97.5))
    return float(low), float(high)


def _resample(one: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the accuracies of both classifiers on the same resampled images, [RESAMPLES] each."""
    case = 2 * one.astype(int) + other
    counts = np.bincount(case, minlength=4)
    drawn = generator_for(0, "bootstrap").multinomial(len(case), counts / len(case), size=RESAMPLES) / len(case)
    return drawn[:, 2] + drawn[:, 3], drawn[:, 1] + drawn[:, 3]
