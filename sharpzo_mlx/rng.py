"""Make random keys and generators from a seed and a path of names and step numbers.

Step t draws the same numbers whether or not steps 0 to t - 1 ran in the same process, so that a resumed run repeats
an uninterrupted one, and no generator has to be saved. NumPy's SeedSequence turns each path into well-separated keys.

>>> key_for(0, "stage2", 17).shape
(2,)
>>> generator_for(0, "split", "cat").permutation(3).shape
(3,)
"""

from __future__ import annotations

import zlib

import mlx.core as mx
import numpy as np


def key_for(seed: int, *path: int | str) -> mx.array:
    """Return the key [2] (uint32) for `mx.random` that belongs to a seed and a path."""
    return mx.array(_sequence(seed, path).generate_state(2, np.uint32))


def generator_for(seed: int, *path: int | str) -> np.random.Generator:
    """Return the NumPy generator that belongs to a seed and a path, for draws outside MLX."""
    return np.random.Generator(np.random.PCG64(_sequence(seed, path)))


def _sequence(seed: int, path: tuple[int | str, ...]) -> np.random.SeedSequence:
    words = [zlib.crc32(part.encode()) if isinstance(part, str) else part for part in path]
    return np.random.SeedSequence(entropy=seed, spawn_key=tuple(words))
