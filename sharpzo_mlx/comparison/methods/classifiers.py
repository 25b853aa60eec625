"""The predictors that read image features alone: class features against them, a linear classifier, or a head.

>>> CosineClassifier(mx.eye(2), 100.0).class_features.shape
(2, 2)
"""

from __future__ import annotations

from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from sharpzo_mlx.features.extract import Features
from sharpzo_mlx.heads import closed_form
from sharpzo_mlx.heads.head import Head
from sharpzo_mlx.objective.build import Problem


@dataclass(frozen=True)
class CosineClassifier:
    """Class features [K, D] whose products with image features, times the checkpoint's scale, are the logits."""

    class_features: mx.array
    logit_scale: float

    @classmethod
    def at(cls, problem: Problem, w: mx.array) -> CosineClassifier:
        """Return the classifier of the prompt at w [d], by one pass of the text tower that is not a query."""
        return cls(problem.objective.class_features(w), problem.objective.logit_scale)

    def logits(self, features: Features) -> mx.array:
        """Return the logits [N, K]."""
        return self.logit_scale * (features.embeddings @ self.class_features.T)


@dataclass(frozen=True)
class LinearClassifier:
    """A closed-form classifier whose logits are multiplied by `share`."""

    linear: closed_form.Linear
    share: float = 1.0

    def logits(self, features: Features) -> mx.array:
        """Return the logits [N, K]."""
        found = self.share * self.linear.logits(np.array(features.embeddings))
        return mx.array(found.astype(np.float32))


@dataclass(frozen=True)
class HeadClassifier:
    """A head beside plain words, whose class features are `words` [K, D]."""

    head: Head
    words: mx.array
    logit_scale: float

    def logits(self, features: Features) -> mx.array:
        """Return the logits [N, K]."""
        plain = self.logit_scale * (features.embeddings @ self.words.T)
        return self.head.join(plain, features.embeddings)
