"""Compute the cross-entropy and the accuracy of classifiers on image features, in MLX and in NumPy.

The logits of image i are s * <f_i, f_txt(k)> + o_ik. The offsets o are the logits of a fixed classifier that stands
beside the words, such as a head; without one they are left out.

>>> mark_right(np.array([[0.2, 0.8], [0.9, 0.1]]), np.array([1, 1])).tolist()
[True, False]
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TypeVar, cast

import mlx.core as mx
import numpy as np

from sharpzo_mlx.features.extract import Features
from sharpzo_mlx.objective import chunks
from sharpzo_mlx.runtime.products import host_products
from sharpzo_mlx.runtime.threads import small_products, spread

A = TypeVar("A", mx.array, np.ndarray)

TEMPERATURE_ROUNDS = 50  # Newton steps, at most
TEMPERATURE_CHANGE = 1e-6  # relative change of the temperature at which they end


@dataclass(frozen=True)
class Score:
    """The accuracy and the loss of one classifier on one set of images.

    Attributes:
        accuracy: the share of images whose class has the highest logit, 0..1.
        loss: the mean cross-entropy.
        images: the number of images, from which the accuracy's standard error follows.
    """

    accuracy: float
    loss: float
    images: int = 0


@dataclass(frozen=True)
class LabelledImages:
    """Image features with all that their losses depend on beside the class features.

    Attributes:
        embeddings: [N, D] of unit norm.
        labels: class indices [N].
        logit_scale: s, the factor that turns cosines into logits.
        offsets: logits [N, K] that are added to each image's own, float32; None: none are.
    """

    embeddings: mx.array
    labels: mx.array
    logit_scale: float
    offsets: mx.array | None = None

    def thin(self, count: int) -> LabelledImages:
        """Return so many of the images, spaced evenly through all of them."""
        return self.take(mx.array(chunks.spaced(self.embeddings.shape[0], count)))

    def take(self, rows: slice | mx.array) -> LabelledImages:
        """Return a block of the images, or those at some indices."""
        offsets = None if self.offsets is None else self.offsets[rows]
        return LabelledImages(self.embeddings[rows], self.labels[rows], self.logit_scale, offsets)

    def logits(self, class_features: mx.array) -> mx.array:
        """Return the logits of the images under class features, [..., K, D] -> [..., N, K]."""
        return compute_logits(class_features, self.embeddings, self.logit_scale, self.offsets)


def compute_logits(
    class_features: mx.array, embeddings: mx.array, logit_scale: float, offsets: mx.array | None = None
) -> mx.array:
    """Compute the logits of images under one classifier or several.

    Args:
        class_features: [..., K, D] of unit norm.
        embeddings: [N, D] of unit norm.
        logit_scale: s.
        offsets: [N, K], the same for every classifier, or None.

    Returns:
        [..., N, K].
    """
    logits = logit_scale * (embeddings @ class_features.swapaxes(-1, -2))
    return logits if offsets is None else logits + offsets


def check_offsets(offsets: mx.array | None, images: int, classes: int) -> mx.array | None:
    """Return offsets of logits as float32, evaluated, or None if there are none.

    Raises:
        ValueError: they are not [N, K]; anything else would be broadcast to other images or classes.
    """
    if offsets is None:
        return None
    if offsets.shape != (images, classes):
        raise ValueError(f"offsets have the shape {offsets.shape}; give [images, classes], {(images, classes)}")
    offsets = offsets.astype(mx.float32)
    mx.eval(offsets)
    return offsets


def mark_right(logits: A, labels: A, stands_for: A | None = None) -> A:
    """Return for each image whether its class has the highest logit.

    Args:
        logits: [N, K], of MLX or of NumPy.
        labels: [N] of the same library.
        stands_for: the label that each of the K columns stands for [K]; None: column k stands for label k.

    Returns:
        [N], boolean.
    """
    predicted = logits.argmax(axis=-1)
    right: A = (predicted if stands_for is None else stands_for[predicted]) == labels
    return right


def score_features(
    class_features: mx.array, features: Features, logit_scale: float, offsets: mx.array | None = None
) -> Score:
    """Return the accuracy and the mean loss of class features [K, D] on encoded images, with offsets [N, K] if any."""
    logits = compute_logits(class_features, features.embeddings, logit_scale, offsets)
    return score_logits(logits, mx.array(features.labels))


def score_logits(logits: mx.array, labels: mx.array) -> Score:
    """Return the accuracy and the mean loss of a classifier's logits [N, K] for images with labels [N]."""
    right = mx.sum(mark_right(logits, labels))
    loss = mx.mean(mx.logsumexp(logits, axis=-1) - mx.take_along_axis(logits, labels[:, None], axis=-1).squeeze(-1))
    mx.eval(right, loss)
    count = int(labels.shape[0])
    return Score(cast(int, right.item()) / count, cast(float, loss.item()), count)


def score_calibrated(logits: mx.array, labels: mx.array) -> Score:
    """Return the accuracy, and the mean loss at the temperature at which it is lowest.

    Losses of classifiers are compared so, because an over-confident classifier may have a high loss and still be the
    best. Labels are smoothed as if one more image had any class (Platt, 1999), so that the temperature stays finite
    where all of a few images are right.

    Args:
        logits: [N, K].
        labels: [N].
    """
    z, y = np.array(logits, np.float64), np.array(labels)
    images, classes = z.shape
    z -= z.mean(axis=1, keepdims=True)
    own = float(z[np.arange(images), y].mean()) * images / (images + 1)  # the smoothed labels' mean logit
    right = int(mark_right(z, y).sum())
    if own <= 0:  # no finite temperature is better than equal probabilities
        return Score(right / images, math.log(classes), images)
    return Score(right / images, _lowest_loss(z, own), images)


