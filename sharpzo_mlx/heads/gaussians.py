"""Fit Gaussians of one covariance to the classes, and say of each image what the fit to all other images says of it.

The covariance is shrunk towards a multiple of the identity; its inverse is the empirical-Bayes ridge-type estimate of
"A Hard-to-Beat Baseline for Training-Free CLIP-based Adaptation" (ICLR 2024, arXiv 2402.04087, section 3.2), with the
identity counted as `shrinkage` x D images. The fit without one image differs from the whole fit by a rank-one change of
the scatter and a shift of one mean, so that all N of them cost about as much as one (Sherman-Morrison). A left-out
image is farther from the mean of its own class than a new image will be, because that mean lacks it: its squared
distance is corrected by the factor of the two expectations, (1 + 1/n) / (1 + 1/(n - 1)) = 1 - 1/n^2.

>>> rng = np.random.default_rng(0)
>>> x, labels = rng.normal(size=(8, 3)) + np.repeat(np.eye(2, 3) * 9, 4, axis=0), np.repeat([0, 1], 4)
>>> GaussianFit(x, labels, 2).leave_out(np.arange(8)).logits.argmax(axis=1).tolist()
[0, 0, 0, 0, 1, 1, 1, 1]
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sharpzo_mlx.heads.closed_form import FLAT, Array, Linear, centre_classes

ROWS = 2048  # images that are left out at once
LEAST_RATIO = 1e-3  # of the scatter's volume without an image to that with it: a bound against rounding


@dataclass(frozen=True)
class LeftOut:
    """What Gaussians fitted to all other images say of each of N images.

    Attributes:
        logits: [N, K] log-densities up to a term that all classes share. Where an image is the only one of its class,
            the column of that class is minus infinity.
        text: [N, K] logits of the class texts in the metric of the Gaussians (see `GaussianFit.text_classifier`).
        distances: [N] least Mahalanobis distance to a class mean.
    """

    logits: Array
    text: Array
    distances: Array


class GaussianFit:
    """Gaussians around the class means with one shrunk covariance.

    Args:
        embeddings: image features [N, D].
        labels: class indices [N], each of the K classes present.
        classes: K.
        shrinkage: the weight of the identity, in units of D images.
        judged: features of the same images [N, D] that `leave_out` judges; None: the embeddings. They differ where
            the embeddings are averages over views of an image.

    Attributes:
        counts: images of each class [K].
        mean: the mean of the class means [D]; it is the origin of what follows.
        means: the class means [K, D].
        precision: the inverse of the covariance [D, D].
    """

    def __init__(
        self,
        embeddings: npt.NDArray[np.floating],
        labels: npt.NDArray[np.integer],
        classes: int,
        shrinkage: float = 1.0,
        *,
        judged: npt.NDArray[np.floating] | None = None,
    ) -> None:
        x = np.asarray(embeddings, np.float64)
        self.labels = np.asarray(labels)
        self.counts = np.bincount(self.labels, minlength=classes)
        means, self._deviations = centre_classes(x, self.labels, classes)
        self.mean = means.mean(axis=0)
        self.means, self._x = means - self.mean, (x if judged is None else np.asarray(judged, np.float64)) - self.mean
        self._scatter_inverse, self._freedom = self._invert_scatter(shrinkage)
        self.precision = self._scatter_inverse * self._freedom

    def _invert_scatter(self, shrinkage: float) -> tuple[Array, float]:
        """Return the inverse of the shrunk scatter [D, D], and the number of images it stands for."""
        images, dimension = self._x.shape
        free = images - len(self.counts)
        scatter = self._deviations.T @ self._deviations
        variance = float(np.trace(scatter)) / (max(free, 1) * dimension)
        if free < 1 or variance < FLAT:  # no spread within the classes: that between them takes its place
            variance = max(float(self.means.var(axis=0).mean()), FLAT)
            return np.eye(dimension) / variance, 1.0
        weight = shrinkage * dimension
        return np.linalg.inv(scatter + weight * variance * np.eye(dimension)), free + weight

    def classifier(self) -> Linear:
        """Return the log-densities of features as a linear classifier, up to a term that all classes share."""
        weights = self.means @ self.precision
        return Linear(weights, -0.5 * (weights * self.means).sum(axis=1) - weights @ self.mean)

    def text_classifier(self, text: npt.NDArray[np.floating]) -> Linear:
        """Return the classifier of features by the class texts [K, D] in the metric of the Gaussians.

        With the texts as prior means of the class means, the posterior log-densities are, up to shares, the sum of
        this classifier and of `classifier`.
        """
        weights = _centre_texts(text) @ self.precision
        return Linear(weights, -weights @ self.mean)

    def leave_out(self, rows: npt.NDArray[np.integer], text: npt.NDArray[np.floating] | None = None) -> LeftOut:
        """Return what the fit without it says of each image.

        Args:
            rows: positions of M of the images that were fitted.
            text: class texts [K, D]; None: the texts' logits are zero.

        Returns:
            Arrays of M rows, in the order of `rows`.
        """
        texts = np.zeros_like(self.means) if text is None else _centre_texts(text)
        parts = [self._leave_out(rows[start : start + ROWS], texts) for start in range(0, len(rows), ROWS)]
        return LeftOut(
            np.concatenate([part.logits for part in parts]),
            np.concatenate([part.text for part in parts]),
            np.concatenate([part.distances for part in parts]),
        )

    def _leave_out(self, rows: npt.NDArray[np.integer], texts: Array) -> LeftOut:
        x, own, place = self._x[rows], self.labels[rows], np.arange(len(rows))
        count = self.counts[own].astype(np.float64)
        alone = count == 1
        moved = np.where(alone, 0.0, 1 / np.maximum(count - 1, 1))  # the mean of the own class moves by -moved d
        loss = moved * count  # the scatter loses loss d d^T, where d is the deviation from the class mean
        turned = self._deviations[rows] @ self._scatter_inverse  # [M, D]
        leverage = (turned * self._deviations[rows]).sum(axis=1)
        change = loss / np.maximum(1 - loss * leverage, LEAST_RATIO)
        freedom = self._freedom - ~alone

        along = (x * turned).sum(axis=1)
        means_along = turned @ self.means.T  # [M, K]
        cross = x @ (self._scatter_inverse @ self.means.T) + (change * along)[:, None] * means_along
        norms = (self.means @ self._scatter_inverse * self.means).sum(axis=1) + change[:, None] * means_along**2
        grown = 1 + change * leverage
        cross[place, own] -= along * grown * moved
        norms[place, own] += (leverage * grown * moved - 2 * means_along[place, own] * grown) * moved
        self_product = (x @ self._scatter_inverse * x).sum(axis=1) + change * along**2

        squared = np.maximum((self_product[:, None] - 2 * cross + norms) * freedom[:, None], 0)
        squared[place, own] = np.where(alone, np.inf, squared[place, own] * (1 - 1 / count**2))
        named = x @ (self._scatter_inverse @ texts.T) + (change * along)[:, None] * (turned @ texts.T)
        nearest = squared.min(axis=1)
        return LeftOut(-0.5 * (squared - nearest[:, None]), named * freedom[:, None], np.sqrt(nearest))


def _centre_texts(text: npt.NDArray[np.floating]) -> Array:
    texts = np.asarray(text, np.float64)
    centred: Array = texts - texts.mean(axis=0)
    return centred
