"""Features of views: the mean of each image's views, encoded once, whatever the order, the name and the batches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten
from pictures import Pixels, picture
from PIL import Image

from sharpzo_mlx.clip.checkpoint import save_model
from sharpzo_mlx.clip.config import CLIPConfig
from sharpzo_mlx.clip.handle import Clip, load
from sharpzo_mlx.clip.model import CLIPModel
from sharpzo_mlx.datasets.folder import read_folder
from sharpzo_mlx.errors import UserError
from sharpzo_mlx.features.cache import digest
from sharpzo_mlx.features.extract import EncodeProgress, Features, encode
from sharpzo_mlx.features.views import encode_views, encode_views_steps
from sharpzo_mlx.images import views as views_module
from sharpzo_mlx.images.decode import open_image
from sharpzo_mlx.images.load import normalise
from sharpzo_mlx.images.views import make_view

TEXT = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
VISION: dict[str, dict[str, Any]] = {
    "vit": TEXT | {"image_size": 32, "patch_size": 8},
    "resnet": {
        "model_type": "clip_resnet_model",
        "image_size": 32,
        "layers": [1, 1, 1, 1],
        "width": 8,
        "num_attention_heads": 2,
    },
}


@pytest.fixture(scope="module", params=["vit", "resnet"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = CLIPConfig.from_dict(
        {
            "model_type": "clip",
            "projection_dim": 12,
            "text_config": TEXT | {"vocab_size": 20, "max_position_embeddings": 9},
            "vision_config": VISION[request.param],
        }
    )
    mx.random.seed(0)
    expected: dict[str, mx.array] = dict(tree_flatten(CLIPModel(config).parameters()))
    # images must matter: a random tower is nearly constant unless its inputs are large beside its positions
    weights = {
        name: mx.ones(one.shape)
        if one.ndim == 1 and name.endswith(("weight", "var"))  # of a norm
        else mx.random.normal(one.shape) * (0.3 if one.ndim > 1 and "embedding" not in name else 0.05)
        for name, one in expected.items()
    }
    folder = tmp_path_factory.mktemp("model")
    save_model(folder, config, weights, "{}", "A random CLIP for tests.")
    return folder


@pytest.fixture
def features(model: Path, tmp_path: Path) -> Features:
    for label, name in enumerate(("cat", "dog")):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(4):
            image = Image.fromarray(picture(seed=10 * label + number))
            image.save(tmp_path / "photos" / name / f"{number}.{'jpg' if number % 2 else 'png'}")
    return encode(load(model), read_folder(tmp_path / "photos"))


def count_passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Collect the pictures of each pass of the image tower."""
    passes: list[int] = []
    encode_pixels = Clip.encode_pixels

    def counted(self: Clip, pixels: Pixels) -> mx.array:
        passes.append(len(pixels))
        return encode_pixels(self, pixels)

    monkeypatch.setattr(Clip, "encode_pixels", counted)
    return passes


