"""How much two classifiers count in the sum of their logits, chosen on validation images.

    logits = a * text + b * image,   a, b >= 0

Both shares are those of the lowest cross-entropy, which is convex in them: so they also set the temperature, and the
probabilities are calibrated on the images that chose. Labels are smoothed as Platt's scaling does (1999), so that few
images that are all right do not make the shares infinite. `by_accuracy` is the rule of arXiv 2402.04087: the text
counts once, the other by the power of ten that gets most images right.

>>> rng = np.random.default_rng(0)
>>> labels = rng.integers(0, 3, 60)
>>> good, noise = np.eye(3)[labels] + rng.normal(size=(60, 3)), rng.normal(size=(60, 3))
>>> shares = by_loss(good, noise, labels)
>>> shares.text > 0.5 > shares.image
True
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sharpzo_mlx.heads.closed_form import Linear

Array = npt.NDArray[np.float64]

POWERS = range(-4, 5)  # of ten, that `by_accuracy` tries
ROUNDS, HALVINGS, SMALL = 50, 30, 1e-10


@dataclass(frozen=True)
class Shares:
    """What each classifier's logits are multiplied by."""

    text: float
    image: float


def joined(text: npt.ArrayLike, image: Linear, shares: Shares) -> Linear:
    """The sum as one linear classifier of image features.

    Args:
        text: class features times the logit scale, [K, D].
        image: the other classifier.
        shares: of both.
    """
    weights = shares.text * np.asarray(text, np.float64) + shares.image * image.weights
    return Linear(weights, shares.image * image.bias)


def by_loss(text: npt.ArrayLike, image: npt.ArrayLike, labels: npt.NDArray[np.integer]) -> Shares:
    """The shares of the lowest smoothed cross-entropy, neither below zero; one alone may get everything.

    Args:
        text: logits [N, K] of the text classifier.
        image: logits [N, K] of the other, on the same images.
        labels: [N].
    """
    logits = np.stack([np.asarray(text, np.float64), np.asarray(image, np.float64)])  # [2, N, K]
    logits -= logits.mean(axis=2, keepdims=True)
    units = np.maximum(logits.std(axis=(1, 2)), SMALL)
    loss = _SmoothedLoss(logits / units[:, None, None], labels)
    inside = loss.lowest((0, 1))
    if inside.min() > 0:
        found = inside
    else:  # convex: then the lowest place lies on an edge
        edges = [np.maximum(loss.lowest((part,)), 0) for part in (0, 1)]
        found = min(edges, key=loss.value)
    shares = found / units
    return Shares(*shares.tolist()) if shares.max() > 0 else Shares(1.0, 0.0)


def by_accuracy(text: npt.ArrayLike, image: npt.ArrayLike, labels: npt.NDArray[np.integer]) -> Shares:
    """The text as it is, and the power of ten that gets most images right; the smallest of equals."""
    one, other = np.asarray(text), np.asarray(image)
    tried = [10.0**power for power in POWERS]
    right = [int(((one + share * other).argmax(axis=1) == labels).sum()) for share in tried]
    return Shares(1.0, tried[int(np.argmax(right))])


class _SmoothedLoss:
    """Cross-entropy of a sum of logits as a function of the shares, labels smoothed.

    Args:
        logits: of each part [2, N, K].
        labels: [N].
    """

    def __init__(self, logits: Array, labels: npt.NDArray[np.integer]) -> None:
        parts, images, classes = logits.shape
        self.logits = logits
        smoothed = np.full((images, classes), 1 / (images + 1) / classes)  # as if one image more were of any class
        smoothed[np.arange(images), labels] += images / (images + 1)
        self.aim = (logits * smoothed).sum(axis=2).mean(axis=1)  # [2]
        assert parts == 2, "two classifiers are joined"

    def value(self, shares: Array) -> float:
        """The loss, in nats an image."""
        summed = np.tensordot(shares, self.logits, 1)  # [N, K]
        top = summed.max(axis=1)
        return float((top + np.log(np.exp(summed - top[:, None]).sum(axis=1))).mean() - shares @ self.aim)

    def lowest(self, parts: tuple[int, ...]) -> Array:
        """Where the loss is lowest when only these parts may count: damped Newton steps from nothing."""
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

    def _derivatives(self, shares: Array) -> tuple[Array, Array]:
        """The slope [2] and the curvature [2, 2]: the parts' covariance under the probabilities."""
        summed = np.tensordot(shares, self.logits, 1)
        powers = np.exp(summed - summed.max(axis=1, keepdims=True))
        probabilities = powers / powers.sum(axis=1, keepdims=True)
        means = (probabilities * self.logits).sum(axis=2)  # [2, N]
        centred = self.logits - means[:, :, None]
        curvature = np.einsum("nk,ink,jnk->ij", probabilities, centred, centred, optimize=True) / summed.shape[0]
        return means.mean(axis=1) - self.aim, curvature
