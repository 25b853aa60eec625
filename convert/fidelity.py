"""Measure how near a quantised model stays to its original: the cosine of their features.

Both models encode a handful of built-in texts and rendered images, one tower after the other. The result is the mean
and the lowest cosine of corresponding features. Only towers that were quantised are compared.

>>> compare_texts(Model(config, weights), Model(quantised_config, quantised), tokenizer)  # doctest: +SKIP
Cosines(mean=0.9998, lowest=0.9997)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from sharpzo_mlx.clip.checkpoint import build_model
from sharpzo_mlx.clip.config import CLIPConfig
from sharpzo_mlx.clip.tokenizer import Tokenizer
from sharpzo_mlx.rng import generator_for

TEXTS = (
    "a photo of a dog.",
    "a photo of a red bicycle.",
    "a satellite image of farmland.",
    "a drawing of a house with a tree.",
    "a close-up of the texture of wood.",
    "a plate of noodles with vegetables.",
    "a person playing the violin.",
    "an airplane above the clouds.",
)
IMAGES = 4


@dataclass(frozen=True)
class Cosines:
    """The mean and the lowest cosine of corresponding features, over the built-in inputs."""

    mean: float
    lowest: float


@dataclass(frozen=True)
class Model:
    """A configuration and the weights that belong to it."""

    config: CLIPConfig
    weights: Mapping[str, mx.array]


def compare_texts(before: Model, after: Model, tokenizer: Tokenizer) -> Cosines:
    """Return the cosines of both models' features of the built-in texts."""
    ids = tokenizer(list(TEXTS), truncate=True)
    return _cosines(*(build_model(m.config, m.weights, ("text",)).text_features(ids) for m in (before, after)))


def compare_images(before: Model, after: Model) -> Cosines:
    """Return the cosines of both models' features of the built-in images."""
    pixels = render_images(before.config)
    return _cosines(*(build_model(m.config, m.weights, ("vision",)).image_features(pixels) for m in (before, after)))


def render_images(config: CLIPConfig) -> mx.array:
    """Render smooth coloured patterns of all scales, prepared for the model: [IMAGES, side, side, 3]."""
    side = config.vision.image_size
    draw = generator_for(0, "fidelity")
    y, x = np.mgrid[0:side, 0:side] / side
    picture = np.zeros((IMAGES, side, side, 3))
    for frequency in (1, 2, 4, 8, 16):
        angle, phase = draw.uniform(0, 2 * np.pi, (2, IMAGES, 1, 1, 3))
        along = np.cos(angle) * x[None, :, :, None] + np.sin(angle) * y[None, :, :, None]
        picture += np.sin(2 * np.pi * frequency * along + phase) / frequency**0.5
    levels = (picture - picture.min()) / (picture.max() - picture.min())
    preprocessor = config.preprocessor
    mean, std = np.array(preprocessor.mean or (0.0,) * 3), np.array(preprocessor.std or (1.0,) * 3)
    return mx.array(((levels - mean) / std).astype(np.float32))


def _cosines(before: mx.array, after: mx.array) -> Cosines:
    cosines = np.array(mx.sum(before * after, axis=-1))
    return Cosines(mean=float(cosines.mean()), lowest=float(cosines.min()))