def refuse_images(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("an image or the tower was read")

    monkeypatch.setattr(Clip, "vision", refuse)
    monkeypatch.setattr(views_module, "held_image", refuse)


def separately(clip: Clip, path: Path, views: int) -> Pixels:
    """Encode each view of an image alone, and return the mean in unit norm."""
    image, rows = open_image(path), []
    for number in range(views):
        pixels = normalise(make_view(image, clip.config.preprocessor, digest(path), number), clip.config.preprocessor)
        rows.append(np.array(clip.encode_pixels(pixels[None]))[0])
    mean = np.mean(rows, axis=0)
    direction: Pixels = mean / np.linalg.norm(mean)
    return direction


@pytest.mark.parametrize("views", [1, 3, 40])
def test_rows_are_the_means_of_views_encoded_one_by_one(model: Path, features: Features, views: int) -> None:
    clip = load(model)
    rows = encode_views(clip, features, views=views)
    assert (rows.shape, rows.dtype) == (features.embeddings.shape, mx.float32)
    np.testing.assert_allclose(np.linalg.norm(np.array(rows), axis=1), 1, atol=1e-6)
    expected = np.stack([separately(clip, path, views) for path in features.paths])
    np.testing.assert_allclose(rows, expected, atol=2e-6)
    assert np.abs(np.array(rows) - np.array(features.embeddings)).max(axis=1).min() > 1e-4


def test_views_are_encoded_once_in_full_batches(
    model: Path, features: Features, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes = count_passes(monkeypatch)
    first = encode_views(load(model), features)
    assert passes == [30, 30, 20]  # 8 images, 10 views each: of at most 32, and no image is in two of them
    refuse_images(monkeypatch)
    again = encode_views(load(model), features.take([5, 0]))
    np.testing.assert_array_equal(again, np.array(first)[[5, 0]])
    with pytest.raises(AssertionError, match="was read"):
        encode_views(load(model), features, views=9)  # another number has other rows
    with pytest.raises(AssertionError, match="was read"):
        encode_views(load(model), features, cache=False)


def test_views_do_not_replace_plain_features(model: Path, features: Features, tmp_path: Path) -> None:
    encode_views(load(model), features, views=1)
    plain = encode(load(model), read_folder(tmp_path / "photos"))
    np.testing.assert_array_equal(plain.embeddings, features.embeddings)


def test_order_and_names_change_nothing(model: Path, features: Features, tmp_path: Path) -> None:
    first = np.array(encode_views(load(model), features, views=3, cache=False))
    turned = encode_views(load(model), features.take([3, 7, 1]), views=3, cache=False)
    np.testing.assert_allclose(turned, first[[3, 7, 1]], atol=1e-6)
    (tmp_path / "photos" / "cat").rename(tmp_path / "photos" / "lynx")
    moved = encode(load(model), read_folder(tmp_path / "photos"))
    renamed = np.array(encode_views(load(model), moved, views=3, cache=False))
    np.testing.assert_allclose(renamed[[4, 5, 6, 7]], first[:4], atol=1e-6)  # dog comes first now


def test_progress_and_an_interruption(model: Path, features: Features) -> None:
    steps = encode_views_steps(load(model), features)
    progress = [next(steps) for _ in range(3)]
    assert progress == [EncodeProgress(done, 8, 0) for done in (0, 3, 6)]
    steps.close()
    again = list(encode_views_steps(load(model), features))
    assert again == [EncodeProgress(6, 8, 6), EncodeProgress(8, 8, 6)]


@pytest.mark.parametrize("views", [3, 10, 40])
def test_a_stop_changes_no_batch_and_no_bit(
    model: Path, features: Features, views: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    features.paths[1].write_bytes(b"nothing")
    features.paths[6].write_bytes(features.paths[0].read_bytes())  # a copy gets the row of the first
    passes = count_passes(monkeypatch)
    whole = np.array(encode_views(load(model), features, views=views))
    np.testing.assert_array_equal(whole[6], whole[0])
    of_whole = list(passes)
    monkeypatch.setenv("SHARPZO_MLX_CACHE", str(tmp_path / "other"))
    steps = encode_views_steps(load(model), features, views=views)
    while next(steps).done < 2:
        pass
    steps.close()
    stopped = len(passes)
    np.testing.assert_array_equal(encode_views(load(model), features, views=views), whole)
    assert passes[stopped:] == of_whole[len(of_whole) - len(passes[stopped:]) :]


@pytest.mark.parametrize("cache", [True, False])
def test_an_image_that_is_gone_keeps_its_plain_feature(
    model: Path, features: Features, cache: bool, caplog: pytest.LogCaptureFixture
) -> None:
    whole = np.array(encode_views(load(model), features, views=2, cache=False))
    features.paths[1].unlink()
    features.paths[6].write_bytes(b"nothing")
    rows = encode_views(load(model), features, views=2, cache=cache)
    expected = whole.copy()
    expected[[1, 6]] = np.array(features.embeddings)[[1, 6]]
    np.testing.assert_allclose(rows, expected, atol=1e-6)
    np.testing.assert_array_equal(np.array(rows)[[1, 6]], expected[[1, 6]])
    (notice,) = [record.message for record in caplog.records]
    assert "2 images can no longer be read" in notice
    assert f"{features.paths[1]}: no such file or directory" in notice
    assert str(features.paths[6]) in notice
    assert "\n" not in notice


def test_images_that_are_all_gone_need_no_tower(
    model: Path, features: Features, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in features.paths:
        path.write_bytes(b"nothing")
    monkeypatch.setattr(Clip, "vision", lambda self: pytest.fail("the tower was asked for"))
    np.testing.assert_array_equal(encode_views(load(model), features), features.embeddings)


def test_no_images_and_wrong_numbers(model: Path, features: Features, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_images(monkeypatch)
    assert list(encode_views_steps(load(model), features.take([]))) == []
    assert encode_views(load(model), features.take([])).shape == (0, 12)
    for views in (0, 101):
        with pytest.raises(UserError, match=f"views is {views}: take 1 to 100"):
            encode_views(load(model), features, views=views)


def test_tiny_and_stretched_files_are_encoded(model: Path, tmp_path: Path) -> None:
    (tmp_path / "odd" / "a").mkdir(parents=True)
    for number, size in enumerate([(1, 1), (1, 3000), (3000, 1), (2, 3)]):
        Image.new("L", size, 50 * number).save(tmp_path / "odd" / "a" / f"{number}.png")
    features = encode(load(model), read_folder(tmp_path / "odd"))
    rows = np.array(encode_views(load(model), features, views=4))
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)
