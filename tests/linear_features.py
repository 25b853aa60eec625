"""A loss whose class features are linear in w, for the tests of the linearised loss and of Gauss-Newton steps."""

from __future__ import annotations

import mlx.core as mx
import numpy as np

from sharpzo_mlx.objective.backend import choose_backend
from sharpzo_mlx.objective.linearised import LinearisedLoss, linearise
from sharpzo_mlx.objective.loss import LabelledImages

SCALE = 7.0


class Linear:
    """Class features that are linear in w, so that a step's model is exact; K = 3, D = 6, N = 20."""

    def __init__(self, dimension: int = 12, *, offsets: bool = False) -> None:
        draw = np.random.default_rng(0)
        self.start = mx.array(draw.standard_normal((3, 6)).astype(np.float32))
        self.slope = mx.array(0.3 * draw.standard_normal((dimension, 3, 6)).astype(np.float32))
        images = draw.standard_normal((20, 6))
        embeddings = mx.array((images / np.linalg.norm(images, axis=1, keepdims=True)).astype(np.float32))
        labels = mx.array(draw.integers(0, 3, 20).astype(np.int32))
        added = mx.array(2.0 * draw.standard_normal((20, 3)).astype(np.float32)) if offsets else None
        self.images = LabelledImages(embeddings, labels, SCALE, added)
        self.queries = 0

    def features(self, w: mx.array) -> mx.array:
        self.queries += w.shape[0]
        return self.start + mx.tensordot(w, self.slope, axes=1)

    def feature_slopes(self, w: mx.array, u: mx.array) -> tuple[mx.array, mx.array]:
        self.queries += 2 * u.shape[0]
        return self.start + mx.tensordot(w, self.slope, axes=1), mx.tensordot(u, self.slope, axes=1)

    def linearised(self, features: mx.array, slopes: mx.array) -> LinearisedLoss:
        return linearise(features, slopes, self.images, backend=choose_backend())

    def image_losses(self, w: mx.array) -> mx.array:
        raise AssertionError("a step reads features")

    def losses(self, w: mx.array) -> mx.array:
        self.queries += w.shape[0]
        return mx.array([self.plain(point) for point in np.array(w, np.float64)])

    def jvp(self, w: mx.array, u: mx.array) -> tuple[mx.array, mx.array]:
        raise AssertionError("a step reads features")

    def plain(self, w: np.ndarray) -> float:
        """The mean cross-entropy in float64."""
        features = np.array(self.start, np.float64) + np.tensordot(w, np.array(self.slope, np.float64), axes=1)
        logits = SCALE * np.array(self.images.embeddings, np.float64) @ features.T
        if self.images.offsets is not None:
            logits += np.array(self.images.offsets, np.float64)
        own = logits[np.arange(20), np.array(self.images.labels)]
        top = logits.max(axis=1)
        return float(np.mean(np.log(np.exp(logits - top[:, None]).sum(axis=1)) + top - own))
