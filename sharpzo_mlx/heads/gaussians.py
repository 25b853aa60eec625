"""Fit Gaussians of one covariance to the classes, and say of each image what the fit to all other images says of it.

The covariance is shrunk towards a multiple of the identity; its inverse is the empirical-Bayes ridge-type estimate of
"A Hard-to-Beat Baseline for Training-Free CLIP-based Adaptation" (ICLR 2024, arXiv 2402.04087, section 3.2), with the
identity counted as `shrinkage` x D images. In the axes of the scatter its inverse is diagonal for every shrinkage, so
that they are found once. The fit without one image differs from the whole fit by a rank-one change of the scatter and a
shift of one mean, so that all N of them cost about as much as one (Sherman-Morrison). A left-out image is farther from
the mean of its own class than a new image will be, because that mean lacks it: its squared distance is corrected by the
factor of the two expectations, (1 + 1/n) / (1 + 1/(n - 1)) = 1 - 1/n^2.

>>> rng = np.random.default_rng(0)
>>> x, labels = rng.normal(size=(8, 3)) + np.repeat(np.eye(2, 3) * 9, 4, axis=0), np.repeat([0, 1], 4)
>>> GaussianFit(x, labels, 2).leave_out(np.arange(8)).logits.argmax(axis=1).tolist()
[0, 0, 0, 0, 1, 1, 1, 1]
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sharpzo_mlx.heads.closed_form import FLAT, Array, Linear, centre_classes
from sharpzo_mlx.runtime.products import host_products

ROWS = 2048  # images that are left out at once
ALLOWED = 0.5  # share of the class means' errors that is made good
RESOLUTION = 1e-3  # of the length of the class means: float32 tells no shorter distances from 0 (its step is 1.2e-7)
LEAST_RATIO = 1e-3  # of the scatter's volume without an image to that with it: a bound against rounding


@dataclass(frozen=True)
class LeftOut:
    """What Gaussians fitted to all other images say of each of N images.

    Attributes:
        logits: [N, K] log-densities up to a term that all classes share. Where an image is the only one of its class,
            the column of that class is minus infinity.
        text: [N, K] logits of the class texts in the metric of the Gaussians (see `GaussianFit.text_classifier`).
        distances: [N] least Mahalanobis distance to a class mean; not below what float32 tells from 0, which is what
            new images are judged in.
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
    """

    @host_products()
    def __init__(
        self,
        embeddings: npt.NDArray[np.floating],
        labels: npt.NDArray[np.integer],
        classes: int,
        shrinkage: float = 1.0,
        *,
        judged: npt.NDArray[np.floating] | None = None,
    ) -> None:
        self.labels = np.asarray(labels)
        self.counts = np.bincount(self.labels, minlength=classes)
        means, deviations = centre_classes(np.asarray(embeddings, np.float64), self.labels, classes)
        self.mean = means.mean(axis=0)
        self.means = means - self.mean
        values, self._axes = np.linalg.eigh(deviations.T @ deviations)  # of the scatter
        self._values = np.maximum(values, 0)
        self._deviations, self._turned_means = deviations @ self._axes, self.means @ self._axes
        self._judged = None if judged is None else (np.asarray(judged, np.float64) - self.mean) @ self._axes
        self._shrink(shrinkage)

    def with_shrinkage(self, shrinkage: float) -> GaussianFit:
        """Return the Gaussians of the same images with another shrinkage, at next to no cost."""
        other = copy.copy(self)
        other._shrink(shrinkage)
        return other

    def _shrink(self, shrinkage: float) -> None:
        """Set the inverse of the shrunk scatter in its own axes [D], and the number of images it stands for."""
        images, dimension = self._deviations.shape
        free = images - len(self.counts)
        variance = float(self._values.sum()) / (max(free, 1) * dimension)
        self._flat = free < 1 or variance < FLAT
        if self._flat:  # no spread within the classes: that between them takes its place
            variance = max(float(self.means.var(axis=0).mean()), FLAT)
            self._inverse, self._freedom = np.full(dimension, 1 / variance), 1.0
        else:
            weight = shrinkage * dimension
            self._inverse, self._freedom = 1 / (self._values + weight * variance), free + weight

    @property
    def root(self) -> Array:
        """A root of the precision [D, D]: the inverse of the covariance is A A^T."""
        root: Array = self._axes * np.sqrt(self._inverse * self._freedom)
        return root

    @property
    @host_products()
    def precision(self) -> Array:
        """The inverse of the covariance [D, D]."""
        root = self.root
        return root @ root.T

    @host_products()
    def classifier(self) -> Linear:
        """Return the log-densities of features as a linear classifier, up to a term that all classes share."""
        weights = self._weigh(self.means)
        return Linear(weights, self.allowances - 0.5 * (weights * self.means).sum(axis=1) - weights @ self.mean)

    @property
    @host_products()
    def allowances(self) -> Array:
        """What is added to the log-densities for the errors of the class means [K].

        An image is farther from the mean of few images than from that of many, by Q / n in the squared distance, where
        Q is the squared distance of an image to a mean without error. Half of that is made good: it was best on folders
        of unequal classes (docs/results/heads.md). Equal classes have equal allowances, which change nothing.
        """
        count = self.counts[self.labels].astype(np.float64)
        several = count > 1
        if not several.any():
            return np.zeros(len(self.counts))
        count, leverage = count[several], (self._deviations**2 @ self._inverse)[several]
        loss = count / (count - 1)
        change = loss / np.maximum(1 - loss * leverage, LEAST_RATIO)
        left_out = (self._freedom - 1) * loss**2 * leverage * (1 + change * leverage)
        exact = float((left_out * (1 - 1 / count)).mean())
        found: Array = ALLOWED * exact / (2 * self.counts)
        return found

    @host_products()
    def text_classifier(self, text: npt.NDArray[np.floating]) -> Linear:
        """Return the classifier of features by the class texts [K, D] in the metric of the Gaussians.

        With the texts as prior means of the class means, the posterior log-densities are, up to shares, the sum of
        this classifier and of `classifier`.
        """
        weights = self._weigh(_centre_texts(text))
        return Linear(weights, -weights @ self.mean)

    @host_products()
    def _weigh(self, rows: Array) -> Array:
        """Return rows times the precision, [K, D] -> [K, D]."""
        root = self.root
        return (rows @ root) @ root.T

    @host_products()
    def leave_out(self, rows: npt.NDArray[np.integer], text: npt.NDArray[np.floating] | None = None) -> LeftOut:
        """Return what the fit without it says of each image.

        Args:
            rows: positions of M of the images that were fitted.
            text: class texts [K, D]; None: the texts' logits are zero.

        Returns:
            Arrays of M rows, in the order of `rows`.
        """
        means = self._multiply(self._turned_means)
        texts = None if text is None else self._multiply(_centre_texts(text) @ self._axes)
        found = LeftOut(*(np.zeros((len(rows), *shape)) for shape in ((len(self.counts),), (len(self.counts),), ())))
        for start in range(0, len(rows), ROWS):
            block = slice(start, start + ROWS)
            part = self._leave_out(rows[block], means, texts)
            found.logits[block], found.text[block], found.distances[block] = part.logits, part.text, part.distances
        found.logits[:] += self.allowances
        np.maximum(found.distances, self._resolution, out=found.distances)
        return found

    @property
    def _resolution(self) -> float:
        """The least distance that float32 tells from 0."""
        with host_products():
            means = (self.means + self.mean) @ self.root
        return RESOLUTION * float(np.linalg.norm(means, axis=1).max())

    @host_products()
    def _multiply(self, turned: Array) -> _Products:
        """Return what products of images with some vectors [K, D], given in the scatter's axes, are made from."""
        weighted = turned * self._inverse
        return _Products(weighted, self._turned_means @ weighted.T)

    @host_products()
    def _leave_out(self, rows: npt.NDArray[np.integer], means: _Products, texts: _Products | None) -> LeftOut:
        own, place, without = self.labels[rows], np.arange(len(rows)), self._remove(rows)
        x, deviations, along, change = without.x, without.deviations, without.along, without.change
        count, leverage, moved = self.counts[own].astype(np.float64), without.leverage, without.moved
        alone = count == 1

        means_along = deviations @ means.weighted.T  # [M, K]
        cross = means_along + means.of_means[own] if self._judged is None else x @ means.weighted.T
        cross += (change * along)[:, None] * means_along
        norms = means.of_means.diagonal() + change[:, None] * means_along**2
        grown = 1 + change * leverage
        cross[place, own] -= along * grown * moved
        norms[place, own] += (leverage * grown * moved - 2 * means_along[place, own] * grown) * moved

        squared = np.maximum((without.norms[:, None] - 2 * cross + norms) * without.freedom[:, None], 0)
        squared[place, own] = np.where(alone, np.inf, squared[place, own] * (1 - 1 / count**2))
        nearest = squared.min(axis=1)
        logits = -0.5 * (squared - nearest[:, None])
        if texts is None:
            return LeftOut(logits, np.zeros_like(logits), np.sqrt(nearest))
        named = deviations @ texts.weighted.T
        plain = named + texts.of_means[own] if self._judged is None else x @ texts.weighted.T
        named *= (change * along)[:, None]
        return LeftOut(logits, (named + plain) * without.freedom[:, None], np.sqrt(nearest))

    @host_products()
    def measure_left_out(self, rows: npt.NDArray[np.integer], points: Array) -> Array:
        """Return the squared distances of left-out images to points that no image was averaged into, [M, P].

        Args:
            rows: positions of M of the images that were fitted.
            points: [P, D], such as means that were predicted.
        """
        turned, found = (points - self.mean) @ self._axes, np.zeros((len(rows), len(points)))
        weighted = turned * self._inverse
        norms = (turned * weighted).sum(axis=1)
        for start in range(0, len(rows), ROWS):
            without = self._remove(rows[start : start + ROWS])
            along = without.deviations @ weighted.T
            cross = without.x @ weighted.T + (without.change * without.along)[:, None] * along
            squared = without.norms[:, None] - 2 * cross + norms + without.change[:, None] * along**2
            found[start : start + ROWS] = np.maximum(squared * without.freedom[:, None], 0)
        return found

    @host_products()
    def _remove(self, rows: npt.NDArray[np.integer]) -> _Without:
        """Return what leaving out each of some images changes."""
        own, deviations = self.labels[rows], self._deviations[rows]
        x = self._turned_means[own] + deviations if self._judged is None else self._judged[rows]
        count = self.counts[own].astype(np.float64)
        alone = count == 1
        moved = np.where(alone, 0.0, 1 / np.maximum(count - 1, 1))
        loss = moved * count  # the scatter loses loss d d^T, where d is the deviation from the class mean
        leverage = deviations**2 @ self._inverse
        change = loss / np.maximum(1 - loss * leverage, LEAST_RATIO)
        along = (x * deviations) @ self._inverse
        freedom = self._freedom - (0.0 if self._flat else 1.0) * ~alone
        return _Without(
            x, deviations, moved, leverage, change, along, x**2 @ self._inverse + change * along**2, freedom
        )


@dataclass(frozen=True)
class _Without:
    """M images, each with what leaving it out changes; vectors are in the axes of the scatter.

    Attributes:
        x, deviations: the image, and its deviation d from the mean of its class [M, D].
        moved: the mean of its class moves by -moved d [M].
        leverage: d times the inverse of the scatter times d [M].
        change: the inverse of the scatter grows by change times the outer product of (inverse d) [M].
        along: x times the inverse times d [M].
        norms: the image's own squared length in the inverse without it [M].
        freedom: the images that the shrunk scatter without it stands for [M].
    """

    x: Array
    deviations: Array
    moved: Array
    leverage: Array
    change: Array
    along: Array
    norms: Array
    freedom: Array


@dataclass(frozen=True)
class _Products:
    """Vectors times the inverse of the scatter, in its axes [K, D], and their products with the class means [K, K]."""

    weighted: Array
    of_means: Array


def _centre_texts(text: npt.NDArray[np.floating]) -> Array:
    texts = np.asarray(text, np.float64)
    centred: Array = texts - texts.mean(axis=0)
    return centred
