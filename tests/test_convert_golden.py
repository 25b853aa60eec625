"""Conversion against golden features that open_clip itself gave; made by tests/make_golden_clip.py.

These run everywhere: neither torch nor open_clip is needed.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from sharpzo_mlx.clip.checkpoint import load_model
from sharpzo_mlx.convert import convert

GOLDEN = Path(__file__).parent / "golden"
IDS = [[512, 40, 300, 7, 513, 0, 0, 0, 0, 0, 0, 0], [512, 40, 81, 90, 91, 92, 513, 0, 0, 0, 0, 0]]


def pixels(side: int) -> np.ndarray:
    """The images that the golden features were made of."""
    y, x = np.mgrid[0:side, 0:side] / side
    waves = [np.sin(2 * np.pi * ((k % 3 + 1) * x + (k // 3 + 1) * y) + k) for k in range(6)]
    return np.stack(waves, axis=-1).reshape(side, side, 2, 3).transpose(2, 0, 1, 3).astype(np.float32) * 2


@pytest.mark.parametrize("name", ["vit", "resnet"])
def test_features_are_those_that_open_clip_gave(name: str, tmp_path: Path, tiny_tokenizer: str) -> None:
    golden = json.loads((GOLDEN / f"{name}.json").read_text())
    source = tmp_path / "clip"
    source.mkdir()
    shutil.copy(GOLDEN / f"{name}.safetensors", source / "open_clip_model.safetensors")
    (source / "open_clip_config.json").write_text(json.dumps({"model_cfg": golden["model_cfg"]}))
    (source / "tokenizer.json").write_text(tiny_tokenizer)
    model = load_model(convert(source, tmp_path / "m").folder)
    images = model.image_features(mx.array(pixels(golden["model_cfg"]["vision_cfg"]["image_size"])))
    np.testing.assert_allclose(np.array(images), golden["expected"]["images"], atol=1e-4)
    np.testing.assert_allclose(np.array(model.text_features(mx.array(IDS))), golden["expected"]["texts"], atol=1e-4)
    assert np.ptp(np.array(images), axis=0).max() > 1e-2  # the two images differ
