"""What there is to say about a run beyond its numbers: classes, images, and the loss around the result.

The images are those of the test split, or of validation where there is no test; their features come from the cache.
The landscape is L on a plane through the result w: one axis leads from zero-shot (w = 0) to w, the other is a random
direction across it (SharpZO, arXiv 2506.20990, figure 2b); sharpness is the rise of L at the distance rho along the
direction of steepest ascent, which is estimated by forward-mode derivatives.

>>> found = look_at(Run.load("runs/photo-m-0"))  # doctest: +SKIP
>>> found.confusion.trace() / found.confusion.sum() == run.results.test  # doctest: +SKIP
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx
import numpy as np

from sharpzo_mlx.clip.handle import Clip
from sharpzo_mlx.datasets.image_set import ImageSet
from sharpzo_mlx.features.extract import Features, encode
from sharpzo_mlx.rng import key_for
from sharpzo_mlx.runs.run import Run
from sharpzo_mlx.tuning.problem import make_problem

GRID = 9  # points a side
SLOPES = 32  # directions that the steepest ascent is estimated from
BLOCK = 4096  # images whose logits are in memory at once


@dataclass(frozen=True)
class ChangedImage:
    """One image and what tuning did to the probability of its class."""

    path: Path
    label: str
    before: float
    after: float
    predicted: str


@dataclass(frozen=True)
class Landscape:
    """L on a plane around the result: across [GRID] and along [GRID] are distances from it in w."""

    along: np.ndarray
    across: np.ndarray
    losses: np.ndarray  # [across, along]
    length: float  # |w|: zero-shot lies at -length along
    rho: float
    sharpness: float


@dataclass(frozen=True)
class Findings:
    """What was found.

    Attributes:
        split: "test" or "validation".
        confusion: [K, K] images by class (rows) and prediction of the tuned prompt (columns).
        before: [K] accuracy of zero-shot by class; NaN where a class has no images.
        after: [K] the same of the tuned prompt.
        gained: images whose class became more probable, the most first.
        lost: those whose class became less probable.
        landscape: None where it was not asked for.
    """

    split: str
    confusion: np.ndarray
    before: np.ndarray
    after: np.ndarray
    gained: tuple[ChangedImage, ...]
    lost: tuple[ChangedImage, ...]
    landscape: Landscape | None


def look_at(run: Run, clip: Clip, *, landscape: bool = True, images: int = 6) -> Findings:
    """Read a run's images and, where asked for, its surroundings.

    Args:
        run: with a prompt.
        clip: the checkpoint that it was tuned on.
        landscape: whether to compute the loss around the result, GRID^2 + 2 SLOPES + 2 queries.
        images: how many gained and lost images to name.

    Raises:
        UserError: the run has no prompt, or none of its images can be read.
    """
    split = "test" if run.record.images.test else "val"
    features = encode(clip, _images(run, split))
    labels, classes = features.labels, len(run.prompt.class_names)
    before, first = _probabilities(run.prompt.zero_shot_logits, features)
    after, second = _probabilities(run.prompt.logits, features)
    confusion = np.bincount(labels * classes + second, minlength=classes**2).reshape(classes, classes)
    order = np.argsort(before - after, kind="stable")
    changed = [_changed(run, features, row, before, after, second) for row in (*order[:images], *order[::-1][:images])]
    return Findings(
        split="test" if split == "test" else "validation",
        confusion=confusion,
        before=_by_class(first == labels, labels, classes),
        after=_by_class(second == labels, labels, classes),
        gained=tuple(one for one in changed[:images] if one.after > one.before),
        lost=tuple(one for one in changed[images:] if one.after < one.before),
        landscape=_landscape(run, clip) if landscape else None,
    )


def _images(run: Run, split: str) -> ImageSet:
    rows = run.record.images.by_split()[split]
    return ImageSet(
        tuple(Path(run.record.dataset, path) for path, _ in rows),
        tuple(label for _, label in rows),
        run.prompt.class_names,
        run.prompt.folders,
    )


def _probabilities(classifier: Callable[[mx.array], mx.array], features: Features) -> tuple[np.ndarray, np.ndarray]:
    """The probability of every image's own class, and the class predicted, [N] each."""
    own, predicted = [], []
    for start in range(0, len(features.labels), BLOCK):
        logits = np.array(classifier(features.embeddings[start : start + BLOCK]))
        shares = np.exp(logits - logits.max(axis=1, keepdims=True))
        labels = features.labels[start : start + BLOCK]
        own.append(shares[np.arange(len(labels)), labels] / shares.sum(axis=1))
        predicted.append(logits.argmax(axis=1))
    return np.concatenate(own), np.concatenate(predicted)


def _by_class(right: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    counts = np.bincount(labels, minlength=classes).astype(float)
    counts[counts == 0] = np.nan
    result: np.ndarray = np.bincount(labels, weights=right, minlength=classes) / counts
    return result


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


def _landscape(run: Run, clip: Clip) -> Landscape:
    train = encode(clip, _images(run, "train"))
    objective = make_problem(clip, train, train, run.config).objective
    w, d = run.prompt.w, objective.dimension
    length = float(np.linalg.norm(np.array(w)))
    reach = length or run.config.stage1.sigma * math.sqrt(d)
    directions = mx.random.normal((SLOPES + 2, d), key=key_for(run.config.seed, "landscape"))
    one = w / length if length else directions[0] / mx.linalg.norm(directions[0])
    other = directions[1] - (directions[1] @ one) * one
    other = other / mx.linalg.norm(other)
    steps = mx.linspace(-1.25 * reach, 1.25 * reach, GRID)
    points = w + (other[None] * steps[:, None])[:, None] + (one[None] * steps[:, None])[None]  # [across, along, d]
    losses = np.array(objective.losses(points.reshape(-1, d))).reshape(GRID, GRID)
    rho = run.config.sharpness.rho or 0.1
    slopes = objective.jvp(mx.broadcast_to(w, (SLOPES, d)), directions[2:])[1]  # <grad L, u>
    ascent = slopes @ directions[2:]
    ends = objective.losses(mx.stack([w, w + rho * ascent / mx.maximum(mx.linalg.norm(ascent), 1e-12)]))
    axis = np.array(steps)
    below, above = np.array(ends).tolist()
    return Landscape(axis, axis, losses, length, rho, above - below)
