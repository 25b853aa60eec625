"""Judge a classifier by labelled images that were left out of its fit: accuracies, and probabilities of own classes.

Their logits and distances are known from leaving them out; the guard joins them with the plain words as it does for
any image.

>>> own_probabilities(np.zeros((1, 4)), np.array([2])).tolist()
[0.25]
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sharpzo_mlx.heads.closed_form import Array
from sharpzo_mlx.heads.guard import Guard, open_by_distance
from sharpzo_mlx.objective.loss import mark_right
from sharpzo_mlx.runtime.products import host_products

ROWS = 4096  # images that are judged at once


@dataclass(frozen=True)
class Judgement:
    """What left-out images say of a classifier.

    Attributes:
        accuracy: of the whole classifier, 0..1.
        zero_shot_accuracy: of the plain words.
        scores: the probabilities of the images' own classes [N], rising.
        right: which images the whole classifier names [N], in their order.
    """

    accuracy: float
    zero_shot_accuracy: float
    scores: Array
    right: npt.NDArray[np.bool_]


def judge(
    embeddings: npt.NDArray[np.floating],
    labels: npt.NDArray[np.integer],
    plain: Array,
    learned: Array,
    *,
    left_out: npt.NDArray[np.float32],
    distances: Array,
    guard: Guard,
) -> Judgement:
    """Judge images by two sets of words, the learned ones beside left-out logits, one block after another.

    Args:
        embeddings: image features [N, D].
        labels: [N].
        plain: the plain words times the logit scale [K, D].
        learned: the words' part of the learned classifier [K, D].
        left_out: the logits of its other parts for each image when it is left out [N, K].
        distances: the guard's distance of each image when it is left out [N].
        guard: what joins the plain and the learned logits.
    """
    right, scores = np.zeros((2, len(labels)), bool), np.zeros(len(labels))
    for rows in blocks(len(labels)):
        x = embeddings[rows].astype(np.float64)
        with host_products():
            words, other = x @ plain.T, x @ learned.T + left_out[rows]
        summed = guarded_logits(words, other, distances[rows], guard)
        right[:, rows] = mark_right(summed, labels[rows]), mark_right(words, labels[rows])
        scores[rows] = own_probabilities(summed, labels[rows])
    return Judgement(float(right[0].mean()), float(right[1].mean()), np.sort(scores), right[0])


def guarded_logits(plain: Array, learned: Array, distances: Array, guard: Guard) -> Array:
    """Return (1 - g) plain + g learned, [N, K], of images whose distances [N] are known.

    Logits of the plain words are all that counts where a learned one is infinite.
    """
    known = np.isfinite(learned).all(axis=1, keepdims=True)  # else nothing but the words can name it
    opening = np.where(known, open_by_distance(distances, guard)[:, None], 0)
    mixed: Array = (1 - opening) * plain + opening * np.where(known, learned, 0)
    return mixed


def own_probabilities(logits: Array, labels: npt.NDArray[np.integer]) -> Array:
    """Return the probability of each image's own class, [N, K], [N] -> [N]."""
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    found: Array = powers[np.arange(len(labels)), labels] / powers.sum(axis=1)
    return found


def blocks(images: int) -> list[slice]:
    """Return the places of so many images, in blocks that bound the memory of their logits."""
    return [slice(start, min(start + ROWS, images)) for start in range(0, images, ROWS)]
