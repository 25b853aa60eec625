"""OpenAI's archives in the mixed precision that theirs have: one dtype after conversion, the features of torch.

The archives are made here by torch (`oracle_openai`), small and random, for both kinds of image tower.
"""

from __future__ import annotations

import copy
import importlib.util
import logging
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from sharpzo_mlx.clip.checkpoint import load_model
from sharpzo_mlx.clip.handle import Clip, load
from sharpzo_mlx.convert import Quantisation, convert

TEXTS = ["a photo of a tench.", "two dogs!", "a satellite image of farmland"]
ORACLE = Path(__file__).with_name("oracle_openai.py")
EXACT = 1e-4  # float32 against float32, with weights rounded once to float16
HALF = 4e-3  # of a feature of unit length: a float16 has 11 bits, and a few layers add their roundings

pytestmark = pytest.mark.filterwarnings("ignore")  # torch's tracer, which is deprecated, has much to say


@pytest.fixture(scope="module")
def oracle() -> Any:
    pytest.importorskip("torch")
    spec = importlib.util.spec_from_file_location("oracle_openai", ORACLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module", params=["vit", "resnet"])
def archive(request: pytest.FixtureRequest, oracle: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The float32 network, the same in mixed precision, and the latter's archive."""
    import torch

    torch.manual_seed(4)
    vit = request.param == "vit"
    tower = oracle.VisionTower(32, 8, 128, 2, 16) if vit else oracle.ResNetTower(64, (1, 2, 1, 1), 16, 16)
    whole = oracle.Clip(tower).eval()
    mixed = oracle.halved(whole)
    path = tmp_path_factory.mktemp("openai") / "archive.pt"
    return whole, mixed, oracle.save(mixed, path, as_buffers=vit)


def pixels_of(clip: Clip) -> np.ndarray:
    side = clip.config.vision.image_size
    draw = np.random.default_rng(1)
    return (draw.normal(size=(3, side, side, 3)) + 3 * draw.normal(size=(3, 1, 1, 3))).astype(np.float32)


def expected_of(model: Any, clip: Clip) -> tuple[np.ndarray, np.ndarray]:
    """Torch's image and text features."""
    import torch

    ids = np.array(clip.tokenizer(TEXTS))
    ids = np.pad(ids, ((0, 0), (0, 77 - ids.shape[1])))
    with torch.no_grad():
        images = model.images(torch.tensor(pixels_of(clip).transpose(0, 3, 1, 2)))
        return images.numpy(), model.texts(torch.tensor(ids, dtype=torch.long)).numpy()


def check(folder: Path, model: Any, tolerance: float) -> None:
    clip = load(folder)
    images, texts = expected_of(model, clip)
    np.testing.assert_allclose(np.array(clip.encode_pixels(pixels_of(clip))), images, atol=tolerance)
    np.testing.assert_allclose(np.array(clip.encode_texts(TEXTS)), texts, atol=tolerance)
    assert np.abs(images[0] - images[1]).max() > 3 * tolerance  # the comparison could fail
    assert np.abs(texts[0] - texts[1]).max() > 3 * tolerance


def dtypes_of(folder: Path) -> set[mx.Dtype]:
    weights = mx.load(str(folder / "model.safetensors"))
    assert isinstance(weights, dict)
    assert weights["logit_scale"].dtype == mx.float32
    return {array.dtype for name, array in weights.items() if name != "logit_scale"}


def test_the_archive_is_as_mixed_as_openais(archive: Any) -> None:
    _, mixed, _ = archive
    kinds = {name: str(value.dtype) for name, value in mixed.state_dict().items()}
    halves = {name for name, kind in kinds.items() if kind == "torch.float16"}
    assert {"text_projection", "visual.conv1.weight", "transformer.resblocks.1.attn.in_proj_bias"} <= halves
    assert not {name for name in halves if "ln_" in name or "bn" in name or "embedding" in name}


def test_without_dtype_nothing_is_rounded(archive: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole, mixed, path = archive
    with caplog.at_level(logging.WARNING, "sharpzo_mlx"):
        report = convert(path, tmp_path / "m")
    assert "float16 and float32" in caplog.text
    assert report.dtype == "float32"
    assert dtypes_of(report.folder) == {mx.float32}
    rounded = copy.deepcopy(whole)
    rounded.load_state_dict({name: mixed.state_dict()[name].float() for name in whole.state_dict()})
    check(report.folder, rounded, EXACT)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_one_dtype_is_asked_for(archive: Any, tmp_path: Path, dtype: str) -> None:
    whole, _, path = archive
    report = convert(path, tmp_path / "m", dtype=dtype)
    assert report.dtype == dtype
    assert dtypes_of(report.folder) == {getattr(mx, dtype)}
    check(report.folder, whole, HALF if dtype == "float16" else 8 * HALF)
    again = convert(report.folder, tmp_path / "again").folder
    assert all((again / file.name).read_bytes() == file.read_bytes() for file in report.folder.iterdir())


def test_an_archive_lends_its_name(archive: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert convert(archive[2]).folder == Path("archive-mlx")


def test_half_precision_computes_in_half(archive: Any, tmp_path: Path) -> None:
    """What the GPU does: the weights' own dtype throughout."""
    whole, _, path = archive
    clip = load(convert(path, tmp_path / "m", dtype="float16").folder)
    images, texts = expected_of(whole, clip)
    model = load_model(clip.folder, dtype=mx.float16)
    assert model.vision_model(mx.array(pixels_of(clip))).dtype == mx.float16
    np.testing.assert_allclose(np.array(model.image_features(mx.array(pixels_of(clip)))), images, atol=HALF)
    np.testing.assert_allclose(np.array(model.text_features(clip.tokenizer(TEXTS))), texts, atol=HALF)


def test_mixed_archives_are_quantised(archive: Any, tmp_path: Path) -> None:
    _, _, path = archive
    report = convert(path, tmp_path / "m", dtype="float16", quantise=Quantisation(8))
    assert report.text_cosines is not None
    assert report.text_cosines.lowest > 0.999
    assert dtypes_of(report.folder) == {mx.float16, mx.uint32}
