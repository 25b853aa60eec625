"""Features: rows equal the tower's, unreadable files are skipped by name, and nothing is encoded twice."""

from __future__ import annotations

import time
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten
from PIL import Image

from sharpzo_mlx.clip.checkpoint import save_model
from sharpzo_mlx.clip.config import CLIPConfig
from sharpzo_mlx.clip.handle import Clip, load
from sharpzo_mlx.clip.model import CLIPModel
from sharpzo_mlx.datasets.folder import read_folder
from sharpzo_mlx.datasets.image_set import ImageSet
from sharpzo_mlx.errors import UserError
from sharpzo_mlx.features.extract import EncodeProgress, content_of, encode, encode_steps, finish

TOWER = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
CONFIG = CLIPConfig.from_dict(
    {
        "model_type": "clip",
        "projection_dim": 12,
        "text_config": TOWER | {"vocab_size": 20, "max_position_embeddings": 9},
        "vision_config": TOWER | {"image_size": 16, "patch_size": 8},
    }
)


def save_random(folder: Path, seed: int = 0) -> Path:
    mx.random.seed(seed)
    expected: dict[str, mx.array] = dict(tree_flatten(CLIPModel(CONFIG).parameters()))
    weights = {name: mx.random.normal(weight.shape) * 0.3 for name, weight in expected.items()}
    save_model(folder, CONFIG, weights, "{}", "A random CLIP for tests.")
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_random(tmp_path_factory.mktemp("model"))


