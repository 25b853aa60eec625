"""The cross-entropy over a linear model of the class features: value, gradient and Hessian in few coefficients.

With class features F + sum_j a_j S_j the logits are linear in a, and the mean cross-entropy over N images is convex
in it; its derivatives need the slopes alone, no pass of the network. They are what stage 2's Gauss-Newton step asks
for. Images are taken in blocks, so that no more than a block of the N x q x K slopes of the logits is ever held; where
all of them find room they are kept, for they are the same at every a and most of an evaluation's work.

>>> model = LinearisedLoss(features, slopes, embeddings, labels, logit_scale=100.0)  # doctest: +SKIP
>>> value, gradient, hessian = model(np.zeros(32))  # doctest: +SKIP
"""

from __future__ import annotations

from typing import cast

import mlx.core as mx
import numpy as np

SLOPES_AT_ONCE = 1 << 22  # entries of one block of the slopes of the logits
LIVE_SLOPES = 5  # such blocks alive at once: measured, see the tests
KEPT_SLOPES = 1 << 24  # entries of all slopes of the logits at most, where they are kept
LIVE_FEATURES = 4  # copies of the features of all probes alive at once, while slopes are made from them


def keeps(directions: int, classes: int, *, images: int, room: int) -> bool:
    """Whether the slopes of all logits are kept: a quarter of so many bytes is enough for them."""
    entries = directions * classes * images
    return entries <= KEPT_SLOPES and 4 * entries <= room // 4


def step_bytes(directions: int, classes: int, *, width: int, images: int, kept: bool) -> int:
    """What a step along so many directions holds beside its forwards: features, slopes, blocks of logits' slopes."""
    features = (directions + 1) * classes * width
    block, entries = max(SLOPES_AT_ONCE, directions * classes), directions * classes * images
    return 4 * (LIVE_FEATURES * features + LIVE_SLOPES * min(block, entries) + (entries if kept else 0))


class LinearisedLoss:
    """Mean cross-entropy of the images as a function of the coefficients a [q].

    Args:
        features: F [K, D].
        slopes: S [q, K, D], the features' derivatives along q directions.
        embeddings: [N, D] of unit norm.
        labels: [N] class indices.
        logit_scale: s.
        keep: whether the slopes of all logits are computed once and kept.
    """

    def __init__(
        self,
        features: mx.array,
        slopes: mx.array,
        embeddings: mx.array,
        labels: mx.array,
        *,
        logit_scale: float,
        keep: bool = False,
    ) -> None:
        self.features, self.slopes = features, slopes
        # what moves all classes alike changes no probability: without it differences of squares keep their digits
        self.centred = slopes - mx.mean(slopes, axis=1, keepdims=True)
        self.embeddings, self.labels, self.scale = embeddings, labels, logit_scale
        self.block = max(1, SLOPES_AT_ONCE // (slopes.shape[0] * slopes.shape[1]))
        self.keep = keep
        self.graphs: dict[int, mx.array] = {}  # the kept slopes, by a block's first image
        self.hosts: dict[int, np.ndarray] = {}

    def __call__(self, a: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        """Value, gradient [q] and Hessian [q, q] at a [q]; sums over the blocks in float64."""
        q, (count, _) = self.slopes.shape[0], self.embeddings.shape
        moved = self.features + mx.tensordot(mx.array(a.astype(np.float32)), self.slopes, axes=1)
        value, gradient, hessian = 0.0, np.zeros(q), np.zeros((q, q))
        for start in range(0, count, self.block):
            rows = slice(start, start + self.block)
            loss, slope, curvature = self._sums(moved, rows)
            value += cast(float, loss.item())
            gradient += np.array(slope, np.float64)
            hessian += np.array(curvature, np.float64)
        return value / count, gradient / count, hessian / count

    def _sums(self, features: mx.array, rows: slice) -> tuple[mx.array, mx.array, mx.array]:
        """Sums over a block of images of the cross-entropy, its gradient and its Hessian."""
        images, labels = self.embeddings[rows], self.labels[rows]
        logits = self.scale * (images @ features.T)  # [n, K]
        chances = mx.softmax(logits, axis=-1, precise=True)
        own = mx.arange(features.shape[0])[None] == labels[:, None]
        losses = mx.logsumexp(logits, axis=-1) - mx.sum(mx.where(own, logits, 0.0), axis=-1)
        pull = (chances - own).T @ images  # [K, D]
        gradient = self.scale * (self.centred.reshape(len(self.centred), -1) @ pull.reshape(-1))
        roots = mx.sqrt(chances).T  # [K, n]
        mx.eval(losses, gradient, roots)
        curvature = self._host_curvature if mx.default_device() == mx.Device(mx.cpu) else self._curvature
        return mx.sum(losses), gradient, curvature(rows, roots)

    def _curvature(self, rows: slice, roots: mx.array) -> mx.array:
        """Sum over images of the covariance of the logits' slopes under the chances, whose roots are given."""
        slopes = self._slopes(rows) * roots
        means, flat = mx.sum(slopes * roots, axis=1), slopes.reshape(len(slopes), -1)
        return flat @ flat.T - means @ means.T

    def _slopes(self, rows: slice) -> mx.array:
        """The slopes of a block's logits, [q, K, n]."""
        if rows.start in self.graphs:
            return self.graphs[rows.start]
        q, classes, width = self.centred.shape
        found = (self.centred.reshape(q * classes, width) @ self._scaled(rows)).reshape(q, classes, -1)
        if self.keep:
            mx.eval(found)
            self.graphs[rows.start] = found
        return found

    def _scaled(self, rows: slice) -> mx.array:
        return self.scale * self.embeddings[rows].T

    def _host_curvature(self, rows: slice, roots: mx.array) -> mx.array:
        """The same in NumPy: the elementwise passes over all slopes are what MLX's CPU device is slow at."""
        weights, plain = np.array(roots, copy=False), self._host_slopes(rows)
        slopes = np.multiply(plain, weights, out=None if self.keep else plain)
        means, flat = np.einsum("qkn,kn->qn", slopes, weights), slopes.reshape(len(slopes), -1)
        return mx.array(flat @ flat.T - means @ means.T)

    def _host_slopes(self, rows: slice) -> np.ndarray:
        if rows.start in self.hosts:
            return self.hosts[rows.start]
        q, classes, width = self.centred.shape
        images = np.array(self._scaled(rows), copy=False)
        found = np.array(self.centred, copy=False).reshape(q * classes, width) @ images
        found = found.reshape(q, classes, -1)
        if self.keep:
            self.hosts[rows.start] = found
        return cast(np.ndarray, found)
