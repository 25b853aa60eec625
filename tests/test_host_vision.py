"""The image tower in NumPy: MLX's numbers to rounding, whatever the pieces, and only where it is the faster way."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from mlx import nn

from sharpzo_mlx.clip.checkpoint import load_model
from sharpzo_mlx.clip.config import RESNET, CLIPConfig
from sharpzo_mlx.clip.model import CLIPModel
from sharpzo_mlx.host_vision import HostVision, host_vision


@pytest.fixture(scope="module")
def half(tiny_model: Path) -> CLIPModel:
    return load_model(tiny_model, towers=("vision",))


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(11, 16, 16, 3)).astype(np.float32)


def test_features_are_the_graphs(half: CLIPModel, pixels: np.ndarray) -> None:
    features = HostVision(half).features(pixels)
    assert features.dtype == np.float32
    np.testing.assert_allclose(features, half.image_features(mx.array(pixels)), atol=2e-6)
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, rtol=1e-6)


def test_pieces_change_nothing_but_rounding(
    half: CLIPModel, pixels: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = HostVision(half)
    whole = host.features(pixels)
    monkeypatch.setattr("sharpzo_mlx.host_vision.ROWS", 15)  # three images a piece
    np.testing.assert_allclose(host.features(pixels), whole, atol=2e-6)
    monkeypatch.setattr("sharpzo_mlx.host_vision.ROWS", 1)
    np.testing.assert_allclose(host.features(pixels), whole, atol=2e-6)


def test_an_image_is_unmoved_and_no_other_images_neighbour(half: CLIPModel, pixels: np.ndarray) -> None:
    before = pixels.copy()
    host = HostVision(half)
    features = host.features(pixels)
    np.testing.assert_array_equal(pixels, before)
    changed = pixels.copy()
    changed[4] *= -1
    moved = np.abs(host.features(changed) - features).max(axis=1) > 1e-3
    assert moved.tolist() == [row == 4 for row in range(len(pixels))]


def test_it_is_for_transformers_in_full_precision_on_the_cpu(tiny_model: Path) -> None:
    half = load_model(tiny_model, towers=("vision",))
    assert (host_vision(half) is not None) == (mx.default_device() == mx.Device(mx.cpu))
    nn.quantize(half, group_size=32, bits=8)
    assert host_vision(half) is None
    kind = {"model_type": RESNET, "layers": [1, 1, 1, 1], "width": 8, "num_attention_heads": 4, "image_size": 32}
    resnet = CLIPConfig.from_dict({"model_type": "clip", "vision_config": kind})
    assert host_vision(CLIPModel(resnet, towers=("vision",))) is None
