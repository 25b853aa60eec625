"""Fit linear classifiers of image features in closed form: without a search, in less than seconds on a CPU.

There are three: nearest class mean; ridge regression on one-hot targets, with a penalty chosen by leave-one-out errors;
and Gaussian discriminant analysis with one covariance for all classes, whose precision matrix is the ridge-type
empirical-Bayes estimate of "A Hard-to-Beat Baseline for Training-Free CLIP-based Adaptation" (ICLR 2024, arXiv
2402.04087, section 3.2). Each returns weights [K, D] and a bias [K]; all arithmetic is float64, whatever type the
features have.

>>> x, labels = np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([0, 1])
>>> fit_nearest_mean(x, labels, 2).logits(x).argmax(axis=1).tolist()
[0, 1]
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sharpzo_mlx.runtime.products import host_products

Array = npt.NDArray[np.float64]

STRENGTHS = tuple(10.0 ** (power / 2) for power in range(-6, 7))  # penalties of ridge regression: 0.001 to 1000
ROWS = 4096  # images whose leave-one-out errors are computed at once
FLAT = 1e-12  # variance below which features count as equal


@dataclass(frozen=True)
class Linear:
    """A linear classifier: weights [K, D] and bias [K]."""

    weights: Array
    bias: Array

    @host_products()
    def logits(self, embeddings: npt.NDArray[np.floating]) -> Array:
        """Return the logits [N, K] of image features [N, D], float64."""
        found: Array = np.asarray(embeddings, np.float64) @ self.weights.T + self.bias
        return found


Fit = Callable[[npt.NDArray[np.floating], npt.NDArray[np.integer], int], Linear]


def fit_nearest_mean(embeddings: npt.NDArray[np.floating], labels: npt.NDArray[np.integer], classes: int) -> Linear:
    """Fit a Gaussian of the same variance in all directions to every class: the nearest mean has the highest logit.

    Args:
        embeddings: image features [N, D].
        labels: class indices [N], each of the K classes present.
        classes: K.

    Returns:
        The classifier. Its logits are log-likelihoods up to a term that all classes share.
    """
    means, centred = centre_classes(np.asarray(embeddings, np.float64), labels, classes)
    dimension = means.shape[1]
    freedom = len(labels) - classes
    variance = float((centred**2).sum()) / (max(freedom, 1) * dimension)
    if freedom < 1 or variance < FLAT:  # one image a class: the variance between classes takes its place
        variance = max(float(means.var(axis=0).mean()), FLAT)
    return _make_gaussian(means, means / variance)


@host_products()
def fit_discriminant(embeddings: npt.NDArray[np.floating], labels: npt.NDArray[np.integer], classes: int) -> Linear:
    """Fit Gaussian discriminant analysis with equal priors: the Gaussians of all classes share one covariance.

    The covariance is the weighted mean of the pooled covariance and of the identity times its mean variance, where
    the identity counts as D images. Its inverse is D [(N - 1) S + tr(S) I]^-1 of arXiv 2402.04087, eq. 6, with two
    changes: a factor that makes it the precision itself for any number of images, and a mean variance over N - K
    degrees of freedom in place of N - 1, which weighs the identity (N - 1) / (N - K) times as much as the paper does
    (twice with two images a class, 1.06 times with 16). With one image a class it equals `fit_nearest_mean`.

    Args:
        embeddings: image features [N, D].
        labels: class indices [N], each of the K classes present.
        classes: K.
    """
    means, centred = centre_classes(np.asarray(embeddings, np.float64), labels, classes)
    dimension = means.shape[1]
    freedom = len(labels) - classes
    scatter = centred.T @ centred
    variance = float(np.trace(scatter)) / (max(freedom, 1) * dimension)
    if freedom < 1 or variance < FLAT:
        return fit_nearest_mean(embeddings, labels, classes)
    covariance = (scatter + dimension * variance * np.eye(dimension)) / (freedom + dimension)
    return _make_gaussian(means, np.linalg.solve(covariance, means.T).T)


@host_products()
def fit_ridge(
    embeddings: npt.NDArray[np.floating],
    labels: npt.NDArray[np.integer],
    classes: int,
    *,
    strength: float | None = None,
) -> Linear:
    """Fit least squares on one-hot targets with a penalty on the weights, not on the bias.

    Args:
        embeddings: image features [N, D].
        labels: class indices [N], each of the K classes present.
        classes: K.
        strength: the penalty's factor; None: the one of STRENGTHS with the least squared leave-one-out error.
    """
    x, targets = np.asarray(embeddings, np.float64), np.eye(classes)[labels]
    centre, share = x.mean(axis=0), targets.mean(axis=0)
    values, vectors = np.linalg.eigh((x - centre).T @ (x - centre))
    values = np.maximum(values, 0)
    turned = (x - centre) @ vectors  # [N, D]: the features in the scatter's own axes
    moments = turned.T @ (targets - share)  # [D, K]
    if strength is None:
        strength = min(STRENGTHS, key=lambda s: _sum_left_out_errors(turned, targets - share, moments, values + s))
    weights = (vectors @ (moments / (values + strength)[:, None])).T
    return Linear(weights, share - weights @ centre)


@host_products()
def _sum_left_out_errors(turned: Array, targets: Array, moments: Array, damped: Array) -> float:
    """Return the sum over images of the squared error under the fit to all other images: (e_i / (1 - h_i))^2."""
    error = 0.0
    for start in range(0, len(turned), ROWS):
        rows = turned[start : start + ROWS]
        leverage = 1 / len(turned) + (rows**2 / damped).sum(axis=1)
        residual = targets[start : start + ROWS] - rows @ (moments / damped[:, None])
        error += float(((residual / np.maximum(1 - leverage, FLAT)[:, None]) ** 2).sum())
    return error


def centre_classes(x: Array, labels: npt.NDArray[np.integer], classes: int) -> tuple[Array, Array]:
    """Return the class means [K, D], and each image's features minus the mean of its class [N, D]."""
    counts = np.bincount(labels, minlength=classes)
    assert counts.min() > 0, "each class needs an image"
    means = np.zeros((classes, x.shape[1]))
    np.add.at(means, labels, x)
    means /= counts[:, None]
    return means, x - means[labels]


def _make_gaussian(means: Array, weights: Array) -> Linear:
    """Return the classifier of Gaussians around the means with equal priors; the weights are the precision @ means."""
    return Linear(weights, -0.5 * (weights * means).sum(axis=1))
