"""Random streams as a function of (seed, what for), so that any step can be drawn again without its past.

A run that is killed and resumed draws the same numbers at step t as one that was not; nothing about the
generator has to be saved. NumPy's SeedSequence mixes the path into well-separated keys.

>>> stream(0, "stage2", 17).shape
(2,)
"""

from __future__ import annotations

import zlib

import mlx.core as mx
import numpy as np


def _sequence(seed: int, path: tuple[int | str, ...]) -> np.random.SeedSequence:
    words = [zlib.crc32(part.encode()) if isinstance(part, str) else part for part in path]
    return np.random.SeedSequence(entropy=seed, spawn_key=tuple(words))


def stream(seed: int, *path: int | str) -> mx.array:
    """The key [2] (uint32) for `mx.random` that belongs to a seed and a path of names and step numbers."""
    return mx.array(_sequence(seed, path).generate_state(2, np.uint32))


def numpy_stream(seed: int, *path: int | str) -> np.random.Generator:
    """NumPy's generator for a seed and a path, for draws that do not happen on the device."""
    return np.random.Generator(np.random.PCG64(_sequence(seed, path)))