def _lowest_loss(logits: np.ndarray, own: float) -> float:
    """Return the loss at the best temperature: Newton steps on a convex function, kept between known bounds.

    Args:
        logits: [N, K] of mean 0 in each row.
        own: the mean logit of the smoothed labels, above 0.
    """
    inverse, low, high, lowest = 1.0, 0.0, math.inf, math.inf
    for _ in range(TEMPERATURE_ROUNDS):
        value, slope, curvature = _tempered(logits, inverse)
        lowest = min(lowest, value - inverse * own)
        low, high = (low, inverse) if slope > own else (inverse, high)
        step = inverse - (slope - own) / curvature if curvature > 0 else math.nan
        if not max(low, inverse / 10) < step < min(high, inverse * 10):
            step = math.sqrt(low * high) if low and math.isfinite(high) else inverse * (10 if slope < own else 0.1)
        if abs(step - inverse) < TEMPERATURE_CHANGE * inverse:
            break
        inverse = step
    return lowest


def _tempered(logits: np.ndarray, inverse: float) -> tuple[float, float, float]:
    """Return the mean log-sum-exp of logits times an inverse temperature, and its two derivatives."""
    scaled = inverse * logits
    top = scaled.max(axis=1, keepdims=True)
    powers = np.exp(scaled - top)
    total = powers.sum(axis=1, keepdims=True)
    powers /= total
    mean = (powers * logits).sum(axis=1)
    spread = (powers * logits**2).sum(axis=1) - mean**2
    return float((top + np.log(total)).mean()), float(mean.mean()), float(spread.mean())


def cross_entropies(
    class_features: mx.array,
    embeddings: mx.array,
    labels: mx.array,
    logit_scale: float,
    offsets: mx.array | None = None,
) -> mx.array:
    """Compute the cross-entropy of every image under every classifier.

    Args:
        class_features: [P, K, D] of unit norm.
        embeddings: [N, D] of unit norm.
        labels: [N] class indices.
        logit_scale: s.
        offsets: [N, K], or None.

    Returns:
        [P, N] float32.
    """
    logits = compute_logits(class_features, embeddings, logit_scale, offsets)  # [P, N, K]
    index = mx.broadcast_to(labels[None, :, None], (*logits.shape[:2], 1))
    return mx.logsumexp(logits, axis=-1) - mx.take_along_axis(logits, index, axis=-1).squeeze(-1)


def image_losses(class_features: mx.array, images: LabelledImages) -> mx.array:
    """Compute `cross_entropies`, [P, K, D] -> [P, N], holding one block of the logits at a time."""
    candidates, classes, _ = class_features.shape
    block = max(1, chunks.LOGITS_AT_ONCE // (classes * candidates))
    blocks = [images.take(slice(i, i + block)) for i in range(0, images.embeddings.shape[0], block)]
    parts = [cross_entropies(class_features, x.embeddings, x.labels, x.logit_scale, x.offsets) for x in blocks]
    return mx.concatenate(parts, axis=-1) if len(parts) > 1 else parts[0]


def mean_losses(class_features: mx.array, images: LabelledImages) -> mx.array:
    """Return the mean loss of the images under every classifier, [P, K, D] -> [P]."""
    return mx.mean(image_losses(class_features, images), axis=-1)


def image_losses_numpy(
    features: np.ndarray,
    embeddings: np.ndarray,
    labels: np.ndarray,
    logit_scale: float,
    offsets: np.ndarray | None = None,
) -> np.ndarray:
    """Compute the same in NumPy on all cores: [P, K, D], [N, D], [N], perhaps [N, K] -> [P, N] float32."""
    candidates, classes, _ = features.shape
    count = len(labels)
    losses = np.empty((candidates, count), np.float32)
    step = max(1, chunks.CPU_LOGITS_AT_ONCE // classes)

    def compute_piece(place: tuple[int, int]) -> None:
        candidate, start = place
        rows = slice(start, min(start + step, count))
        with host_products():
            logits = embeddings[rows] @ features[candidate].T
        logits *= np.float32(logit_scale)
        if offsets is not None:
            logits += offsets[rows]
        losses[candidate, rows] = exponentiate(logits, labels[rows])[0]

    places = list(itertools.product(range(candidates), range(0, count, step)))
    if candidates * count * classes > chunks.CPU_LOGITS_AT_ONCE:
        spread(compute_piece, places)
    else:  # too little work to hand to threads
        with small_products():
            for place in places:
                compute_piece(place)
    return losses


def exponentiate(logits: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Turn logits [n, K] into numbers that are proportional to the probabilities, in place.

    Returns:
        The cross-entropies [n], and the sums [n] by which the numbers are divided to be probabilities.
    """
    right = logits[np.arange(len(logits)), labels]
    highest = logits.max(axis=-1)
    logits -= highest[:, None]
    np.exp(logits, out=logits)
    totals = logits.sum(axis=-1)
    return np.log(totals) + highest - right, totals
