"""Ranks of losses and scores, with ties broken by index.

Sorts break ties as their implementation pleases, and MLX has one for each device. Counting, for every value,
the values before it takes n^2 comparisons, is lazy, and gives the same ranks everywhere. CMA-ES ranks a
population with it, pruning the coordinates of w.

>>> ranks(mx.array([3.0, 1.0, 3.0])).tolist()
[1, 0, 2]
"""

from __future__ import annotations

import mlx.core as mx


def ranks(values: mx.array) -> mx.array:
    """The rank [n] (int32) of each value [n], 0 for the smallest; NaN has no place: replace it first."""
    order = mx.arange(values.shape[0])
    below = values[None, :] < values[:, None]  # [n, n]
    tied_before = (values[None, :] == values[:, None]) & (order[None, :] < order[:, None])
    return mx.sum(below | tied_before, axis=1)
