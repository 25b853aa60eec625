"""Average the iterates of a descent: the average is validated and kept, because noise of single steps cancels in it.

In a comparison every method of many small steps uses it. With a share of 0 the average is the last iterate.

>>> average(mx.array([0.0]), mx.array([1.0]), count=mx.array(1), share=0.9).item()
0.8999999761581421
"""

from __future__ import annotations

import mlx.core as mx
import numpy as np

YOUTH = 9  # after k iterates the newest weighs 9 / (k + 9), until that is 1 - share: the start is forgotten soon


def average(past: mx.array, w: mx.array, *, count: mx.array, share: float) -> mx.array:
    """Return the average after one more iterate.

    Args:
        past: the average before, [d].
        w: the new iterate, [d].
        count: number of iterates, the new one included, 0-d.
        share: largest weight of the average before, from 0 to below 1.

    Returns:
        The new average, [d].
    """
    if share == 0:
        return w
    t = count.astype(mx.float32)
    kept = mx.minimum(share, t / (t + YOUTH))
    return kept * past + (1 - kept) * w


def average_on_host(past: np.ndarray, w: np.ndarray, *, count: int, share: float) -> np.ndarray:
    """Return what `average` returns, computed in NumPy to the same bits: short vectors need not wait for a GPU."""
    if share == 0:
        return w
    t = np.float32(count)
    kept = np.minimum(np.float32(share), t / (t + np.float32(YOUTH)))
    averaged: np.ndarray = kept * past + (np.float32(1) - kept) * w
    return averaged
