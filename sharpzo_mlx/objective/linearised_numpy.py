"""The linearised loss of `linearised` in NumPy, on all cores: MLX's CPU device is slow at elementwise passes.

The images are divided in the same way whatever the number of cores, so that a run repeats on another machine's cores.

>>> model = NumPyLinearisedLoss(features, slopes, images)  # doctest: +SKIP
"""

from __future__ import annotations

import mlx.core as mx
import numpy as np

from sharpzo_mlx.objective import chunks
from sharpzo_mlx.objective.loss import LabelledImages, exponentiate
from sharpzo_mlx.runtime.threads import spread


class NumPyLinearisedLoss:
    """The mean cross-entropy of the images as a function of the coefficients a [q].

    Args:
        features: F [K, D].
        slopes: S [q, K, D] of mean 0 over the classes.
        images: the training images.
    """

    def __init__(self, features: mx.array, slopes: mx.array, images: LabelledImages) -> None:
        self.features, self.slopes, self.images = np.asarray(features), np.asarray(slopes), images
        self.flat = self.slopes.reshape(len(self.slopes), -1)
        self.count, self.classes = images.embeddings.shape[0], len(self.features)
        self.embeddings, self.labels = np.asarray(images.embeddings), np.asarray(images.labels)
        self.offsets = None if images.offsets is None else np.asarray(images.offsets)

    def at_zero(self) -> tuple[float, np.ndarray, np.ndarray]:
        """Return the value, the gradient [q] and the curvature [q, q] at a = 0, float64."""
        return (*self._expand(self.features), self._mean_curvature(self.features))

    def __call__(self, a: np.ndarray) -> tuple[float, np.ndarray]:
        """Return the value and the gradient [q] at a [q], float64."""
        return self._expand(self._moved(a))

    def curvature(self, a: np.ndarray) -> np.ndarray:
        """Return the curvature [q, q] at a [q], float64."""
        return self._mean_curvature(self._moved(a))

    def _moved(self, a: np.ndarray) -> np.ndarray:
        moved: np.ndarray = self.features + (a.astype(np.float32) @ self.flat).reshape(self.features.shape)
        return moved

    def _expand(self, features: np.ndarray) -> tuple[float, np.ndarray]:
        parts = chunks.CPU_PARTS if self.count * self.classes > chunks.CPU_LOGITS_AT_ONCE else 1
        edges = [self.count * part // parts for part in range(parts + 1)]
        found = spread(lambda part: self._sum_part(features, edges[part], edges[part + 1]), range(parts))
        value = sum(loss for loss, _ in found) / self.count
        pull = sum((pull for _, pull in found[1:]), found[0][1])
        pull *= np.float32(self.images.logit_scale)
        return value, (self.flat @ pull.reshape(-1)).astype(np.float64) / self.count

    def _sum_part(self, features: np.ndarray, start: int, end: int) -> tuple[float, np.ndarray]:
        """Return the sum of some images' losses, and its derivative by the cosines' class features [K, D]."""
        step = max(1, chunks.CPU_LOGITS_AT_ONCE // self.classes)
        value, pull = 0.0, np.zeros_like(features)
        for first in range(start, end, step):
            rows = slice(first, min(first + step, end))
            chances, losses = self._chances(features, rows)
            value += float(losses.sum(dtype=np.float64))
            chances[np.arange(len(chances)), self.labels[rows]] -= 1
            pull += chances.T @ self.embeddings[rows]
        return value, pull

    def _chances(self, features: np.ndarray, rows: slice | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the probabilities [n, K] and the losses [n] of some images."""
        logits = self.embeddings[rows] @ features.T
        logits *= np.float32(self.images.logit_scale)
        if self.offsets is not None:
            logits += self.offsets[rows]
        losses, totals = exponentiate(logits, self.labels[rows])
        logits /= totals[:, None]
        return logits, losses

    def _mean_curvature(self, features: np.ndarray) -> np.ndarray:
        """Return the mean over some images of the covariance of the logits' slopes under the probabilities [q, q]."""
        q = len(self.slopes)
        count = chunks.curvature_images(self.count, self.classes, q)
        rows = chunks.spaced(self.count, count)
        step = max(1, chunks.CPU_SLOPES_AT_ONCE // (q * self.classes))
        blocks = [rows[start : start + step] for start in range(0, count, step)]
        found = spread(lambda block: self._curvature(features, block), blocks)
        total: np.ndarray = np.array(found, np.float64).sum(axis=0)
        return total / count

    def _curvature(self, features: np.ndarray, rows: np.ndarray) -> np.ndarray:
        q, classes, width = self.slopes.shape
        roots = np.sqrt(self._chances(features, rows)[0]).T  # [K, n]
        scaled = np.float32(self.images.logit_scale) * self.embeddings[rows].T
        weighted = (self.slopes.reshape(q * classes, width) @ scaled).reshape(q, classes, -1)
        weighted *= roots
        means, flat = np.einsum("qkn,kn->qn", weighted, roots), weighted.reshape(q, -1)
        found: np.ndarray = flat @ flat.T - means @ means.T
        return found
