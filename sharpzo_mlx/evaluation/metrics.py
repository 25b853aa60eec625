"""Judging classifiers on encoded images: right or wrong for every image, and the figures made of that.

Top-1, top-5, the mean over classes, the expected calibration error over 15 bins of equal width (Guo et al., arXiv
1706.04599), and 95 % intervals by a paired bootstrap over images: both classifiers are seen on the same resampled
images, so what is hard for both does not widen the interval of their difference. An image is one of four cases
(each classifier right or wrong), so resampling N images is one multinomial draw of the four counts.

>>> judged = judge(np.array(prompt.logits(embeddings)), labels, scored)  # doctest: +SKIP
>>> measure(judged, labels).top1  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sharpzo_mlx.datasets.evaluation_sets import ScoredSet
from sharpzo_mlx.rng import generator_for

RESAMPLES = 10_000
BINS = 15
TOP = 5


@dataclass(frozen=True)
class Judged:
    """One classifier on N images: [N] each."""

    right: np.ndarray  # bool: the most probable class is the image's
    among: np.ndarray  # bool: one of the five most probable is
    confidence: np.ndarray  # float32: probability of the most probable
    predicted: np.ndarray  # int32: its position among the tuned classes


@dataclass(frozen=True)
class Measures:
    """What one classifier does on one folder, 0..1."""

    top1: float
    top5: float
    per_class: float  # mean of the classes' accuracies
    ece: float
    interval: tuple[float, float]  # of top1


@dataclass(frozen=True)
class ClassResult:
    """One class of a folder."""

    name: str
    images: int
    zero_shot: float
    tuned: float


def judge(logits: np.ndarray, labels: np.ndarray, scored: ScoredSet) -> Judged:
    """See what a classifier says of images.

    Args:
        logits: [N, K], of all tuned classes.
        labels: [N] positions in the scored set's own classes.
        scored: which of the K classes compete, and the label each stands for.
    """
    chosen = scored.candidates
    logits = logits[:, chosen]  # [N, C]
    order = np.argsort(-logits, axis=1, kind="stable")[:, :TOP]
    stands_for = scored.owner[chosen][order]  # [N, 5]
    matches = stands_for == labels[:, None]
    shifted = logits - logits.max(axis=1, keepdims=True)
    return Judged(
        right=matches[:, 0],
        among=matches.any(axis=1),
        confidence=(1 / np.exp(shifted).sum(axis=1)).astype(np.float32),
        predicted=chosen[order[:, 0]].astype(np.int32),
    )


def joined(parts: Sequence[Judged]) -> Judged:
    """Several batches as one."""
    names = ("right", "among", "confidence", "predicted")
    return Judged(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def measure(judged: Judged, labels: np.ndarray) -> Measures:
    """The figures of one classifier; labels [N]."""
    counts = np.bincount(labels)
    rights = np.bincount(labels, weights=judged.right, minlength=len(counts))
    present = counts > 0
    return Measures(
        top1=float(judged.right.mean()),
        top5=float(judged.among.mean()),
        per_class=float((rights[present] / counts[present]).mean()),
        ece=calibration_error(judged),
        interval=interval(_resampled(judged.right, judged.right)[0]),
    )


def calibration_error(judged: Judged) -> float:
    """Mean distance of confidence and accuracy over bins of confidence, weighted by their images."""
    place = np.minimum((judged.confidence * BINS).astype(int), BINS - 1)
    gaps = np.bincount(place, weights=judged.right - judged.confidence.astype(np.float64), minlength=BINS)
    return float(np.abs(gaps).sum() / len(place))


def difference_interval(zero_shot: Judged, tuned: Judged) -> tuple[float, float]:
    """95 % interval of tuned minus zero-shot accuracy, by the paired bootstrap over images."""
    before, after = _resampled(zero_shot.right, tuned.right)
    return interval(after - before)


def pooled_interval(changes: Sequence[np.ndarray]) -> tuple[float, float]:
    """95 % interval over images of the mean change of several runs on the same images.

    Args:
        changes: for each run [N]: 1 where only the tuned prompt is right, -1 where only zero-shot is, else 0.
    """
    values, counts = np.unique(np.sum(changes, axis=0, dtype=int), return_counts=True)
    images = int(counts.sum())
    drawn = generator_for(0, "bootstrap").multinomial(images, counts / images, size=RESAMPLES)
    return interval(drawn @ values / (images * len(changes)))


def interval(draws: np.ndarray) -> tuple[float, float]:
    """The 2.5 and 97.5 percentiles."""
    low, high = np.percentile(draws, (2.5, 97.5))
    return float(low), float(high)


def _resampled(one: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Accuracies of both on the same resampled images, [RESAMPLES] each."""
    case = 2 * one.astype(int) + other
    counts = np.bincount(case, minlength=4)
    drawn = generator_for(0, "bootstrap").multinomial(len(case), counts / len(case), size=RESAMPLES) / len(case)
    return drawn[:, 2] + drawn[:, 3], drawn[:, 1] + drawn[:, 3]


def by_class(zero_shot: Judged, tuned: Judged, labels: np.ndarray, names: Sequence[str]) -> tuple[ClassResult, ...]:
    """Both classifiers on each class that has images, the worst for the tuned one first."""
    counts = np.bincount(labels, minlength=len(names))
    before, after = (np.bincount(labels, weights=j.right, minlength=len(names)) for j in (zero_shot, tuned))
    found = [
        ClassResult(names[k], int(counts[k]), float(before[k] / counts[k]), float(after[k] / counts[k]))
        for k in np.flatnonzero(counts).tolist()
    ]
    return tuple(sorted(found, key=lambda result: result.tuned))
