"""Z-pruning: which coordinates of w stage 2 goes on searching.

The score of a coordinate is its squared value times the standardised importance of its gradient,
z(x) = (x - mean) / std (SharpZO section 3.2, eq. 4); the share `keep` with the highest scores forms the mask
Omega. Two readings of eq. 4 are offered (z of the squared gradient, z of the mean over images of squared
gradients), and the usual alternatives to compare with: magnitude, gradient, random, none.

>>> mask(mx.array([0.1, 3.0, 2.0, 0.5]), keep=0.5).tolist()
[0.0, 1.0, 1.0, 0.0]
"""

from __future__ import annotations

from typing import get_args

import mlx.core as mx

from sharpzo_mlx.errors import UserError
from sharpzo_mlx.optimisers.gradients import Gradient
from sharpzo_mlx.optimisers.params import Metric
from sharpzo_mlx.optimisers.ranking import ranks

METRICS = get_args(Metric)


def needs_gradient(metric: Metric) -> bool:
    """Whether the metric's score is made from a gradient, which costs queries."""
    return metric in ("zscore-squared", "zscore-fisher", "gradient")


def needs_fisher(metric: Metric) -> bool:
    """Whether that gradient must bring the mean over images of squared gradients."""
    return metric == "zscore-fisher"


def standardise(x: mx.array) -> mx.array:
    """z(x) = (x - mean x) / std x over all entries [d]; zero where they are all alike."""
    centred = x - mx.mean(x)
    # scaled first: squared gradients of 1e-10 have variances that float32 cannot hold
    largest = mx.max(mx.abs(centred))
    scaled = centred / mx.where(largest > 0, largest, 1.0)
    spread = mx.sqrt(mx.mean(mx.square(scaled)))
    return scaled / mx.where(spread > 0, spread, 1.0)


def scores(metric: Metric, w: mx.array, key: mx.array, gradient: Gradient | None = None) -> mx.array:
    """The score [d] of every coordinate, higher is kept.

    The product w^2 z is zero for every coordinate where w = 0, that is at the start when stage 1 was skipped
    or its mean never moved: nothing would be left to rank by but the index. There z alone decides, being the
    limit of the score for coordinates of equal size. (Likewise |w| ties at w = 0, and keeps the first ones.)

    Args:
        metric: how to score.
        w: the point [d].
        key: random key, for "random".
        gradient: of the loss at w; needed where `needs_gradient`, with `fisher` where `needs_fisher`.

    Raises:
        UserError: an unknown metric.
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
    """Omega [d]: ones at the round(keep d) highest scores (at least one), zeros elsewhere; ties go by index.

    Scores that are not finite are kept last.

    Raises:
        UserError: `keep` is not a share above 0 and at most 1.
    """
    check_keep(keep)
    count = kept(keep, score.shape[0])
    if count == score.shape[0]:
        return mx.ones(score.shape)
    return (ranks(mx.where(mx.isfinite(score), -score, mx.inf)) < count).astype(mx.float32)


def kept(keep: float, dimension: int) -> int:
    """Coordinates that a mask holds."""
    return max(1, round(keep * dimension))


def check_keep(keep: float) -> None:
    """Refuse a share that is no share."""
    if not 0 < keep <= 1:
        raise UserError(f"keep is {keep}: choose the share of coordinates to search, above 0 and at most 1")


def _weighted(w: mx.array, z: mx.array) -> mx.array:
    squares = mx.square(w)
    return mx.where(mx.max(squares) > 0, squares * z, z)  # eq. 4


def _unit(x: mx.array) -> mx.array:
    """x over its largest entry: z does not change, and its square does not underflow."""
    largest = mx.max(mx.abs(x))
    return x / mx.where(largest > 0, largest, 1.0)
