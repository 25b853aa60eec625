"""A search on a known landscape: a quadratic bowl that counts its queries, and short settings for it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
import numpy as np

from sharpzo_mlx.config import TuneConfig
from sharpzo_mlx.objective.loss import Score
from sharpzo_mlx.tuning.search import Search, TuneStep

D = 12
TARGET = mx.array([1.0, -0.5, 0.25] * 4)


class Features:
    """The expansion of the squared distance of features to TARGET, which are w itself here."""

    def __init__(self, features: mx.array, slopes: mx.array) -> None:
        self.gap = np.array(features - TARGET, np.float64)
        self.slopes = np.array(slopes, np.float64)

    def at_zero(self) -> tuple[float, np.ndarray, np.ndarray]:
        zero = np.zeros(len(self.slopes))
        return (*self(zero), self.curvature(zero))

    def curvature(self, a: np.ndarray) -> np.ndarray:
        return 2 * self.slopes @ self.slopes.T

    def __call__(self, a: np.ndarray) -> tuple[float, np.ndarray]:
        gap = self.gap + a @ self.slopes
        return float(gap @ gap), 2 * self.slopes @ gap


@dataclass
class Bowl:
    """L(w) = mean over three "images" of a quadratic around TARGET; counts its queries like the objective."""

    queries: int = 0
    dimension: int = D
    told: list[mx.array] = field(default_factory=list)

    def image_losses(self, w: mx.array) -> mx.array:
        self.queries += int(w.shape[0])
        self.told.append(w)
        distance = mx.sum(mx.square(w - TARGET), axis=-1, keepdims=True)
        return distance * mx.array([0.5, 1.0, 1.5])

    def losses(self, w: mx.array) -> mx.array:
        return mx.mean(self.image_losses(w), axis=-1)

    def jvp(self, w: mx.array, u: mx.array) -> tuple[mx.array, mx.array]:
        self.queries += 2 * int(w.shape[0])
        gap = w - TARGET
        return mx.sum(mx.square(gap), axis=-1), 2 * mx.sum(gap * u, axis=-1)

    def features(self, w: mx.array) -> mx.array:
        self.queries += int(w.shape[0])
        return w

    def linearised(self, features: mx.array, slopes: mx.array) -> Features:
        return Features(features, slopes)


def accuracy_of(w: mx.array) -> Score:
    """An "accuracy" that rises as w nears TARGET."""
    distance = float(mx.sum(mx.square(w - TARGET)))
    return Score(accuracy=1 / (1 + distance), loss=distance)


def config(**changes: Any) -> TuneConfig:
    """A short search with the paper's steps; `stage2__mu` stands for the setting `stage2.mu`."""
    values: dict[str, Any] = {
        "head": "none", "space.dimension": D, "generations": 6, "stage1.population": 8, "stage1.sigma": 0.3,
        "sharpness.rho": 0.0, "stage1.patience": 100, "steps": 30, "pruning.interval": 10, "pruning.directions": 4,
        "selection.every": 5, "stage1.covariance": "full", "pruning.keep": 0.5,
    }  # fmt: skip
    given = {name.replace("__", "."): value for name, value in changes.items()}
    if given.setdefault("stage2.optimiser", "zo-sgd") == "zo-sgd":
        values |= {"stage2.learning_rate": 0.05, "stage2.schedule": "constant"}
    return TuneConfig().with_settings({**values, **given})


def finish(search: Search) -> list[TuneStep]:
    return list(search.steps())
