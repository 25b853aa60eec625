"""The cross-entropy over a linear model of the class features: value, gradient and Hessian in few coefficients.

With class features F + sum_j a_j S_j the logits are linear in a, and the mean cross-entropy over N images is convex
in it; its derivatives need the slopes alone, no pass of the network. They are what stage 2's Gauss-Newton step asks
for. Images are taken in blocks, so that no more than a block of the N x q x K slopes of the logits is ever held.

>>> model = LinearisedLoss(features, slopes, embeddings, labels, logit_scale=100.0)  # doctest: +SKIP
>>> value, gradient, hessian = model(np.zeros(32))  # doctest: +SKIP
"""

from __future__ import annotations

from typing import cast

import mlx.core as mx
import numpy as np

SLOPES_AT_ONCE = 1 << 20  # entries of one block of the slopes of the logits
LIVE_SLOPES = 5  # such blocks alive at once: measured, see the tests
LIVE_FEATURES = 4  # copies of the features of all probes alive at once, while slopes are made from them


def step_bytes(directions: int, classes: int, *, width: int, images: int) -> int:
    """What a step along so many directions holds beside its forwards: features, slopes, blocks of logits' slopes."""
    features = (directions + 1) * classes * width
    block = max(SLOPES_AT_ONCE, directions * classes)
    return 4 * (LIVE_FEATURES * features + LIVE_SLOPES * min(block, directions * classes * images))


class LinearisedLoss:
    """Mean cross-entropy of the images as a function of the coefficients a [q].

    Args:
        features: F [K, D].
        slopes: S [q, K, D], the features' derivatives along q directions.
        embeddings: [N, D] of unit norm.
        labels: [N] class indices.
        logit_scale: s.
    """

    def __init__(
        self, features: mx.array, slopes: mx.array, embeddings: mx.array, labels: mx.array, *, logit_scale: float
    ) -> None:
        self.features, self.slopes = features, slopes
        self.embeddings, self.labels, self.scale = embeddings, labels, logit_scale
        self.block = max(1, SLOPES_AT_ONCE // (slopes.shape[0] * slopes.shape[1]))

    def __call__(self, a: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        """Value, gradient [q] and Hessian [q, q] at a [q]; sums over the blocks in float64."""
        q, (count, _) = self.slopes.shape[0], self.embeddings.shape
        moved = self.features + mx.tensordot(mx.array(a.astype(np.float32)), self.slopes, axes=1)
        value, gradient, hessian = 0.0, np.zeros(q), np.zeros((q, q))
        for start in range(0, count, self.block):
            rows = slice(start, start + self.block)
            parts = self._sums(moved, self.embeddings[rows], self.labels[rows])
            mx.eval(*parts)
            value += cast(float, parts[0].item())
            gradient += np.array(parts[1], np.float64)
            hessian += np.array(parts[2], np.float64)
        return value / count, gradient / count, hessian / count

    def _sums(self, features: mx.array, images: mx.array, labels: mx.array) -> tuple[mx.array, mx.array, mx.array]:
        """Sums over a block of images of the cross-entropy, its gradient and its Hessian."""
        q, classes, width = self.slopes.shape
        logits = self.scale * (images @ features.T)  # [n, K]
        chances = mx.softmax(logits, axis=-1, precise=True)
        own = mx.arange(classes)[None] == labels[:, None]
        losses = mx.logsumexp(logits, axis=-1) - mx.sum(mx.where(own, logits, 0.0), axis=-1)
        slopes = self.scale * (self.slopes.reshape(q * classes, width) @ images.T).reshape(q, classes, -1)
        weights = chances.T[None]  # [1, K, n]
        mean = mx.sum(weights * slopes, axis=1, keepdims=True)
        gradient = mx.sum(slopes * (chances - own).T[None], axis=(1, 2))
        spread = ((slopes - mean) * mx.sqrt(weights)).reshape(q, -1)
        return mx.sum(losses), gradient, spread @ spread.T
