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

SLOPES_AT_ONCE = 1 << 22  # entries of one block of the slopes of the logits
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
        # what moves all classes alike changes no probability: without it differences of squares keep their digits
        self.centred = slopes - mx.mean(slopes, axis=1, keepdims=True)
        self.embeddings, self.labels, self.scale = embeddings, labels, logit_scale
        self.block = max(1, SLOPES_AT_ONCE // (slopes.shape[0] * slopes.shape[1]))

    def __call__(self, a: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        """Value, gradient [q] and Hessian [q, q] at a [q]; sums over the blocks in float64."""
        q, (count, _) = self.slopes.shape[0], self.embeddings.shape
        moved = self.features + mx.tensordot(mx.array(a.astype(np.float32)), self.slopes, axes=1)
        value, gradient, hessian = 0.0, np.zeros(q), np.zeros((q, q))
        for start in range(0, count, self.block):
            rows = slice(start, start + self.block)
            loss, slope, curvature = self._sums(moved, self.embeddings[rows], self.labels[rows])
            value += cast(float, loss.item())
            gradient += np.array(slope, np.float64)
            hessian += np.array(curvature, np.float64)
        return value / count, gradient / count, hessian / count

    def _sums(self, features: mx.array, images: mx.array, labels: mx.array) -> tuple[mx.array, mx.array, mx.array]:
        """Sums over a block of images of the cross-entropy, its gradient and its Hessian."""
        logits = self.scale * (images @ features.T)  # [n, K]
        chances = mx.softmax(logits, axis=-1, precise=True)
        own = mx.arange(features.shape[0])[None] == labels[:, None]
        losses = mx.logsumexp(logits, axis=-1) - mx.sum(mx.where(own, logits, 0.0), axis=-1)
        pull = (chances - own).T @ images  # [K, D]
        gradient = self.scale * (self.centred.reshape(len(self.centred), -1) @ pull.reshape(-1))
        scaled, roots = self.scale * images.T, mx.sqrt(chances).T  # [D, n], [K, n]
        mx.eval(losses, gradient, scaled, roots)
        curvature = self._host_curvature if mx.default_device() == mx.Device(mx.cpu) else self._curvature
        return mx.sum(losses), gradient, curvature(scaled, roots)

    def _curvature(self, images: mx.array, roots: mx.array) -> mx.array:
        """Sum over images of the covariance of the logits' slopes under the chances, whose roots are given."""
        q, classes, width = self.centred.shape
        slopes = (self.centred.reshape(q * classes, width) @ images).reshape(q, classes, -1) * roots
        means, rows = mx.sum(slopes * roots, axis=1), slopes.reshape(q, -1)
        return rows @ rows.T - means @ means.T

    def _host_curvature(self, images: mx.array, roots: mx.array) -> mx.array:
        """The same in NumPy: the elementwise passes over all slopes are what MLX's CPU device is slow at."""
        q, classes, width = self.centred.shape
        centred, weights = np.array(self.centred, copy=False), np.array(roots, copy=False)
        slopes = (centred.reshape(q * classes, width) @ np.array(images, copy=False)).reshape(q, classes, -1)
        slopes *= weights
        means, rows = np.einsum("qkn,kn->qn", slopes, weights), slopes.reshape(q, -1)
        return mx.array(rows @ rows.T - means @ means.T)
