"""Linear classifiers of image features in closed form: no search, no gradient, seconds on a CPU.

Nearest class mean; ridge regression on one-hot targets, its strength chosen by leave-one-out errors; and Gaussian
discriminant analysis with one covariance for all classes, whose precision matrix is the ridge-type empirical-Bayes
estimate of "A Hard-to-Beat Baseline for Training-Free CLIP-based Adaptation" (ICLR 2024, arXiv 2402.04087, section
3.2). Each gives weights [K, D] and a bias [K]; all arithmetic is float64, whatever the features are.

>>> x, labels = np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([0, 1])
>>> nearest_mean(x, labels, 2).logits(x).argmax(axis=1).tolist()
[0, 1]
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

STRENGTHS = tuple(10.0 ** (power / 2) for power in range(-6, 7))  # of ridge: 0.001 to 1000
ROWS = 4096  # images whose fitted targets are in memory at once
FLAT = 1e-12  # variance below which features count as equal


@dataclass(frozen=True)
class Linear:
    """A linear classifier: weights [K, D] and bias [K]."""

    weights: Array
    bias: Array

    def logits(self, embeddings: npt.NDArray[np.floating]) -> Array:
        """[N, D] -> [N, K]."""
        found: Array = np.asarray(embeddings, np.float64) @ self.weights.T + self.bias
        return found


Fit = Callable[[npt.NDArray[np.floating], npt.NDArray[np.integer], int], Linear]


def nearest_mean(embeddings: npt.NDArray[np.floating], labels: npt.NDArray[np.integer], classes: int) -> Linear:
    """The class whose mean is nearest: a Gaussian of one variance in all directions for every class.

    Args:
        embeddings: image features [N, D].
        labels: [N], every one of `classes` present.
        classes: K.

    Returns:
        Log-likelihoods up to what all classes share, in units of the variance within classes.
    """
    means, centred = _centred(np.asarray(embeddings, np.float64), labels, classes)
    dimension = means.shape[1]
    freedom = len(labels) - classes
    variance = float((centred**2).sum()) / (max(freedom, 1) * dimension)
    if freedom < 1 or variance < FLAT:  # one image a class: the spread between classes is all there is
        variance = max(float(means.var(axis=0).mean()), FLAT)
    return _gaussian(means, means / variance)


def discriminant(embeddings: npt.NDArray[np.floating], labels: npt.NDArray[np.integer], classes: int) -> Linear:
    """Gaussian discriminant analysis with equal priors: the class whose Gaussian makes the image most probable.

    The classes share a covariance, the weighted mean of the pooled one and of the identity times its mean variance,
    the identity counting as D images. Inverted, this is D [(N - 1) S + tr(S) I]^-1 of arXiv 2402.04087, eq. 6, but
    for a factor, which makes it the precision itself for many images as for few, and for the mean variance, which
    is over N - K degrees of freedom in place of N - 1: its weight is (N - 1) / (N - K) times the paper's, twice it
    with two images a class, 1.06 times with 16. With one image a class it is `nearest_mean`.

    Args:
        embeddings: image features [N, D].
        labels: [N], every one of `classes` present.
        classes: K.
    """
    means, centred = _centred(np.asarray(embeddings, np.float64), labels, classes)
    dimension = means.shape[1]
    freedom = len(labels) - classes
    scatter = centred.T @ centred
    variance = float(np.trace(scatter)) / (max(freedom, 1) * dimension)
    if freedom < 1 or variance < FLAT:
        return nearest_mean(embeddings, labels, classes)
    covariance = (scatter + dimension * variance * np.eye(dimension)) / (freedom + dimension)
    return _gaussian(means, np.linalg.solve(covariance, means.T).T)


def ridge(
    embeddings: npt.NDArray[np.floating],
    labels: npt.NDArray[np.integer],
    classes: int,
    *,
    strength: float | None = None,
) -> Linear:
    """Least squares on one-hot targets with a penalty on the weights, not on the bias.

    Args:
        embeddings: image features [N, D].
        labels: [N], every one of `classes` present.
        classes: K.
        strength: of the penalty; None for that of STRENGTHS with the least squared leave-one-out error.
    """
    x, targets = np.asarray(embeddings, np.float64), np.eye(classes)[labels]
    centre, share = x.mean(axis=0), targets.mean(axis=0)
    values, vectors = np.linalg.eigh((x - centre).T @ (x - centre))
    values = np.maximum(values, 0)
    turned = (x - centre) @ vectors  # [N, D]: the features in the scatter's own axes
    moments = turned.T @ (targets - share)  # [D, K]
    if strength is None:
        strength = min(STRENGTHS, key=lambda s: _left_out_error(turned, targets - share, moments, values + s))
    weights = (vectors @ (moments / (values + strength)[:, None])).T
    return Linear(weights, share - weights @ centre)


def _left_out_error(turned: Array, targets: Array, moments: Array, damped: Array) -> float:
    """Sum of squared errors of every image by the fit to all others: e_i / (1 - h_i)."""
    error = 0.0
    for start in range(0, len(turned), ROWS):
        rows = turned[start : start + ROWS]
        leverage = 1 / len(turned) + (rows**2 / damped).sum(axis=1)
        residual = targets[start : start + ROWS] - rows @ (moments / damped[:, None])
        error += float(((residual / np.maximum(1 - leverage, FLAT)[:, None]) ** 2).sum())
    return error


def _centred(x: Array, labels: npt.NDArray[np.integer], classes: int) -> tuple[Array, Array]:
    """Class means [K, D], and every image less its class's mean [N, D]."""
    counts = np.bincount(labels, minlength=classes)
    assert counts.min() > 0, "every class has an image"
    means = np.zeros((classes, x.shape[1]))
    np.add.at(means, labels, x)
    means /= counts[:, None]
    return means, x - means[labels]


def _gaussian(means: Array, weights: Array) -> Linear:
    """The classifier of Gaussians around the means, whose precision took these to the weights; equal priors."""
    return Linear(weights, -0.5 * (weights * means).sum(axis=1))
