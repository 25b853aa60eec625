"""Compute class features and losses in NumPy, for MLX's CPU device; see `backend.Backend`.

Values are computed at once. Derivatives, which only tests and gradient methods ask for, are those of the graph.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import mlx.core as mx
import numpy as np

from sharpzo_mlx.objective.loss import LabelledImages, image_losses, image_losses_numpy, mean_losses
from sharpzo_mlx.prompts.cpu_pieces import Share
from sharpzo_mlx.prompts.text_features import CPUText, TextFeatures


class NumPyBackend:
    """Values of NumPy with derivatives of the graph.

    Args:
        text: the text tower, specialised to the classes, for derivatives.
        cpu: the same in NumPy, for values.
        images: the training images.
        share: the contexts of a batch that results are returned for; None: all.
    """

    def __init__(self, text: TextFeatures, cpu: CPUText, images: LabelledImages, share: Share | None = None) -> None:
        self.text, self.cpu, self.images, self._share = text, cpu, images, share
        self.piece_sizes = cpu.piece_sizes

    def of(self, share: Share) -> NumPyBackend:
        """Return the backend whose results are those of a share of the contexts."""
        return NumPyBackend(self.text, self.cpu, self.images, share)

    def edges(self, count: int, cores: int) -> list[int]:
        """Return where a batch of contexts falls into shares: between the pieces of the cores."""
        return self.cpu.plan.edges(count, cores=cores)

    def class_features(self, contexts: mx.array) -> mx.array:
        """Return the class features of contexts, [P, n, m] -> [P, K, D] float32 of unit norm."""
        return with_values_of(self._feature_values, self.text.class_features)(contexts)

    def losses(self, contexts: mx.array) -> mx.array:
        """Return the mean loss of the training images, [P, n, m] -> [P] float32."""
        return with_values_of(
            lambda x: average(self._loss_values(x)), lambda x: mean_losses(self.text.class_features(x), self.images)
        )(contexts)

    def image_losses(self, contexts: mx.array) -> mx.array:
        """Return the loss of each training image, [P, n, m] -> [P, N] float32."""
        return with_values_of(self._loss_values, lambda x: image_losses(self.text.class_features(x), self.images))(
            contexts
        )

    def _feature_values(self, contexts: mx.array) -> np.ndarray:
        return self.cpu.class_features(np.array(contexts.astype(mx.float32), copy=False), self._share)

    def _loss_values(self, contexts: mx.array) -> np.ndarray:
        images = self.images
        embeddings, labels = (np.array(x, copy=False) for x in (images.embeddings, images.labels))
        offsets = None if images.offsets is None else np.array(images.offsets, copy=False)
        return image_losses_numpy(self._feature_values(contexts), embeddings, labels, images.logit_scale, offsets)


def average(losses: np.ndarray) -> np.ndarray:
    """Average over the images, [P, N] -> [P]; in float64, because differences of the results are taken."""
    means: np.ndarray = np.asarray(losses.mean(axis=-1, dtype=np.float64), np.float32)
    return means


def with_values_of(
    values: Callable[[mx.array], np.ndarray], graph: Callable[[mx.array], mx.array]
) -> Callable[[mx.array], mx.array]:
    """Return a function whose values `values` computes and whose derivatives are those of `graph`."""

    @mx.custom_function
    def function(x: mx.array) -> mx.array:
        return mx.array(values(x))

    def forward(x: mx.array, tangent: mx.array) -> mx.array:
        return mx.jvp(graph, [x], [tangent])[1][0]

    def backward(x: mx.array, cotangent: mx.array, _: mx.array) -> mx.array:
        return mx.vjp(graph, [x], [cotangent])[1][0]

    function.jvp(forward)
    function.vjp(backward)
    return cast("Callable[[mx.array], mx.array]", function)
