"""Compute the curvature of the linearised loss from the slopes of the logits: in MLX, and the same in NumPy.

The slopes S_j f_i of the logits of image i along direction j depend neither on the point nor on the offsets of the
logits, so both classes can keep them: they are most of the work of an evaluation.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Generic, Protocol, TypeVar

import mlx.core as mx
import numpy as np

from sharpzo_mlx.objective.loss import LabelledImages

A = TypeVar("A", mx.array, np.ndarray)


class LogitSlopes(Protocol):
    """The slopes of the logits of N images along q directions."""

    def sum_curvatures(self, rows: slice, roots: mx.array) -> mx.array:
        """Return the sum over a block of images of the covariance of the logits' slopes under the probabilities.

        Args:
            rows: the block's images.
            roots: the square roots of the class probabilities of these images [K, n].

        Returns:
            [q, q].
        """
        ...


class _KeptSlopes(ABC, Generic[A]):
    """The slopes of the logits as arrays of one library, computed once for each block of images if they are kept.

    Args:
        slopes: the derivatives of the class features along q directions [q, K, D].
        images: the training images.
        keep: whether the slopes of the logits are computed once and kept.
    """

    def __init__(self, slopes: mx.array, images: LabelledImages, *, keep: bool) -> None:
        self.slopes, self.images, self.keep = slopes, images, keep
        self.kept: dict[int, A] = {}  # by the first image of a block

    @abstractmethod
    def compute(self, rows: slice) -> A:
        """Compute the slopes of a block's logits [q, K, n]."""

    def find(self, rows: slice) -> A:
        """Return the slopes of a block's logits [q, K, n], kept or computed."""
        if rows.start in self.kept:
            return self.kept[rows.start]
        slopes = self.compute(rows)
        if self.keep:
            if isinstance(slopes, mx.array):
                mx.eval(slopes)
            self.kept[rows.start] = slopes
        return slopes


class GraphLogitSlopes(_KeptSlopes[mx.array]):
    """The slopes in MLX."""

    def sum_curvatures(self, rows: slice, roots: mx.array) -> mx.array:
        """See `LogitSlopes`."""
        slopes = self.find(rows) * roots
        means, flat = mx.sum(slopes * roots, axis=1), slopes.reshape(len(slopes), -1)
        return flat @ flat.T - means @ means.T

    def compute(self, rows: slice) -> mx.array:
        """Compute the slopes of a block's logits [q, K, n]."""
        q, classes, width = self.slopes.shape
        return (self.slopes.reshape(q * classes, width) @ scale_images(self.images, rows)).reshape(q, classes, -1)


class NumPyLogitSlopes(_KeptSlopes[np.ndarray]):
    """The same in NumPy: MLX's CPU device is slow at elementwise passes over all slopes."""

    def sum_curvatures(self, rows: slice, roots: mx.array) -> mx.array:
        """See `LogitSlopes`."""
        weights, plain = np.array(roots, copy=False), self.find(rows)
        slopes = np.multiply(plain, weights, out=None if self.keep else plain)
        means, flat = np.einsum("qkn,kn->qn", slopes, weights), slopes.reshape(len(slopes), -1)
        return mx.array(flat @ flat.T - means @ means.T)

    def compute(self, rows: slice) -> np.ndarray:
        """Compute the slopes of a block's logits [q, K, n]."""
        q, classes, width = self.slopes.shape
        images = np.array(scale_images(self.images, rows), copy=False)
        found: np.ndarray = np.array(self.slopes, copy=False).reshape(q * classes, width) @ images
        return found.reshape(q, classes, -1)


def scale_images(images: LabelledImages, rows: slice) -> mx.array:
    """Return the features of a block of images times the logit scale, transposed: [D, n]."""
    return images.logit_scale * images.embeddings[rows].T
