"""Streams depend on seed and path alone, and differ wherever either differs."""

from __future__ import annotations

import itertools
import zlib

import mlx.core as mx
import numpy as np

from sharpzo_mlx.rng import generator_for, key_for

PATHS: list[tuple[int | str, ...]] = [
    (),
    ("a",),
    ("b",),
    ("a", 0),
    ("a", 1),
    ("a", 1, "b"),
    (1, "a"),
    ("ab",),
    (0,),
    (1,),
]


def test_same_seed_and_path_give_the_same_numbers() -> None:
    first = mx.random.normal((5,), key=key_for(3, "stage2", 17))
    mx.random.normal((100,))  # the global generator plays no part
    assert mx.array_equal(first, mx.random.normal((5,), key=key_for(3, "stage2", 17))).item()
    assert generator_for(3, "x").integers(1 << 62) == generator_for(3, "x").integers(1 << 62)


def test_every_seed_and_path_has_its_own_stream() -> None:
    keys = [tuple(np.array(key_for(seed, *path)).tolist()) for seed in (0, 1, 2**40) for path in PATHS]
    assert len(set(keys)) == len(keys)
    draws = [generator_for(seed, *path).integers(1 << 62) for seed in (0, 1, 2**40) for path in PATHS]
    assert len(set(draws)) == len(draws)


def test_streams_of_neighbouring_steps_are_uncorrelated() -> None:
    samples = np.stack([np.array(mx.random.normal((4000,), key=key_for(0, "step", t))) for t in range(6)])
    for a, b in itertools.combinations(samples, 2):
        assert abs(np.corrcoef(a, b)[0, 1]) < 5 / np.sqrt(4000)


def test_known_values_do_not_change() -> None:
    """A run of an older version must be resumable. Golden: NumPy 2's SeedSequence, sharpzo-mlx 0.1.0."""
    assert np.array(key_for(0, "stage2", 17)).tolist() == [2502195566, 3884280566]
    words = (zlib.crc32(b"stage2"), 17)
    sequence = np.random.SeedSequence(entropy=0, spawn_key=words)
    assert sequence.generate_state(2, np.uint32).tolist() == [2502195566, 3884280566]
