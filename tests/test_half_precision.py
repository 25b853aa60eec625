"""Which half weights stay half on which device. A GPU is pretended: MLX is asked for the default device alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

import sharpzo_mlx as sz
from sharpzo_mlx.clip.checkpoint import load_model, save_model
from sharpzo_mlx.clip.config import CLIPConfig
from sharpzo_mlx.clip.model import CLIPModel
from sharpzo_mlx.clip.tower_config import ResNetConfig
from sharpzo_mlx.features.extract import cache_name


def pretend(monkeypatch: pytest.MonkeyPatch, architecture: str | None) -> None:
    """Pretend a GPU of that architecture; the CPU for None."""
    device = mx.Device(mx.cpu if architecture is None else mx.gpu)
    monkeypatch.setattr(mx, "default_device", lambda: device)
    monkeypatch.setattr(mx, "device_info", lambda *_: {"device_name": "a GPU", "architecture": architecture or "arm64"})


def weights_of(model: CLIPModel) -> dict[str, mx.array]:
    return dict(tree_flatten(model.parameters()))


def save(folder: Path, vision: dict[str, Any], dtype: mx.Dtype, tokenizer: str) -> Path:
    text = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    ids = {"vocab_size": 514, "bos_token_id": 512, "eos_token_id": 513, "pad_token_id": 513}
    config = CLIPConfig.from_dict(
        {"model_type": "clip", "projection_dim": 8, "text_config": text | ids, "vision_config": vision}
    )
    draw, expected = np.random.default_rng(0), weights_of(CLIPModel(config))
    weights = {
        name: mx.array(0.1 * draw.standard_normal(weight.shape)).astype(mx.float32 if "scale" in name else dtype)
        for name, weight in expected.items()
    }
    save_model(folder, config, weights, tokenizer, "random")
    return folder


VIT: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 8,
}
RESNET: dict[str, Any] = {
    "model_type": "clip_resnet_model",
    "layers": [1, 1, 1, 1],
    "width": 8,
    "num_attention_heads": 4,
    "image_size": 64,
}


@pytest.mark.parametrize(
    ("vision", "dtype", "architecture", "image", "text"),
    [
        (VIT, mx.float16, "applegpu_g13s", mx.float16, mx.float16),
        (RESNET, mx.float16, "applegpu_g16s", mx.float32, mx.float16),
        (RESNET, mx.bfloat16, "applegpu_g16s", mx.float32, mx.bfloat16),
        (VIT, mx.bfloat16, "applegpu_g13s", mx.float32, mx.float32),
        (VIT, mx.bfloat16, "applegpu_g14p", mx.float32, mx.float32),
        (VIT, mx.bfloat16, "applegpu_g15s", mx.bfloat16, mx.bfloat16),
        (VIT, mx.bfloat16, "sm_90", mx.bfloat16, mx.bfloat16),
        (RESNET, mx.float16, None, mx.float32, mx.float32),
    ],
)
def test_precision_by_tower_and_device(
    vision: dict[str, Any],
    dtype: mx.Dtype,
    architecture: str | None,
    image: mx.Dtype,
    text: mx.Dtype,
    tmp_path: Path,
    tiny_tokenizer: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    folder = save(tmp_path / "m", vision, dtype, tiny_tokenizer)
    pretend(monkeypatch, architecture)
    found = weights_of(load_model(folder))
    of_images = {weight.dtype for name, weight in found.items() if name.startswith("vis")}
    of_texts = {weight.dtype for name, weight in found.items() if name.startswith("text")}
    assert (of_images, of_texts) == ({image}, {text})
    assert sz.load(folder).image_precision == str(image).removeprefix("mlx.core.")
    widened = dtype == mx.bfloat16 and text == mx.float32
    assert [*map(str.split, caplog.messages)] == ([said(folder)] if widened else [])
    asked = weights_of(load_model(folder, dtype=dtype))
    assert {weight.dtype for weight in asked.values()} == {dtype}  # what is asked for is done
    assert len(caplog.messages) == widened


def said(folder: Path) -> list[str]:
    words = "its bfloat16 weights are computed in float32, for this GPU has no bfloat16 of its own"
    return f"{folder / 'model.safetensors'}: {words}".split()


def test_a_resnet_of_half_weights_encodes_as_its_float32_numbers_do(
    tmp_path: Path, tiny_tokenizer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save(tmp_path / "m", RESNET, mx.float16, tiny_tokenizer)
    assert isinstance(sz.load(folder).config.vision, ResNetConfig)
    pixels = mx.array(np.random.default_rng(1).standard_normal((2, 64, 64, 3)).astype(np.float32))
    exact = load_model(folder, ("vision",), dtype=mx.float32).image_features(pixels)
    pretend(monkeypatch, "applegpu_g16s")
    np.testing.assert_array_equal(load_model(folder, ("vision",)).image_features(pixels), exact)


def test_features_of_other_precisions_are_cached_apart(
    tmp_path: Path, tiny_tokenizer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """float16 features of a GPU do not mix with the CPU's of float32; where both compute alike, they are shared."""
    half = save(tmp_path / "half", VIT, mx.float16, tiny_tokenizer)
    whole = save(tmp_path / "whole", VIT, mx.float32, tiny_tokenizer)
    names: dict[str | None, list[str]] = {}
    for architecture in (None, "applegpu_g13s"):
        pretend(monkeypatch, architecture)
        names[architecture] = [cache_name(sz.load(folder)) for folder in (half, whole)]
    assert names[None][0] != names["applegpu_g13s"][0]
    assert names[None][1] == names["applegpu_g13s"][1]
