"""Batches for a GPU, which is pretended: of one shape, prepared ahead, normalised there, with the CPU's features."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from pretended_gpu import LARGE, SMALL, pretend_gpu

import sharpzo_mlx as sz
from sharpzo_mlx.clip import batches, model
from sharpzo_mlx.clip.batches import image_batch, pad_rows, read_behind, view_batch
from sharpzo_mlx.clip.model import CLIPModel, normalise_on_device
from sharpzo_mlx.clip.text import TextModel
from sharpzo_mlx.clip.tower_config import ResNetConfig, VisionConfig
from sharpzo_mlx.clip.vision import VisionModel
from sharpzo_mlx.datasets.folder import read_folder
from sharpzo_mlx.datasets.image_set import ImageSet
from sharpzo_mlx.features.extract import encode, encode_steps, finish
from sharpzo_mlx.features.views import encode_views
from sharpzo_mlx.images.decode import open_image
from sharpzo_mlx.images.load import normalise, preprocess
from sharpzo_mlx.images.preprocessor import PreprocessorConfig

LEVELS = np.stack([np.roll(np.arange(256, dtype=np.uint8), shift) for shift in (0, 7, 100)], axis=-1).reshape(
    2, 8, 16, 3
)
BASE = VisionConfig(patch_size=16)
RN50 = ResNetConfig()


@pytest.fixture
def images(photos: Path) -> ImageSet:
    return read_folder(photos)


@pytest.mark.parametrize(
    "config",
    [
        PreprocessorConfig(),
        PreprocessorConfig(rescale_factor=None),
        PreprocessorConfig(mean=None, std=None),
        PreprocessorConfig(mean=(0.5, 0.1, 0.9), std=(0.5, 0.3, 1.7)),
    ],
)
def test_a_gpu_normalises_bytes_to_the_same_numbers(
    config: PreprocessorConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = normalise(LEVELS, config)
    np.testing.assert_array_equal(normalise_on_device(mx.array(LEVELS), config), expected)
    pretend_gpu(monkeypatch)
    monkeypatch.setattr(model, "normalise", lambda *_: pytest.fail("a core worked on the pixels"))
    found = normalise_on_device(mx.array(LEVELS), config)
    assert found.dtype == mx.float32
    np.testing.assert_array_equal(found, expected)


def test_bytes_have_the_features_of_their_pixels(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = np.random.default_rng(0)
    pictures = draw.integers(0, 256, (5, 16, 16, 3), dtype=np.uint8)
    for gpu in (False, True):
        if gpu:
            pretend_gpu(monkeypatch)
        clip = sz.load(tiny_model)
        pixels = normalise(pictures, clip.config.preprocessor)
        np.testing.assert_array_equal(clip.encode_pixels(pictures), clip.encode_pixels(pixels))


@pytest.mark.parametrize(
    ("tower", "small", "large"),
    [
        (BASE, 8, 16),
        (VisionConfig(), 31, 63),
        (VisionConfig(hidden_size=1024, intermediate_size=4096, patch_size=14), 4, 9),
        (VisionConfig(hidden_size=1024, intermediate_size=4096, patch_size=14, image_size=336), 2, 4),
        (VisionConfig(hidden_size=64, intermediate_size=256), 64, 64),
        (RN50, 6, 12),
        (ResNetConfig(width=128, image_size=448), 1, 1),
    ],
)
def test_a_batch_fills_the_gpu(
    tower: VisionConfig | ResNetConfig, small: int, large: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert image_batch(tower) == 32
    for architecture, expected in ((SMALL, small), ("applegpu_g17p", small), (LARGE, large), ("sm_90", large)):
        pretend_gpu(monkeypatch, architecture)
        assert image_batch(tower) == expected


def test_views_fill_batches_of_one_size(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [view_batch(32, views) for views in (1, 10, 100)] == [32, 32, 32]
    pretend_gpu(monkeypatch)
    found = {(images, views): view_batch(images, views) for images in (1, 8, 64) for views in (1, 10, 12, 100)}
    assert (found[8, 1], found[8, 10], found[8, 12], found[64, 10]) == (8, 10, 6, 60)
    for (images, views), size in found.items():
        left = views % size if size < views else size % views  # what one image, or one batch, leaves over
        assert left == 0 or size - left < views / 10
        assert size <= max(images, 1.5 * images, 2)


def test_rows_are_filled_up_with_the_last() -> None:
    rows = mx.array([[1, 2], [3, 4]])
    assert pad_rows(rows, 4).tolist() == [[1, 2], [3, 4], [3, 4], [3, 4]]
    assert pad_rows(rows, 1) is rows


class Log:
    """Notes what is prepared, begun and read, in order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.events: list[str] = []
        begin = mx.async_eval

        def begun(array: mx.array) -> None:
            self.events.append(f"begin {array.size}")
            begin(array)

        monkeypatch.setattr(mx, "async_eval", begun)

    def prepare(self, count: int) -> Iterator[tuple[int, mx.array]]:
        for number in range(1, count + 1):
            self.events.append(f"prepare {number}")
            yield number, mx.ones(number) * number

    def run(self, count: int) -> list[str]:
        for number, array in read_behind(self.prepare(count)):
            self.events.append(f"read {number}")
            assert array.tolist() == [number] * number
        return self.events


