"""The cross-entropy over a linear model of the class features: its value, its gradient and its curvature.

With class features F + sum_j a_j S_j the logits are linear in a, so the mean cross-entropy over N images is convex in
a, and its derivatives follow from the slopes S_j without a pass of the network. The Gauss-Newton step of stage 2 uses
the model. The gradient is exact and cheap: the derivative of the loss by the class features is one [K, D] matrix, a
product of probabilities and image features, whose products with the slopes are the gradient. The curvature needs the
slopes of the logits [q, K] of an image, so it is computed seldom, and over images spaced evenly through the set
(`chunks.curvature_images`). Offsets of the logits do not depend on a: they enter the probabilities, and no slope.

>>> model = linearise(features, slopes, images, backend="graph")  # doctest: +SKIP
>>> value, gradient, curvature = model.at_zero()  # doctest: +SKIP
>>> value, gradient = model(np.ones(32))  # doctest: +SKIP
"""

from __future__ import annotations

from typing import TypeAlias

import mlx.core as mx
import numpy as np

from sharpzo_mlx.objective import chunks
from sharpzo_mlx.objective.backend import BackendName
from sharpzo_mlx.objective.linearised_numpy import NumPyLinearisedLoss
from sharpzo_mlx.objective.loss import LabelledImages
from sharpzo_mlx.runtime.limits import begin

HOST_PRODUCT = 1 << 23  # N K D up to which NumPy computes a value sooner than a GPU answers (0.35 ms on an M4)


def linearise(features: mx.array, slopes: mx.array, images: LabelledImages, *, backend: BackendName) -> LinearisedLoss:
    """Return the mean cross-entropy of the images as a function of the coefficients a [q].

    Args:
        features: F [K, D].
        slopes: S [q, K, D], the derivatives of the features along q directions.
        images: the training images.
        backend: the computation of the values.
    """
    # a shift of all classes alike changes no probability; without it, differences of squares lose fewer digits
    centred = slopes - mx.mean(slopes, axis=1, keepdims=True)
    return (
        NumPyLinearisedLoss(features, centred, images)
        if backend == "numpy"
        else GraphLinearisedLoss(features, centred, images)
    )


class GraphLinearisedLoss:
    """The loss in MLX: everything at a = 0 with one evaluation, and elsewhere one for each block of images.

    Where a product is so small that waiting for the GPU takes longer, NumPy computes the values away from a = 0.

    Args:
        features: F [K, D].
        slopes: S [q, K, D] of mean 0 over the classes.
        images: the training images.
    """

    def __init__(self, features: mx.array, slopes: mx.array, images: LabelledImages) -> None:
        self.features, self.slopes, self.images = features, slopes, images
        (self.count, width), self.classes = images.embeddings.shape, features.shape[0]
        self.on_host = self.count * self.classes * width <= HOST_PRODUCT
        self.host: NumPyLinearisedLoss | None = None

    def at_zero(self) -> tuple[float, np.ndarray, np.ndarray]:
        """Return the value, the gradient [q] and the curvature [q, q] at a = 0, float64."""
        curvature = self._mean_curvature(self.features)
        value, gradient = self._expand(self.features, curvature, self.features, self.slopes)
        if self.on_host:
            self.host = NumPyLinearisedLoss(self.features, self.slopes, self.images)
        return value, gradient, np.array(curvature, np.float64)

    def __call__(self, a: np.ndarray) -> tuple[float, np.ndarray]:
        """Return the value and the gradient [q] at a [q], float64."""
        if self.host is not None:
            return self.host(a)
        return self._expand(self._moved(a))

    def curvature(self, a: np.ndarray) -> np.ndarray:
        """Return the curvature [q, q] at a [q], float64."""
        if self.host is not None:
            return self.host.curvature(a)
        return np.array(self._mean_curvature(self._moved(a)), np.float64)

    def _moved(self, a: np.ndarray) -> mx.array:
        return self.features + mx.tensordot(mx.array(a.astype(np.float32)), self.slopes, axes=1)

    def _expand(self, features: mx.array, *others: mx.array) -> tuple[float, np.ndarray]:
        """Return the value and the gradient at class features; the other arrays are evaluated with them."""
        losses: list[mx.array] = []
        block, pull = max(1, chunks.LOGITS_AT_ONCE // self.classes), mx.zeros_like(features)
        for start in range(0, self.count, block):
            if losses:
                begin(losses, pull)  # one block is held at a time
            own, pulled = sum_pulls(features, self.images.take(slice(start, start + block)))
            losses.append(own)
            pull = pull + pulled
        gradient = self.slopes.reshape(len(self.slopes), -1) @ pull.reshape(-1)
        mx.eval(losses, gradient, *others)
        value = sum(float(np.array(part).sum(dtype=np.float64)) for part in losses)
        return value / self.count, np.array(gradient, np.float64) / self.count

    def _mean_curvature(self, features: mx.array) -> mx.array:
        """Return the mean over some images of the covariance of the logits' slopes under the probabilities [q, q]."""
        q = self.slopes.shape[0]
        some = self.images.thin(chunks.curvature_images(self.count, self.classes, q))
        count, block = some.embeddings.shape[0], max(1, chunks.SLOPES_AT_ONCE // (q * self.classes))
        parts = (some.take(slice(start, start + block)) for start in range(0, count, block))
        return sum((self._curvature(features, part) for part in parts), mx.zeros((q, q))) / count

    def _curvature(self, features: mx.array, images: LabelledImages) -> mx.array:
        q, classes, width = self.slopes.shape
        roots = mx.sqrt(mx.softmax(images.logits(features), axis=-1, precise=True)).T  # [K, n]
        moves = self.slopes.reshape(q * classes, width) @ (images.logit_scale * images.embeddings.T)
        weighted = moves.reshape(q, classes, -1) * roots
        means, flat = mx.sum(weighted * roots, axis=1), weighted.reshape(q, -1)
        return flat @ flat.T - means @ means.T


def sum_pulls(features: mx.array, images: LabelledImages) -> tuple[mx.array, mx.array]:
    """Return the cross-entropy of each image [N], and the derivative of their sum by the class features [K, D]."""
    logits = images.logits(features)  # [N, K]
    own = mx.arange(features.shape[0])[None] == images.labels[:, None]
    losses = mx.logsumexp(logits, axis=-1) - mx.sum(mx.where(own, logits, 0.0), axis=-1)
    rest = mx.softmax(logits, axis=-1, precise=True) - own
    return losses, images.logit_scale * (rest.T @ images.embeddings)


LinearisedLoss: TypeAlias = NumPyLinearisedLoss | GraphLinearisedLoss
