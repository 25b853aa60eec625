"""The Clip handle: it reads towers when needed and releases them, gives unit norm, and says what to do at errors."""

from __future__ import annotations

import json
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from PIL import Image

from sharpzo_mlx.clip.checkpoint import load_model
from sharpzo_mlx.clip.handle import Clip, load
from sharpzo_mlx.clip.model import CLIPModel
from sharpzo_mlx.convert import convert
from sharpzo_mlx.errors import UserError
from sharpzo_mlx.files import default_model_folder


@pytest.fixture(scope="module")
def model(testbed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clip") / "m"
    convert(testbed / "clip-tiny", folder)
    return folder


@pytest.fixture
def clip(model: Path) -> Clip:
    return load(model)


def test_texts_are_the_text_towers_features_in_order(clip: Clip) -> None:
    texts = [f"a photo of a {'very ' * (n % 7)}old thing {n}." for n in range(70)]  # more than one batch
    features = np.array(clip.encode_texts(texts))
    assert features.shape == (70, 256)
    np.testing.assert_allclose(np.linalg.norm(features, axis=-1), 1, atol=1e-6)
    for row in (0, 5, 69):
        alone = clip.text().text_features(mx.array([clip.tokenizer.encode(texts[row])]))
        np.testing.assert_allclose(features[row], np.array(alone)[0], atol=1e-5)
    assert clip.encode_texts([]).shape == (0, 256)


def test_images_in_order_and_an_unreadable_one_is_named(clip: Clip, testbed: Path, tmp_path: Path) -> None:
    paths = sorted((testbed / "pacs" / "photo" / "val").rglob("*.*"))[:5]
    features = np.array(clip.encode_images(paths))
    np.testing.assert_allclose(np.linalg.norm(features, axis=-1), 1, atol=1e-6)
    backwards = np.array(clip.encode_images([str(path) for path in reversed(paths)]))
    np.testing.assert_allclose(features, backwards[::-1], atol=1e-5)
    assert clip.encode_images([]).shape == (0, 256)
    (tmp_path / "no.jpg").write_bytes(b"no")
    with pytest.raises(UserError, match=r"no\.jpg: not an image"):
        clip.encode_images([*paths, tmp_path / "no.jpg"])


def test_one_text_or_image_is_a_list_of_one(clip: Clip, tmp_path: Path) -> None:
    np.testing.assert_array_equal(clip.encode_texts("a dog"), clip.encode_texts(["a dog"]))
    Image.new("RGB", (9, 9), (9, 90, 200)).save(tmp_path / "a.png")
    for one in (tmp_path / "a.png", str(tmp_path / "a.png")):
        np.testing.assert_array_equal(clip.encode_images(one), clip.encode_images([one]))


def test_a_tower_is_read_when_needed_and_can_be_released(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[tuple[str, ...]] = []

    def spy(folder: Path, towers: tuple[str, ...]) -> CLIPModel:
        read.append(towers)
        return load_model(folder, towers=towers)

    monkeypatch.setattr("sharpzo_mlx.clip.handle.load_model", spy)
    clip = load(model)
    assert read == []
    scale = clip.logit_scale
    assert 1 < scale < 100
    assert read == []  # the number alone is read
    clip.text_model()
    assert read == [("text",)]
    blank = np.zeros((1, 64, 64, 3), np.float32)
    first = np.array(clip.encode_pixels(blank))
    tower = clip.vision_model()
    assert read == [("text",), ("vision",)]
    clip.release_vision()
    clip.release_text()
    assert clip.vision_model() is not tower
    np.testing.assert_array_equal(clip.encode_pixels(blank), first)
    assert clip.logit_scale == scale
    assert read == [("text",), ("vision",), ("vision",)]
    clip.text_model()
    assert read[3:] == [("text",)]


def test_fingerprints_tell_checkpoints_apart(clip: Clip, testbed: Path, tmp_path: Path) -> None:
    convert(testbed / "clip-tiny", tmp_path / "bf16", dtype="bfloat16")
    assert clip.fingerprint != load(tmp_path / "bf16").fingerprint
    assert clip.fingerprint == load(clip.folder).fingerprint


def test_what_cannot_be_opened_says_what_to_do(model: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="run `sharpzo-mlx convert`"):
        load()
    with pytest.raises(UserError, match="sharpzo-mlx convert"):
        load(tmp_path / "absent")
    described = json.loads((model / "config.json").read_text())
    described["preprocessor"]["crop_size"] = {"height": 60, "width": 64}
    (tmp_path / "config.json").write_text(json.dumps(described))
    with pytest.raises(UserError, match="crop_size"):
        load(tmp_path)


def test_the_default_model_is_found(model: Path, tmp_path: Path) -> None:
    default_model_folder().parent.mkdir(parents=True)
    default_model_folder().symlink_to(model)
    assert load().config == load(model).config
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    assert load().encode_images([tmp_path / "a.png"]).shape == (1, 256)