def test_the_next_batch_is_prepared_while_a_gpu_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_gpu(monkeypatch)
    first = ["prepare 1", "begin 1", "prepare 2", "begin 2", "read 1"]
    assert Log(monkeypatch).run(3) == [*first, "prepare 3", "begin 3", "read 2", "read 3"]
    assert Log(monkeypatch).run(0) == []


def test_the_cpu_prepares_nothing_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    events = [event for event in Log(monkeypatch).run(3) if not event.startswith("begin")]
    assert events == ["prepare 1", "read 1", "prepare 2", "read 2", "prepare 3", "read 3"]


def watch_shapes(monkeypatch: pytest.MonkeyPatch, tower: Any) -> list[tuple[int, ...]]:
    """Collect the shapes that a tower is given."""
    shapes: list[tuple[int, ...]] = []
    plain = tower.__call__

    def watched(self: object, x: mx.array) -> Any:
        shapes.append(tuple(x.shape))
        return plain(self, x)

    monkeypatch.setattr(tower, "__call__", watched)
    return shapes


def count_waits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Collect the sizes of features that are waited for."""
    waits: list[int] = []
    evaluate = mx.eval

    def counted(*arrays: mx.array) -> None:
        waits.extend(len(array) for array in arrays if isinstance(array, mx.array) and array.ndim == 2)
        evaluate(*arrays)

    monkeypatch.setattr(mx, "eval", counted)
    return waits


def test_a_split_on_a_gpu_has_one_shape_and_the_cpus_features(
    tiny_model: Path, images: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = np.array(encode(sz.load(tiny_model), images, cache=False).embeddings)
    pool, clip = pretend_gpu(monkeypatch), sz.load(tiny_model)
    finish(encode_steps(clip, images.take((3, 11)), batch_size=8))  # holes in two batches
    clip.vision()
    shapes, waits = watch_shapes(monkeypatch, VisionModel), count_waits(monkeypatch)
    emptied = pool.emptied
    found = finish(encode_steps(clip, images, batch_size=8)).embeddings
    np.testing.assert_allclose(found, expected, atol=2e-6)
    assert shapes == [(8, 16, 16, 3)] * 5  # of 36 images
    assert [rows for rows in waits if rows <= 8] == [7, 7, 8, 8, 4]  # one wait a batch, for its own rows
    assert pool.emptied == emptied + 1
    assert pool.limit == pool.limits[0]


def test_views_on_a_gpu_have_one_shape_and_the_cpus_means(
    tiny_model: Path, images: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = sz.load(tiny_model)
    features = encode(clip, images)
    expected = encode_views(clip, features, views=10, cache=False)
    pretend_gpu(monkeypatch)
    monkeypatch.setattr(batches, "MOST_IMAGES", 8)
    shapes = watch_shapes(monkeypatch, VisionModel)
    found = encode_views(sz.load(tiny_model), features, views=10, cache=False)
    np.testing.assert_allclose(found, expected, atol=2e-6)
    assert shapes == [(10, 16, 16, 3)] * 36


def test_a_stop_on_a_gpu_changes_no_bit(
    tiny_model: Path, images: ImageSet, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pool, clip = pretend_gpu(monkeypatch), sz.load(tiny_model)
    whole = encode(clip, images, cache=False)
    steps = encode_steps(clip, images, batch_size=8)
    for _ in range(3):
        next(steps)
    assert pool.limit < pool.limits[0]
    steps.close()
    assert pool.limit == pool.limits[0]
    done = [step.cached for step in encode_steps(clip, images, batch_size=8)]
    assert done[0] == 16  # two batches were read, a third was in work
    again = finish(encode_steps(clip, images, batch_size=8))
    np.testing.assert_allclose(again.embeddings, whole.embeddings, atol=2e-6)
    monkeypatch.setenv("SHARPZO_MLX_CACHE", str(tmp_path))
    straight = finish(encode_steps(clip, images, batch_size=8))
    np.testing.assert_array_equal(again.embeddings, straight.embeddings)


def test_images_and_predictions_on_a_gpu(
    finished_run: Path, tiny_model: Path, images: ImageSet, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """One image is not filled up to a batch; of several batches each has the same shape."""
    paths = [*images.paths[:20]]
    expected = np.array(sz.load(tiny_model).encode_images(paths))
    labels = [one.labels[0][0] for one in sz.predict(finished_run, paths)]
    pretend_gpu(monkeypatch)
    monkeypatch.setattr(batches, "MOST_IMAGES", 8)
    shapes, clip = watch_shapes(monkeypatch, VisionModel), sz.load(tiny_model)
    np.testing.assert_allclose(clip.encode_images(paths), expected, atol=2e-6)
    assert {shape[0] for shape in shapes} == {8}
    assert [one.labels[0][0] for one in sz.predict(finished_run, paths)] == labels
    assert {shape[0] for shape in shapes} == {8}
    shapes.clear()
    np.testing.assert_allclose(clip.encode_images(paths[:1]), expected[:1], atol=2e-6)
    assert [shape[0] for shape in shapes] == [1]
    (tmp_path / "no.png").write_bytes(b"no")
    with pytest.raises(sz.UserError, match=r"no\.png: not an image"):
        clip.encode_images([*paths, tmp_path / "no.png"])


@pytest.mark.parametrize("causal", [True, False])
def test_texts_on_a_gpu_have_few_shapes(tiny_model: Path, causal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = sz.load(tiny_model)
    text = clip.text()
    text.text_model.config = type(text.config.text)(**{**vars(text.config.text), "causal": causal})
    texts = [f"a {'very ' * (n % 2)}old thing {n}" for n in range(150)]
    expected = np.array(clip.encode_texts(texts))
    pretend_gpu(monkeypatch)
    shapes = watch_shapes(monkeypatch, TextModel)
    np.testing.assert_allclose(clip.encode_texts(texts), expected, atol=2e-6)
    assert [shape[0] for shape in shapes] == [64, 64, 64]
    assert len(set(shapes)) == 1 or not causal  # without the mask the tower itself lengthens all texts alike
    shapes.clear()
    np.testing.assert_allclose(clip.encode_texts(texts[5]), expected[5:6], atol=2e-6)
    assert shapes[0][0] == 1


def test_the_pixels_of_a_file_are_those_of_its_bytes(tiny_model: Path, images: ImageSet) -> None:
    """`preprocess` and the towers share one normalisation."""
    clip = sz.load(tiny_model)
    pixels = preprocess(open_image(images.paths[0]), clip.config.preprocessor)
    tower: CLIPModel = clip.vision()
    np.testing.assert_allclose(
        tower.image_features(mx.array(pixels[None])), clip.encode_images(images.paths[0]), atol=2e-6
    )
