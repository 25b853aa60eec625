"""Synthetic image features and class features for tests of heads: Gaussian classes around a common direction."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx
import numpy as np

from sharpzo_mlx.features.extract import Features


def as_features(x: np.ndarray, labels: np.ndarray, classes: int) -> Features:
    """Return encoded images without files."""
    names = tuple(f"class {k}" for k in range(classes))
    paths = tuple(Path(f"{number}.png") for number in range(len(labels)))
    return Features(mx.array(x.astype(np.float32)), labels.astype(np.int32), names, names, paths)


def normalise(x: np.ndarray) -> np.ndarray:
    """Return rows of unit norm."""
    unit: np.ndarray = x / np.linalg.norm(x, axis=-1, keepdims=True)
    return unit


@dataclass(frozen=True)
class World:
    """Classes whose images are Gaussian around directions near a common one, as CLIP's features are.

    Attributes:
        directions: [K, D], not normalised.
        noise: the standard deviation of an image in each direction.
    """

    directions: np.ndarray
    noise: float

    @classmethod
    def draw(cls, classes: int, dimension: int, *, seed: int = 0, noise: float = 1.0, apart: float = 0.35) -> World:
        """Return a world whose class directions are `apart` from the common direction in each coordinate."""
        rng = np.random.default_rng([seed, 1])
        return cls(rng.normal(size=dimension) + apart * rng.normal(size=(classes, dimension)), noise)

    def images(self, each: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Return so many images of every class: unit features [K * each, D] and labels."""
        rng, (classes, dimension) = np.random.default_rng([seed, 2]), self.directions.shape
        labels = np.tile(np.arange(classes), each)
        return normalise(self.directions[labels] + self.noise * rng.normal(size=(len(labels), dimension))), labels

    def features(self, each: int, seed: int) -> Features:
        """Return the same as encoded images."""
        return as_features(*self.images(each, seed), len(self.directions))

    def words(self, error: float, seed: int = 0) -> mx.array:
        """Return class features [K, D] that miss the directions by so much in each coordinate."""
        rng = np.random.default_rng([seed, 3])
        return mx.array(normalise(self.directions + error * rng.normal(size=self.directions.shape)).astype(np.float32))


def random_words(classes: int, dimension: int, seed: int = 0) -> mx.array:
    """Return class features [K, D] that say nothing of the images."""
    rng = np.random.default_rng([seed, 4])
    return mx.array(normalise(rng.normal(size=(classes, dimension))).astype(np.float32))
