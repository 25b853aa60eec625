"""Preprocessing gives the pixels of the checkpoint's own processor."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import SMALL, Pixels, picture
from PIL import Image

from sharpzo_mlx.images import load
from sharpzo_mlx.images.decode import open_image
from sharpzo_mlx.images.load import preprocess
from sharpzo_mlx.images.preprocessor import PreprocessorConfig


def plainly(pixels: Pixels, config: PreprocessorConfig) -> Pixels:
    """The same steps written out with Pillow alone, for pictures that are not smaller than the crop."""
    height, width = pixels.shape[:2]
    assert isinstance(config.resize, int)
    size = (width * config.resize // height, config.resize)
    if width < height:
        size = (config.resize, height * config.resize // width)
    resized = Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)
    left, top = (resized.width - config.resize) // 2, (resized.height - config.resize) // 2
    square = resized.crop((left, top, left + config.resize, top + config.resize))
    assert config.mean is not None
    normal: Pixels = (np.asarray(square) / 255.0 - np.array(config.mean)) / np.array(config.std)
    return normal


@pytest.mark.parametrize("shape", [(40, 60), (61, 33), (32, 32), (33, 200), (100, 31), (7, 5)])
def test_preprocess_equals_pillow_written_out(shape: tuple[int, int]) -> None:
    pixels = picture(*shape)
    np.testing.assert_allclose(preprocess(Image.fromarray(pixels), SMALL), plainly(pixels, SMALL), rtol=0, atol=1e-5)


CONFIGS: dict[str, dict[str, Any]] = {
    "clip": {"size": {"shortest_edge": 48}, "crop_size": 48},
    "larger crop": {"size": {"shortest_edge": 20}, "crop_size": {"height": 31, "width": 48}},
    "fixed size, no crop": {"size": {"height": 30, "width": 41}, "do_center_crop": False},
    "crop only": {"do_resize": False, "crop_size": 37},
    "bilinear, raw": {"size": 24, "crop_size": 23, "resample": 2, "do_normalize": False, "do_rescale": False},
}


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("shape", [(40, 60), (61, 33), (13, 200), (299, 17), (224, 225)])
def test_preprocess_equals_transformers(name: str, shape: tuple[int, int]) -> None:
    oracle = import_oracle()
    config, pixels = PreprocessorConfig.from_dict(CONFIGS[name]), picture(*shape)
    theirs = oracle(**CONFIGS[name])(images=Image.fromarray(pixels), return_tensors="np")["pixel_values"][0]
    scale = 1.0 if config.rescale_factor is None else 255 * min(config.std or (1.0,))
    error = np.abs(preprocess(Image.fromarray(pixels), config) - theirs.transpose(1, 2, 0)).max()
    assert error * scale < 0.01, "less than a hundredth of one level of 255"


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "CMYK", "1", "YCbCr"])
def test_modes_equal_transformers(mode: str, tmp_path: Path) -> None:
    oracle = import_oracle()
    rgb = Image.fromarray(picture())
    image = rgb.convert(mode)
    if mode in ("LA", "RGBA"):
        image.putalpha(Image.fromarray(picture(seed=1)[..., 0]))
    path = tmp_path / ("a.tif" if mode in ("CMYK", "YCbCr") else "a.png")
    image.save(path)
    ours = preprocess(open_image(path), SMALL)
    given_file = Image.open(path)
    theirs = oracle(size={"shortest_edge": 32}, crop_size=32)(images=given_file, return_tensors="np")
    np.testing.assert_allclose(ours, theirs["pixel_values"][0].transpose(1, 2, 0), atol=1e-5)


def import_oracle() -> Any:
    """transformers' processor without torchvision; a torchvision that does not fit its torch is left aside."""
    pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    try:
        importlib.import_module("torchvision")
    except (ImportError, RuntimeError):
        checks: Any = importlib.import_module("transformers.utils.import_utils")
        checks.is_torchvision_available = lambda: False
        transformers.utils.is_torchvision_available = lambda: False
    try:
        module = importlib.import_module("transformers.models.clip.image_processing_pil_clip")
    except ImportError:
        pytest.skip("transformers without CLIPImageProcessorPil")
    return module.CLIPImageProcessorPil


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 70), st.integers(1, 70), st.integers(1, 40), st.integers(1, 40))
def test_any_shape_gives_the_crops_shape(height: int, width: int, resize: int, crop: int) -> None:
    config = PreprocessorConfig(resize=resize, crop=(crop, crop + 1))
    pixels = preprocess(Image.fromarray(picture(height, width)), config)
    assert pixels.shape == (crop, crop + 1, 3)
    assert pixels.dtype == np.float32
    assert np.isfinite(pixels).all()


def test_stripes_are_resized_only_where_the_crop_keeps_them(monkeypatch: pytest.MonkeyPatch) -> None:
    stripe = Image.fromarray(picture(10, 900))
    short = load.resize_and_crop(stripe, SMALL).astype(int)
    monkeypatch.setattr(load, "STRETCHED", 10**9)
    whole = load.resize_and_crop(stripe, SMALL).astype(int)
    assert np.abs(short - whole).max() <= 1
    monkeypatch.undo()
    assert load.resize_and_crop(Image.new("RGB", (200_000, 1)), SMALL).shape == (32, 32, 3)
