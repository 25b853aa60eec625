"""The guard: how much of what was learned from images an image may hear, by how far it lies from them.

    d(f) = min_k || f A - m_k ||                  least Mahalanobis distance to a class mean of the Gaussians
    g(f) = sigmoid((2 - (d(f) - mu) / sigma) / 0.5)

mu and sigma are the mean and the standard deviation of d over images that the Gaussians were not fitted to. So g is
near 1 for images like the training images, and near 0 for others, such as drawings where photographs were learned.
Logits of learned classifiers count g, those of the plain words 1 - g: where all is foreign, the answer is that of
zero-shot.

>>> guard = Guard(mx.eye(2), mx.array([[0.0, 0.0]]), centre=1.0, spread=0.5)
>>> [round(x, 3) for x in guard.opening(mx.array([[1.0, 0.0], [0.0, 9.0]])).tolist()]
[0.982, 0.0]
"""

from __future__ import annotations

from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from sharpzo_mlx.heads.closed_form import FLAT, Array
from sharpzo_mlx.heads.gaussians import GaussianFit
from sharpzo_mlx.runtime.products import host_products

THRESHOLD = 2.0  # standard deviations beyond the mean distance at which the guard is half open
SOFTNESS = 0.5  # of the transition, in standard deviations
LEAST_SPREAD = 1e-3  # of the mean distance: a few equal images have none


@dataclass(frozen=True)
class Guard:
    """The distance of image features to the classes, and the opening that follows from it.

    Attributes:
        whitening: A [D, D] float32, a root of the Gaussians' precision.
        means: the class means times A [K, D] float32.
        centre: mu, the mean distance of left-out images.
        spread: sigma, its standard deviation.
    """

    whitening: mx.array
    means: mx.array
    centre: float
    spread: float

    def __post_init__(self) -> None:
        """Evaluate the arrays, so that every thread may use them."""
        mx.eval(self.whitening, self.means)

    def distances(self, embeddings: mx.array) -> mx.array:
        """Return the least Mahalanobis distance of image features, [N, D] -> [N]."""
        white = embeddings @ self.whitening
        squares = mx.sum(white * white, axis=1)[:, None] + mx.sum(self.means * self.means, axis=1)
        return mx.sqrt(mx.maximum(mx.min(squares - 2 * (white @ self.means.T), axis=1), 0))

    def opening(self, embeddings: mx.array) -> mx.array:
        """Return g of image features, [N, D] -> [N], 0..1."""
        return mx.sigmoid((THRESHOLD - (self.distances(embeddings) - self.centre) / self.spread) / SOFTNESS)


@host_products()
def make_guard(gaussians: GaussianFit, distances: Array) -> Guard:
    """Return the guard of some Gaussians.

    Args:
        gaussians: fitted to all labelled images.
        distances: of left-out images, which set the scale; at least one.
    """
    root = gaussians.root
    means = (gaussians.means + gaussians.mean) @ root
    centre = float(distances.mean())
    return Guard(
        whitening=mx.array(root.astype(np.float32)),
        means=mx.array(means.astype(np.float32)),
        centre=centre,
        spread=max(float(distances.std()), LEAST_SPREAD * centre, FLAT),
    )


def open_by_distance(distances: Array, guard: Guard) -> Array:
    """Return g of images whose distances [N] are known, such as left-out ones, [N] float64."""
    score = (THRESHOLD - (distances - guard.centre) / guard.spread) / SOFTNESS
    opening: Array = 1 / (1 + np.exp(-np.clip(score, -80, 80)))
    return opening