@pytest.fixture
def photos(tmp_path: Path) -> ImageSet:
    rng = np.random.default_rng(0)
    for name in ("cat", "dog", "owl"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(5):
            pixels = rng.integers(0, 255, (20, 24, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{number}.{'jpg' if number % 2 else 'png'}")
    return read_folder(tmp_path / "photos")


def no_vision(clip: Clip, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Clip) -> CLIPModel:
        raise AssertionError("the image tower was asked for")

    monkeypatch.setattr(type(clip), "vision", refuse)


def test_rows_are_the_towers_features_in_order(model: Path, photos: ImageSet) -> None:
    clip = load(model)
    features = encode(clip, photos)
    assert features.embeddings.dtype == mx.float32
    np.testing.assert_allclose(np.linalg.norm(np.array(features.embeddings), axis=-1), 1, atol=1e-6)
    np.testing.assert_allclose(features.embeddings, clip.encode_images(photos.paths), atol=1e-6)
    assert features.labels.dtype == np.int32
    assert features.labels.tolist() == list(photos.labels)
    assert (features.paths, features.class_names, features.skipped) == (photos.paths, ("cat", "dog", "owl"), ())
    chosen = features.take([7, 0])
    np.testing.assert_array_equal(chosen.embeddings, np.array(features.embeddings)[[7, 0]])
    assert (chosen.labels.tolist(), chosen.paths) == ([1, 0], (photos.paths[7], photos.paths[0]))


@pytest.mark.parametrize("cache", [True, False])
def test_a_set_without_images_needs_no_tower(
    cache: bool, model: Path, photos: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = load(model)
    no_vision(clip, monkeypatch)
    assert list(encode_steps(clip, photos.take(()), cache=cache)) == []
    features = encode(clip, photos.take(()), cache=cache)
    assert (features.embeddings.shape, features.embeddings.dtype) == ((0, 12), mx.float32)
    assert (features.labels.tolist(), str(features.labels.dtype)) == ([], "int32")
    assert (features.class_names, features.folders) == (photos.class_names, photos.folders)
    assert (features.paths, features.skipped) == ((), ())
    assert features.content == (content_of(()) if cache else "")


@pytest.mark.parametrize("batch_size", [1, 4, 15])
def test_batches_and_the_cache_change_nothing(model: Path, photos: ImageSet, batch_size: int) -> None:
    whole = encode(load(model), photos, cache=False)
    steps = encode_steps(load(model), photos, batch_size=batch_size)
    progress: list[EncodeProgress] = []
    while True:
        try:
            progress.append(next(steps))
        except StopIteration as end:
            result = end.value
            break
    np.testing.assert_allclose(result.embeddings, whole.embeddings, atol=1e-6)
    expected = [0, *range(batch_size, 15, batch_size), 15]
    assert [(step.done, step.total, step.cached) for step in progress] == [(n, 15, 0) for n in expected]


def test_a_second_time_needs_no_image_tower(
    model: Path, photos: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = encode(load(model), photos)
    (tmp_path / "photos" / "dog").rename(tmp_path / "photos" / "fox")  # the content counts, not the name
    moved = read_folder(tmp_path / "photos")
    clip = load(model)
    no_vision(clip, monkeypatch)
    again = encode(clip, moved)
    np.testing.assert_array_equal(again.embeddings, first.embeddings)
    assert again.class_names == ("cat", "fox", "owl")
    with pytest.raises(AssertionError, match="image tower"):
        encode(clip, moved, cache=False)


def test_another_model_another_content_are_encoded_anew(model: Path, photos: ImageSet, tmp_path: Path) -> None:
    first = encode(load(model), photos)
    other = encode(load(save_random(tmp_path / "other", seed=1)), photos)
    assert np.abs(np.array(other.embeddings) - np.array(first.embeddings)).max() > 1e-3
    Image.new("RGB", (20, 20), (255, 0, 0)).save(photos.paths[3])
    changed = np.array(encode(load(model), photos).embeddings)
    different = np.abs(changed - np.array(first.embeddings)).max(axis=1) > 1e-6
    assert different.nonzero()[0].tolist() == [3]


def test_unreadable_images_are_named_counted_and_skipped(
    model: Path, photos: ImageSet, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = np.array(encode(load(model), photos).embeddings)
    photos.paths[2].write_bytes(b"nothing")
    photos.paths[9].unlink()
    clip = load(model)
    no_vision(clip, monkeypatch)  # the others are cached
    features = encode(clip, photos)
    kept = [row for row in range(15) if row not in (2, 9)]
    np.testing.assert_array_equal(features.embeddings, whole[kept])
    assert features.labels.tolist() == [photos.labels[row] for row in kept]
    assert [path for path, _ in features.skipped] == [photos.paths[2], photos.paths[9]]
    (notice,) = [record.message for record in caplog.records]
    assert "2 unreadable images" in notice
    assert str(photos.paths[2]) in notice
    assert str(photos.paths[9]) in notice


def test_a_class_without_a_readable_image_is_named(
    model: Path, photos: ImageSet, caplog: pytest.LogCaptureFixture
) -> None:
    for path in photos.paths[5:10]:
        path.write_bytes(b"")
    assert set(encode(load(model), photos).labels.tolist()) == {0, 2}
    assert any("left without" in record.message and "dog" in record.message for record in caplog.records)
    for path in photos.paths:
        path.write_bytes(b"")
    with pytest.raises(UserError, match="none of 15 images"):
        encode(load(model), photos)


def test_progress_survives_an_interruption(model: Path, photos: ImageSet) -> None:
    steps = encode_steps(load(model), photos, batch_size=4)
    for _ in range(3):
        next(steps)
    steps.close()
    assert next(encode_steps(load(model), photos)).cached == 8


def test_a_stop_changes_no_batch_and_no_bit(
    model: Path, photos: ImageSet, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    photos.paths[1].write_bytes(b"nothing")  # is tried again after the stop
    photos.paths[13].write_bytes(photos.paths[0].read_bytes())  # a copy
    batches: list[bytes] = []
    encode_pixels = Clip.encode_pixels

    def noted(self: Clip, pixels: np.ndarray) -> mx.array:
        batches.append(np.asarray(pixels).tobytes())
        return encode_pixels(self, pixels)

    monkeypatch.setattr(Clip, "encode_pixels", noted)
    whole = finish(encode_steps(load(model), photos, batch_size=4))
    of_whole = list(batches)
    assert sum(map(len, of_whole)) == 13 * 16 * 16 * 3  # the copy is not encoded
    np.testing.assert_array_equal(whole.embeddings[0], whole.embeddings[12])  # one row before it is missing
    monkeypatch.setenv("SHARPZO_MLX_CACHE", str(tmp_path / "other"))
    steps = encode_steps(load(model), photos, batch_size=4)
    for _ in range(3):
        next(steps)
    steps.close()
    again = finish(encode_steps(load(model), photos, batch_size=4))
    np.testing.assert_array_equal(again.embeddings, whole.embeddings)
    assert batches[len(of_whole) :] == of_whole  # the same before and after the stop
    assert [path for path, _ in again.skipped] == [photos.paths[1]]


def test_copies_of_an_unreadable_file_are_all_named(model: Path, photos: ImageSet) -> None:
    for place in (2, 9):
        photos.paths[place].write_bytes(b"nothing")
    features = encode(load(model), photos)
    assert [path for path, _ in features.skipped] == [photos.paths[2], photos.paths[9]]
    assert len(features.labels) == 13


def test_a_hundred_and_fifty_cached_images_take_no_time(model: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / "many" / name).mkdir(parents=True)
        for number in range(75):
            Image.effect_noise((64, 64), 90).save(tmp_path / "many" / name / f"{number}.jpg")
    images = read_folder(tmp_path / "many")
    encode(load(model), images)
    started = time.perf_counter()
    assert len(encode(load(model), images).paths) == 150
    assert time.perf_counter() - started < 1
