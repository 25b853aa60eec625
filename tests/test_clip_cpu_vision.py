"""The image tower in NumPy gives the features of MLX's graph, for every kind of weights and pieces of any size."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from mlx import nn

from sharpzo_mlx.clip.checkpoint import load_model
from sharpzo_mlx.clip.config import CLIPConfig
from sharpzo_mlx.clip.cpu_vision import CPUVision
from sharpzo_mlx.clip.handle import load
from sharpzo_mlx.clip.model import CLIPModel
from sharpzo_mlx.runtime.device import on_cpu


def pixels(count: int, side: int = 16) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((count, side, side, 3)).astype(np.float32)


@pytest.mark.parametrize("dtype", [mx.float32, mx.float16])
def test_features_are_the_graphs(tiny_model: Path, dtype: mx.Dtype) -> None:
    model = load_model(tiny_model, towers=("vision",), dtype=dtype)
    exact = load_model(tiny_model, towers=("vision",), dtype=dtype)
    exact.set_dtype(mx.float32)
    images = pixels(7)
    expected = np.array(exact.image_features(mx.array(images)))
    assert np.ptp(expected, axis=0).max() > 0.05  # images matter
    np.testing.assert_allclose(CPUVision(model).image_features(images), expected, atol=2e-6)


def test_quantised_weights_and_another_activation() -> None:
    tower = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    vision = tower | {"image_size": 24, "patch_size": 8, "hidden_act": "gelu"}
    config = CLIPConfig.from_dict(
        {"model_type": "clip", "projection_dim": 24, "text_config": tower, "vision_config": vision}
    )
    model = CLIPModel(config, towers=("vision",))
    embeddings = model.vision_model.embeddings
    embeddings.class_embedding = mx.random.normal((64,), key=mx.random.key(1))
    nn.quantize(model.vision_model.encoder, 32, 8)
    images = pixels(3, 24)
    expected = np.array(model.image_features(mx.array(images)))
    np.testing.assert_allclose(CPUVision(model).image_features(images), expected, atol=1e-5)


def test_pieces_change_nothing_but_rounding(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tower, images = CPUVision(load_model(tiny_model, towers=("vision",))), pixels(9)
    whole = tower.image_features(images)
    monkeypatch.setattr("sharpzo_mlx.clip.cpu_vision.ROWS", 10)  # two images of five tokens
    np.testing.assert_allclose(tower.image_features(images), whole, atol=1e-6)


def test_a_clip_on_the_cpu_uses_numpy_and_releases_it(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[CPUVision] = []

    def build(model: CLIPModel) -> CPUVision:
        built.append(CPUVision(model))
        return built[-1]

    monkeypatch.setattr("sharpzo_mlx.clip.handle.CPUVision", build)
    clip, images = load(tiny_model), pixels(4)
    expected = np.array(clip.vision().image_features(mx.array(images)))
    np.testing.assert_allclose(np.array(clip.encode_pixels(images)), expected, atol=2e-6)
    np.testing.assert_allclose(np.array(clip.encode_pixels(mx.array(images))), expected, atol=2e-6)
    assert len(built) == (1 if on_cpu() else 0)
    clip.release_vision()
    clip.encode_pixels(images)
    assert len(built) == (2 if on_cpu() else 0)


def test_pixels_of_another_size_are_refused(tiny_model: Path) -> None:
    with pytest.raises(ValueError, match="takes"):
        load(tiny_model).encode_pixels(pixels(2, 24))
