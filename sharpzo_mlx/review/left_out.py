"""Say of each labelled image what a classifier of all other images says of it.

The classifier is the default head of `tune`: words, Gaussians with their exact leave-one-out, shares and guard.

>>> judge_left_out(words, 100.0, features).probabilities.shape  # doctest: +SKIP
(140, 7)
"""

from __future__ import annotations

from dataclasses import dataclass

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from sharpzo_mlx.features.extract import Features
from sharpzo_mlx.heads.fit import fit_head
from sharpzo_mlx.heads.judgement import blocks, guarded_logits
from sharpzo_mlx.objective.loss import mark_right
from sharpzo_mlx.runtime.products import host_products


@dataclass(frozen=True)
class LeftOutAnswers:
    """What left-out images are called.

    Attributes:
        probabilities: of each class for each image [N, K].
        accuracy: how many are called by their label, 0..1.
    """

    probabilities: npt.NDArray[np.float64]
    accuracy: float


def judge_left_out(words: mx.array, logit_scale: float, images: Features) -> LeftOutAnswers:
    """Judge each image by the head of all others.

    Args:
        words: class features of the plain words [K, D].
        logit_scale: the factor that turns cosines into logits.
        images: labelled images, every class present.

    Raises:
        UserError: the feature of an image is not of finite numbers.
    """
    fitted = fit_head(words, logit_scale, images, images.take([]))
    x, plain = np.array(images.embeddings, np.float64), logit_scale * np.array(words, np.float64)
    found = np.zeros((len(x), len(plain)))
    for rows in blocks(len(x)):
        with host_products():
            named = x[rows] @ plain.T
        learned = fitted.head.text_share * named + fitted.left_out[rows]
        found[rows] = guarded_logits(named, learned, fitted.distances[rows], fitted.head.guard)
    accuracy = float(mark_right(found, images.labels).mean())
    np.exp(found - found.max(axis=1, keepdims=True), out=found)
    return LeftOutAnswers(found / found.sum(axis=1, keepdims=True), accuracy)
