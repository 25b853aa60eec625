"""The record of a tuned prompt, with the classifiers that it stands for.

>>> prompt.logits(embeddings).shape  # doctest: +SKIP
(20, 7)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import mlx.core as mx

from sharpzo_mlx.errors import UserError


class PromptHead(Protocol):
    """A classifier that was learned from images, beside the plain words (see `heads.head.Head`)."""

    def join(self, plain: mx.array, embeddings: mx.array) -> mx.array:
        """Return the logits [N, K] of the whole classifier from those of the plain words."""
        ...


@dataclass(frozen=True)
class Prompt:
    """A tuned prompt and its classifiers.

    Without a head, the logits of an image feature f of unit norm are `logit_scale * class_features @ f`. With a head
    they are its own, in which the words are one part.

    Attributes:
        context: the tuned vectors in front of the class names [n, m].
        w: the searched vector that gave them [d].
        class_features: one row a class under the tuned context [K, D], float32; of unit norm, unless several templates
            were averaged: then the rows are those of zero-shot plus what tuning changed in the one template's.
        zero_shot_features: one row of unit norm a class before tuning [K, D], float32.
        class_names: K names as they stand in the prompts.
        folders: K names of the class folders.
        logit_scale: the factor that turns cosines into logits.
        template: the text with one `{}` that was tuned.
        head: the classifier that was learned from images beside the words, or None.
        logit_bias: the checkpoint's summand of logits, with which their logistic function is a probability; None for a
            CLIP, which was not trained for that.
    """

    context: mx.array
    w: mx.array
    class_features: mx.array
    zero_shot_features: mx.array
    class_names: tuple[str, ...]
    folders: tuple[str, ...]
    logit_scale: float
    template: str
    head: PromptHead | None = None
    logit_bias: float | None = None

    def __post_init__(self) -> None:
        """Evaluate the arrays, so that every thread may use them."""
        mx.eval(self.context, self.w, self.class_features, self.zero_shot_features)

    def logits(self, embeddings: mx.array) -> mx.array:
        """Return the logits [N, K] of image features [N, D] of unit norm, the head included; evaluated."""
        if self.head is None:
            return self.text_logits(embeddings)
        return _evaluated(self.head.join(self.zero_shot_logits(embeddings), embeddings))

    def text_logits(self, embeddings: mx.array) -> mx.array:
        """Return the logits [N, K] of the tuned words alone; evaluated."""
        return _evaluated(self.logit_scale * (embeddings @ self.class_features.T))

    def own_probabilities(self, embeddings: mx.array) -> mx.array:
        """Return for each class the probability that it fits by itself, whatever the others are; evaluated.

        They are those of the tuned words alone: a head compares classes with one another (Zhai et al., arXiv
        2303.15343, section 3.2).

        Args:
            embeddings: image features [N, D] of unit norm.

        Returns:
            [N, K]; rows do not add up to 1.

        Raises:
            UserError: the checkpoint has no summand of its logits.
        """
        if self.logit_bias is None:
            raise UserError(
                "this run's model is a CLIP, whose labels have no probabilities of their own; tune on a SigLIP"
            )
        return _evaluated(mx.sigmoid(self.text_logits(embeddings) + self.logit_bias))

    def zero_shot_logits(self, embeddings: mx.array) -> mx.array:
        """Return the logits [N, K] before tuning; evaluated."""
        return _evaluated(self.logit_scale * (embeddings @ self.zero_shot_features.T))


def _evaluated(array: mx.array) -> mx.array:
    mx.eval(array)
    return array
