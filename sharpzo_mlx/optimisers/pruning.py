"""Choose the coordinates of w that stage 2 searches: score them, and put the highest scores into the mask.

SharpZO's score of a coordinate is w_j^2 times its standardised squared gradient, z(x) = (x - mean) / std (arXiv
2506.20990, section 3.2, eq. 4). The mask Omega holds the share `keep` of coordinates with the highest scores. Eq. 4 can
be read in two ways, z of the squared gradient and z of the mean over images of squared gradients, and both are here.
The other metrics (magnitude, gradient, random, none) are for comparison.

>>> mask(mx.array([0.1, 3.0, 2.0, 0.5]), keep=0.5).tolist()
[0.0, 1.0, 1.0, 0.0]
"""

from __future__ import annotations

from typing import get_args

import mlx.core as mx

from sharpzo_mlx.errors import UserError
from sharpzo_mlx.optimisers.gradients import Gradient
from sharpzo_mlx.optimisers.params import Metric
from sharpzo_mlx.optimisers.ranking import rank

METRICS = get_args(Metric)


def needs_gradient(metric: Metric) -> bool:
    """Return whether the metric scores coordinates by a gradient, which costs queries."""
    return metric in ("zscore-squared", "zscore-fisher", "gradient")


def needs_fisher(metric: Metric) -> bool:
    """Return whether the metric reads the mean over images of squared gradients."""
    return metric == "zscore-fisher"


def standardise(x: mx.array) -> mx.array:
    """Return z(x) = (x - mean x) / std x of the entries of x [d]; zeros where all entries are equal."""
    centred = x - mx.mean(x)
    # divided by the largest first, because float32 cannot hold the variance of squared gradients of 1e-10
    largest = mx.max(mx.abs(centred))
    scaled = centred / mx.where(largest > 0, largest, 1.0)
    spread = mx.sqrt(mx.mean(mx.square(scaled)))
    return scaled / mx.where(spread > 0, spread, 1.0)


def scores(metric: Metric, w: mx.array, key: mx.array, gradient: Gradient | None = None) -> mx.array:
    """Score every coordinate; those with the highest scores are kept.

    At w = 0, where stage 1 was skipped or its mean has not moved, w^2 z is zero for all coordinates. There the score
    is z alone, the limit for coordinates of equal size. The metric "magnitude" has only ties at w = 0.

    Args:
        metric: what the score is.
        w: the point [d].
        key: random key, used by "random".
        gradient: gradient of the loss at w, for metrics that need one; with `fisher` for those that read it.

    Returns:
        The scores [d].

    Raises:
        UserError: the metric is unknown.
        ValueError: the gradient that the metric needs is missing.

    Source: SharpZO eq. 4.
    """
    if metric not in METRICS:
        raise UserError(f"unknown pruning metric {metric!r}: choose one of {', '.join(METRICS)}")
    if metric == "magnitude":
        return mx.abs(w)
    if metric == "random":
        return mx.random.uniform(shape=w.shape, key=key)
    if metric == "none":
        return mx.zeros_like(w)
    if gradient is None:
        raise ValueError(f"the metric {metric!r} needs a gradient")
    if metric == "gradient":
        return mx.abs(gradient.vector)
    if metric == "zscore-squared":
        return _weighted(w, standardise(mx.square(_unit(gradient.vector))))
    if gradient.fisher is None:
        raise ValueError(f"the metric {metric!r} needs the gradient's Fisher term")
    return _weighted(w, standardise(gradient.fisher))


def mask(score: mx.array, keep: float) -> mx.array:
    """Return the mask Omega [d]: ones at the round(keep d) highest scores, at least one, and zeros elsewhere.

    Args:
        score: one per coordinate [d]; of equal scores the first are kept, those that are not finite come last.
        keep: share of the coordinates to keep.

    Raises:
        UserError: `keep` is not above 0 and at most 1.
    """
    check_keep(keep)
    count = kept(keep, score.shape[0])
    if count == score.shape[0]:
        return mx.ones(score.shape)
    return (rank(mx.where(mx.isfinite(score), -score, mx.inf)) < count).astype(mx.float32)


def kept(keep: float, dimension: int) -> int:
    """Return how many of d coordinates a mask holds."""
    return max(1, round(keep * dimension))


def check_keep(keep: float) -> None:
    """Raise a UserError unless `keep` is above 0 and at most 1."""
    if not 0 < keep <= 1:
        raise UserError(f"keep is {keep}: choose the share of coordinates to search, above 0 and at most 1")


def _weighted(w: mx.array, z: mx.array) -> mx.array:
    """Return w^2 z [d] (eq. 4), or z where w is zero everywhere."""
    squares = mx.square(w)
    return mx.where(mx.max(squares) > 0, squares * z, z)


def _unit(x: mx.array) -> mx.array:
    """Return x divided by its largest entry, whose square does not underflow; z of the square stays the same."""
    largest = mx.max(mx.abs(x))
    return x / mx.where(largest > 0, largest, 1.0)
