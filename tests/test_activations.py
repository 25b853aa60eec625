"""The activations for NumPy arrays are those of MLX's arrays, to the ends of float32's range."""

from __future__ import annotations

import math

import mlx.core as mx
import numpy as np
import pytest

from sharpzo_mlx.clip.activations import activation, in_place

EXACT = {
    "quick_gelu": lambda x: x / (1 + math.exp(-1.702 * x)),
    "gelu": lambda x: 0.5 * x * math.erfc(-x * math.sqrt(0.5)),
    "gelu_pytorch_tanh": lambda x: 0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
}


@pytest.mark.parametrize("name", EXACT)
def test_in_place_is_exact(name: str) -> None:
    points = np.concatenate([np.linspace(-12, 12, 6000), [0.0, 1e-20, -80.0, 80.0]]).astype(np.float32)
    x = points.reshape(4, -1).copy()
    in_place(activation(name))(x)
    expected = np.array([EXACT[name](float(p)) for p in points])
    np.testing.assert_allclose(x.reshape(-1), expected, atol=5e-7, rtol=5e-7)
    np.testing.assert_allclose(x.reshape(-1), activation(name)(mx.array(points)), atol=4e-6)


@pytest.mark.parametrize("name", EXACT)
def test_in_place_goes_through_all_blocks_and_keeps_nan(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sharpzo_mlx.clip.activations.BLOCK", 64)
    x = np.random.default_rng(0).standard_normal((37, 10)).astype(np.float32)
    x[5, 5] = np.nan
    expected = np.array(activation(name)(mx.array(x)))
    in_place(activation(name))(x)
    np.testing.assert_allclose(x, expected, atol=2e-6)
    x[:] = [-3e38, 3e38] * 5
    in_place(activation(name))(x)
    assert np.all(x == np.array([0, 3e38] * 5, np.float32))
