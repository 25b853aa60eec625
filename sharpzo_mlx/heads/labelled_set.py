"""All labelled images of a run, training and validation images as one set, with the means of their views.

>>> LabelledSet.of(train, val).fit(classes=7).means.shape  # doctest: +SKIP
(7, 512)
"""

from __future__ import annotations

from dataclasses import dataclass

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from sharpzo_mlx.features.extract import Features
from sharpzo_mlx.heads.gaussians import GaussianFit


@dataclass(frozen=True)
class LabelledSet:
    """All labelled images of a run.

    Attributes:
        embeddings: [N, D] float32, training images first.
        labels: [N].
        training: how many of them are training images.
        averages: the mean of each image and of its views [N, D], which the Gaussians are fitted to; None: the images.
    """

    embeddings: npt.NDArray[np.float32]
    labels: npt.NDArray[np.integer]
    training: int
    averages: npt.NDArray[np.float32] | None = None

    @classmethod
    def of(cls, train: Features, val: Features, views: mx.array | None = None) -> LabelledSet:
        """Return the images of both splits as one set.

        Args:
            train: training images.
            val: validation images.
            views: the unit-norm means of the views of all of them [N, D], or None.
        """
        embeddings = np.concatenate([np.array(train.embeddings), np.array(val.embeddings)])
        averages = None if views is None else embeddings + np.array(views)
        if averages is not None:
            averages = averages / np.linalg.norm(averages, axis=1, keepdims=True)
        return cls(embeddings, np.concatenate([train.labels, val.labels]), len(train.labels), averages)

    def fit(self, classes: int) -> GaussianFit:
        """Return Gaussians of the images."""
        fitted = self.embeddings if self.averages is None else self.averages
        return GaussianFit(fitted, self.labels, classes, judged=None if self.averages is None else self.embeddings)
