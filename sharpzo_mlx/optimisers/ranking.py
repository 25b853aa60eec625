"""Rank the entries of a vector, ties by index, with the same result on every device.

Sorts break ties as their implementation does, and MLX has one per device. Here each entry counts the entries before
it: n^2 comparisons, lazily evaluated. CMA-ES ranks the losses of a population with it, pruning the coordinates of w.

>>> rank(mx.array([3.0, 1.0, 3.0])).tolist()
[1, 0, 2]
"""

from __future__ import annotations

import mlx.core as mx


def rank(values: mx.array) -> mx.array:
    """Return the rank of each entry, 0 for the smallest.

    Args:
        values: [n]; a NaN has no rank, so replace it first.

    Returns:
        [n], int32.
    """
    order = mx.arange(values.shape[0])
    below = values[None, :] < values[:, None]  # [n, n]
    tied_before = (values[None, :] == values[:, None]) & (order[None, :] < order[:, None])
    return mx.sum(below | tied_before, axis=1)
