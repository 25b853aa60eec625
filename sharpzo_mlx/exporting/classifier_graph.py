"""A whole classifier in `Operations`: pixels to an image feature, and an image feature to probabilities.

>>> feature = encode(ops, pixels, tower)  # doctest: +SKIP
>>> answer = classify(ops, feature, record)  # doctest: +SKIP
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sharpzo_mlx.clip.fastvit_config import FastViTConfig
from sharpzo_mlx.clip.tower_config import ResNetConfig
from sharpzo_mlx.exporting.classifier import ClassifierRecord, HeadRecord
from sharpzo_mlx.exporting.convolution_graph import pooled_fastvit, pooled_resnet
from sharpzo_mlx.exporting.operations import Array, Operations, Value
from sharpzo_mlx.exporting.tower import Tower
from sharpzo_mlx.exporting.transformer_graph import linear, pooled_vision
from sharpzo_mlx.images.preprocessor import PreprocessorConfig


@dataclass(frozen=True)
class Answer:
    """What a classifier says of images: probabilities [N, K], and the guard's distance [N, 1]; None without a head."""

    probabilities: Value
    distance: Value | None


def normalise(ops: Operations, levels: Value, config: PreprocessorConfig, *, whole: float) -> Value:
    """Return the pixels that the image tower takes, [N, 3, H, W].

    Args:
        ops: the format.
        levels: RGB as numbers from 0 to `whole`, [N, 3, H, W].
        config: the preprocessing.
        whole: 255 for bytes, 1 for fractions.
    """
    factor, offset = fold_normalisation(config, whole)
    return ops.add(ops.multiply(levels, factor[:, None, None]), offset[:, None, None])


def fold_normalisation(config: PreprocessorConfig, whole: float) -> tuple[Array, Array]:
    """Return rescaling and normalisation as one factor and one summand for each channel, [3] and [3]."""
    rescale = 1.0 if config.rescale_factor is None else config.rescale_factor
    mean, std = (np.zeros(3) if config.mean is None else np.array(config.mean)), np.ones(3)
    std = std if config.std is None else np.array(config.std)
    return (255 / whole * rescale / std).astype(np.float32), (-mean / std).astype(np.float32)


def encode(ops: Operations, pixels: Value, tower: Tower) -> Value:
    """Return the image features, of any length, of prepared pixels, [N, 3, H, W] -> [N, D]."""
    config, weights = tower.config, tower.weights.at("vision_model")
    if isinstance(config, FastViTConfig):
        vector = pooled_fastvit(ops, pixels, config, weights)
    elif isinstance(config, ResNetConfig):
        vector = pooled_resnet(ops, pixels, config, weights)
    else:
        vector = pooled_vision(ops, pixels, config, weights)
    last = "visual_projection"
    return linear(ops, vector, tower.weights.at(last)) if last in tower.weights else vector


def classify(ops: Operations, features: Value, record: ClassifierRecord) -> Answer:
    """Return the probabilities of image features of any length, [N, D] -> [N, K]."""
    features = ops.divide(features, ops.square_root(ops.sum_last(ops.multiply(features, features))))
    words = ops.matmul(features, np.ascontiguousarray(record.words.T))
    if record.head is None:
        return Answer(ops.softmax(words), None)
    distance = _measure(ops, features, record.head)
    slope, start = (np.array([number], np.float32) for number in (record.head.slope, record.head.start))
    opening = ops.activate(ops.add(ops.multiply(distance, slope), start), "sigmoid")
    learned = ops.add(ops.matmul(features, np.ascontiguousarray(record.head.weight.T)), record.head.bias)
    closing = ops.add(ops.multiply(opening, np.array([-1], np.float32)), np.array([1], np.float32))
    logits = ops.add(ops.multiply(closing, words), ops.multiply(opening, learned))
    return Answer(ops.softmax(logits), distance)


def _measure(ops: Operations, features: Value, head: HeadRecord) -> Value:
    """Return the guard's distance of image features of unit norm, [N, D] -> [N, 1].

    The origin is the mean of the class means: far from it, the squares below would cancel.
    """
    origin = head.means.mean(axis=0)
    means = head.means - origin
    white = ops.add(ops.matmul(features, head.whitening), -origin)
    squares = (means * means).sum(axis=1)
    cross = ops.matmul(white, np.ascontiguousarray(-2 * means.T))
    summed = ops.add(ops.add(cross, squares), ops.sum_last(ops.multiply(white, white)))
    return ops.square_root(ops.activate(ops.least(summed), "relu"))
