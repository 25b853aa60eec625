"""The record of a head: a classifier that was learned from images, with a guard that says how much it may speak.

    logits(f) = (1 - g(f)) s <f, t_k> + g(f) (weight_k f + bias_k)

t are the plain words, so that an image unlike all labelled images gets exactly the answer of zero-shot. Where a prompt
was tuned beside the head, its words are part of the learned weights.

>>> prompt.head.opening(embeddings)  # doctest: +SKIP
array([0.98, 0.99, 0.02], dtype=float32)
"""

from __future__ import annotations

from dataclasses import dataclass

import mlx.core as mx

from sharpzo_mlx.heads.guard import Guard


@dataclass(frozen=True)
class Head:
    """A linear classifier of image features, its guard, and what left-out images say of its answers.

    Attributes:
        kind: the name of the classifier, as the option `head` has it.
        weight: [K, D] float32, the words included.
        bias: [K] float32.
        guard: how much of the learned logits an image hears.
        text_share: the weight of the words' logits in the learned classifier.
        image_share: the weight of the Gaussians' log-densities.
        named_share: the weight of the words in the Gaussians' metric.
        distances: [M] float32, rising: the guard's distances of M left-out images.
        scores: [M] float32, rising: the probability that left-out images got for their own class.
    """

    kind: str
    weight: mx.array
    bias: mx.array
    guard: Guard
    text_share: float
    image_share: float
    named_share: float
    distances: mx.array
    scores: mx.array

    def __post_init__(self) -> None:
        """Evaluate the arrays, so that every thread may use them."""
        mx.eval(self.weight, self.bias, self.distances, self.scores)

    def join(self, plain: mx.array, embeddings: mx.array) -> mx.array:
        """Return the logits of the whole classifier.

        Args:
            plain: logits [N, K] of the plain words.
            embeddings: image features [N, D] of unit norm.
        """
        learned = embeddings @ self.weight.T + self.bias
        opening = self.opening(embeddings)[:, None]
        return (1 - opening) * plain + opening * learned

    def opening(self, embeddings: mx.array) -> mx.array:
        """Return how much of what was learned each image hears, [N, D] -> [N], 0..1."""
        return self.guard.opening(embeddings)
