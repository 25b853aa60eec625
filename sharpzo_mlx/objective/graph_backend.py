"""Compute class features and losses as a lazy graph of MLX; see `backend.Backend`."""

from __future__ import annotations

import mlx.core as mx

from sharpzo_mlx.objective.chunks import Sizes, must_split_graph
from sharpzo_mlx.objective.loss import LabelledImages, image_losses, mean_losses
from sharpzo_mlx.prompts.cpu_pieces import Share
from sharpzo_mlx.prompts.text_features import TextFeatures
from sharpzo_mlx.runtime.limits import is_bounded


class GraphBackend:
    """Lazy values on any device.

    Args:
        text: the text tower, specialised to the classes.
        images: the training images.
        sizes: the problem's sizes.
        budget: the memory budget in bytes; a graph that needs more is evaluated layer by layer, unless MLX bounds its
            memory by itself (`limits.bounded`), which spares waiting for each layer.
        share: the contexts of a batch that results are returned for; None: all.
    """

    piece_sizes = None

    def __init__(
        self, text: TextFeatures, images: LabelledImages, *, sizes: Sizes, budget: int, share: Share | None = None
    ) -> None:
        self.text, self.images, self.sizes, self.budget, self._share = text, images, sizes, budget, share

    def of(self, share: Share) -> GraphBackend:
        """Return the backend whose results are those of a share of the contexts."""
        return GraphBackend(self.text, self.images, sizes=self.sizes, budget=self.budget, share=share)

    def edges(self, count: int, cores: int) -> list[int]:
        """Return where a batch of contexts falls into shares: nowhere, because the graph computes it at once."""
        return [0, count]

    def class_features(self, contexts: mx.array) -> mx.array:
        """Return the class features of contexts, [P, n, m] -> [P, K, D] float32 of unit norm."""
        if self._share is not None:
            contexts = contexts[self._share.start : self._share.stop]
        stages = self.text.stages()
        split = not is_bounded() and must_split_graph(self.sizes, int(contexts.shape[0]), len(stages), self.budget)
        for stage in stages:
            contexts = stage(contexts)
            if split:
                mx.eval(contexts)
        return contexts

    def losses(self, contexts: mx.array) -> mx.array:
        """Return the mean loss of the training images, [P, n, m] -> [P] float32."""
        return mean_losses(self.class_features(contexts), self.images)

    def image_losses(self, contexts: mx.array) -> mx.array:
        """Return the loss of each training image, [P, n, m] -> [P, N] float32."""
        return image_losses(self.class_features(contexts), self.images)
