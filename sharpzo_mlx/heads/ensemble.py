"""Choose the weights of two classifiers in the sum of their logits on validation images.

    logits = a * text + b * image,   a, b >= 0

`choose_shares_by_loss` takes the shares a and b of the lowest cross-entropy, which is convex in them. So they also set
the temperature, and the probabilities are calibrated on the validation images. Labels are smoothed as in Platt's
scaling (1999), so that the shares stay finite where all of a few images are right. `choose_shares_by_accuracy` is the
rule of arXiv 2402.04087: a = 1, and b is the power of ten with which most images are right.

>>> rng = np.random.default_rng(0)
>>> labels = rng.integers(0, 3, 60)
>>> good, noise = np.eye(3)[labels] + rng.normal(size=(60, 3)), rng.normal(size=(60, 3))
>>> shares = choose_shares_by_loss(good, noise, labels)
>>> shares.text > 0.5 > shares.image
True
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sharpzo_mlx.heads.closed_form import Linear
from sharpzo_mlx.objective.loss import mark_right
from sharpzo_mlx.runtime.products import host_products

Array = npt.NDArray[np.float64]

POWERS = range(-4, 5)  # of ten, that `choose_shares_by_accuracy` tries
ROUNDS = 50  # Newton steps, at most
HALVINGS = 30  # of a step that raises the loss, at most
SMALL = 1e-10  # decrease of the loss at which the steps end, and other numbers that count as zero


@dataclass(frozen=True)
class Shares:
    """The weight of each classifier's logits in the sum."""

    text: float
    image: float


def join_classifiers(text: npt.ArrayLike, image: Linear, shares: Shares) -> Linear:
    """Return the weighted sum of two classifiers as one linear classifier of image features.

    Args:
        text: class features times the logit scale [K, D].
        image: the classifier that was fitted to images.
        shares: the weights of both.
    """
    weights = shares.text * np.asarray(text, np.float64) + shares.image * image.weights
    return Linear(weights, shares.image * image.bias)


def choose_shares_by_loss(text: npt.ArrayLike, image: npt.ArrayLike, labels: npt.NDArray[np.integer]) -> Shares:
    """Return the shares of the lowest smoothed cross-entropy, neither of them negative; one of them may be zero.

    Args:
        text: logits [N, K] of the text classifier.
        image: logits [N, K] of the other classifier on the same images.
        labels: [N].
    """
    logits = np.stack([np.asarray(text, np.float64), np.asarray(image, np.float64)])  # [2, N, K]
    logits -= logits.mean(axis=2, keepdims=True)
    units = np.maximum(logits.std(axis=(1, 2)), SMALL)
    loss = _SmoothedLoss(logits / units[:, None, None], labels)
    inside = loss.minimise((0, 1))
    if inside.min() > 0:
        found = inside
    else:  # the loss is convex, so that its minimum over a, b >= 0 lies where one of them is zero
        edges = [np.maximum(loss.minimise((part,)), 0) for part in (0, 1)]
        found = min(edges, key=loss.value)
    shares = found / units
    return Shares(*shares.tolist()) if shares.max() > 0 else Shares(1.0, 0.0)


def choose_shares_by_accuracy(text: npt.ArrayLike, image: npt.ArrayLike, labels: npt.NDArray[np.integer]) -> Shares:
    """Return share 1 for the text and the power of ten that gets most images right for the other, the least of equals.

    Args:
        text: logits [N, K] of the text classifier.
        image: logits [N, K] of the other classifier on the same images.
        labels: [N].
    """
    one, other = np.asarray(text), np.asarray(image)
    tried = [10.0**power for power in POWERS]
    right = [int(mark_right(one + share * other, labels).sum()) for share in tried]
    return Shares(1.0, tried[int(np.argmax(right))])


class _SmoothedLoss:
    """The cross-entropy of a weighted sum of logits, with smoothed labels, as a function of the shares [2].

    Args:
        logits: the logits of both classifiers [2, N, K].
        labels: [N].
    """

    def __init__(self, logits: Array, labels: npt.NDArray[np.integer]) -> None:
        parts, images, classes = logits.shape
        self.logits = logits
        smoothed = np.full((images, classes), 1 / (images + 1) / classes)  # as if one more image had any class
        smoothed[np.arange(images), labels] += images / (images + 1)
        self.aim = (logits * smoothed).sum(axis=2).mean(axis=1)  # [2]
        assert parts == 2, "there are two classifiers"

    @host_products()
    def value(self, shares: Array) -> float:
        """Return the loss in nats an image."""
        summed = np.tensordot(shares, self.logits, 1)  # [N, K]
        top = summed.max(axis=1)
        return float((top + np.log(np.exp(summed - top[:, None]).sum(axis=1))).mean() - shares @ self.aim)

    def minimise(self, parts: tuple[int, ...]) -> Array:
        """Return the shares of the lowest loss with all but these parts held at 0, by damped Newton steps from 0."""
        at, chosen = np.zeros(2), list(parts)
        value = self.value(at)
        for _ in range(ROUNDS):
            slope, curvature = self._derivatives(at)
            step = np.zeros(2)
            ridge = SMALL * np.eye(len(chosen))
            step[chosen] = np.linalg.solve(curvature[np.ix_(chosen, chosen)] + ridge, slope[chosen])
            length = 1.0
            while self.value(at - length * step) > value and length > 2.0**-HALVINGS:
                length /= 2
            at = at - length * step
            before, value = value, self.value(at)
            if before - value < SMALL:
                break
        return at

    @host_products()
    def _derivatives(self, shares: Array) -> tuple[Array, Array]:
        """Return the gradient [2] and the Hessian [2, 2], the logits' covariance under the probabilities."""
        summed = np.tensordot(shares, self.logits, 1)
        powers = np.exp(summed - summed.max(axis=1, keepdims=True))
        probabilities = powers / powers.sum(axis=1, keepdims=True)
        means = (probabilities * self.logits).sum(axis=2)  # [2, N]
        centred = self.logits - means[:, :, None]
        curvature = np.einsum("nk,ink,jnk->ij", probabilities, centred, centred, optimize=True) / summed.shape[0]
        return means.mean(axis=1) - self.aim, curvature
