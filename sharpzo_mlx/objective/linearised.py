"""The cross-entropy over a linear model of the class features: its value, gradient and Hessian.

With class features F + sum_j a_j S_j the logits are linear in a, so the mean cross-entropy over N images is convex in
a, and its derivatives follow from the slopes S_j without a pass of the network. Offsets of the logits do not depend on
a: they enter the probabilities, and no slope. The Gauss-Newton step of stage 2 uses the model. Images are taken in
blocks, so that one block of the N x q x K slopes of the logits is held at a time; where the memory budget allows it,
all of them are kept, because they are the same at every a.

>>> model = LinearisedLoss(features, slopes, images, backend="graph")  # doctest: +SKIP
>>> value, gradient, hessian = model(np.zeros(32))  # doctest: +SKIP
"""

from __future__ import annotations

from typing import cast

import mlx.core as mx
import numpy as np

from sharpzo_mlx.objective import chunks
from sharpzo_mlx.objective.backend import BackendName
from sharpzo_mlx.objective.logit_slopes import GraphLogitSlopes, LogitSlopes, NumPyLogitSlopes
from sharpzo_mlx.objective.loss import LabelledImages


class LinearisedLoss:
    """The mean cross-entropy of the images as a function of the coefficients a [q].

    Args:
        features: F [K, D].
        slopes: S [q, K, D], the derivatives of the features along q directions.
        images: the training images.
        backend: the computation of the curvature.
        keep: whether the slopes of all logits are computed once and kept.
    """

    def __init__(
        self,
        features: mx.array,
        slopes: mx.array,
        images: LabelledImages,
        *,
        backend: BackendName,
        keep: bool = False,
    ) -> None:
        self.features, self.slopes, self.images = features, slopes, images
        # a shift of all classes alike changes no probability; without it, differences of squares lose fewer digits
        self.centred = slopes - mx.mean(slopes, axis=1, keepdims=True)
        self.block = max(1, chunks.SLOPES_AT_ONCE // (slopes.shape[0] * slopes.shape[1]))
        kind = NumPyLogitSlopes if backend == "numpy" else GraphLogitSlopes
        self.logit_slopes: LogitSlopes = kind(self.centred, images, keep=keep)

    def __call__(self, a: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        """Return the value, the gradient [q] and the Hessian [q, q] at a [q]; blocks are summed in float64."""
        q, (count, _) = self.slopes.shape[0], self.images.embeddings.shape
        moved = self.features + mx.tensordot(mx.array(a.astype(np.float32)), self.slopes, axes=1)
        value, gradient, hessian = 0.0, np.zeros(q), np.zeros((q, q))
        for start in range(0, count, self.block):
            rows = slice(start, start + self.block)
            loss, slope, curvature = self._sum_block(moved, rows)
            value += cast(float, loss.item())
            gradient += np.array(slope, np.float64)
            hessian += np.array(curvature, np.float64)
        return value / count, gradient / count, hessian / count

    def _sum_block(self, features: mx.array, rows: slice) -> tuple[mx.array, mx.array, mx.array]:
        """Return the sums over a block of images of the cross-entropy, its gradient [q] and its Hessian [q, q]."""
        images = self.images.take(rows)
        logits = images.logits(features)  # [n, K]
        chances = mx.softmax(logits, axis=-1, precise=True)
        own = mx.arange(features.shape[0])[None] == images.labels[:, None]
        losses = mx.logsumexp(logits, axis=-1) - mx.sum(mx.where(own, logits, 0.0), axis=-1)
        pull = (chances - own).T @ images.embeddings  # [K, D]
        gradient = images.logit_scale * (self.centred.reshape(len(self.centred), -1) @ pull.reshape(-1))
        roots = mx.sqrt(chances).T  # [K, n]
        mx.eval(losses, gradient, roots)
        return mx.sum(losses), gradient, self.logit_slopes.sum_curvatures(rows, roots)
