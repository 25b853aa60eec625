"""Streams of images: in order, whole, in bounded memory, and equal to reading them one by one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from pictures import SMALL, Pixels, broken_files, jpeg, picture
from PIL import Image

from sharpzo_mlx.errors import UserError
from sharpzo_mlx.features.cache import digest
from sharpzo_mlx.images import load
from sharpzo_mlx.images.decode import open_image
from sharpzo_mlx.images.load import Batch, normalise, preprocess, stream
from sharpzo_mlx.images.preprocessor import PreprocessorConfig

RAW = PreprocessorConfig(resize=None, crop=(32, 32), rescale_factor=None, mean=None, std=None)


@pytest.fixture(params=["mlx-data", "pillow"])
def decoder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "pillow":
        monkeypatch.setattr(load, "mlx_data", lambda: None)
    else:
        pytest.importorskip("mlx.data")
    return str(request.param)


def mixed_files(folder: Path) -> list[Path]:
    paths = [jpeg(folder / f"{seed}.jpg", seed) for seed in range(12)]
    for seed in range(12, 18):
        paths.append(folder / f"{seed}.png")
        Image.fromarray(picture(seed=seed)).save(paths[-1])
    Image.fromarray(picture()[..., 0]).save(folder / "grey.jpg")
    Image.fromarray(picture()).convert("CMYK").save(folder / "cmyk.jpg")
    paths += [folder / "grey.jpg", folder / "cmyk.jpg", jpeg(folder / "bögen ü.JPG", 3, progressive=True)]
    return [*paths[::2], *paths[1::2], paths[0]]  # twice the same one


def collect(batches: list[Batch]) -> tuple[dict[int, Pixels], dict[int, str]]:
    pairs = [pair for batch in batches for pair in zip(batch.indices, batch.pictures, strict=True)]
    pixels = {index: normalise(one, SMALL) for index, one in pairs}
    return pixels, {i: reason for batch in batches for i, reason in batch.failed}


@pytest.mark.parametrize("batch_size", [1, 5, 100])
def test_stream_is_ordered_whole_and_equal_to_one_by_one(
    decoder: str, batch_size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load, "CHUNK", 7)
    broken = broken_files(tmp_path)
    paths = [path for pair in zip(mixed_files(tmp_path), broken * 2, strict=False) for path in pair]
    batches = list(stream(paths, SMALL, batch_size=batch_size, workers=3))
    pixels, failed = collect(batches)
    seen = [i for batch in batches for i in sorted([*batch.indices, *(i for i, _ in batch.failed)])]
    assert seen == list(range(len(paths)))
    assert all(len(batch.indices) + len(batch.failed) <= batch_size for batch in batches)
    for index, path in enumerate(paths):
        if index in failed:
            assert path in broken
        else:
            np.testing.assert_array_equal(pixels[index], preprocess(open_image(path), SMALL), err_msg=path.name)
            assert path not in broken or path.name == "cut_closed.jpg"


def test_a_file_that_only_mlx_data_refuses_is_read_by_pillow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlx.data")
    paths = [jpeg(tmp_path / "a.jpg"), tmp_path / "b.jpg", jpeg(tmp_path / "c.jpg", 2)]
    Image.fromarray(picture(seed=1)).save(paths[1], "TIFF")
    monkeypatch.setattr(load, "is_plain_jpeg", lambda data: True)
    (batch,) = stream(paths, SMALL)
    assert batch.indices == [0, 1, 2]
    for pixels, path in zip(normalise(batch.pictures, SMALL), paths, strict=True):
        np.testing.assert_array_equal(pixels, preprocess(open_image(path), SMALL))


@pytest.mark.parametrize("name", ["pipe.jpg", "pipe.png"])
def test_a_pipe_is_no_image_and_keeps_nobody_waiting(decoder: str, name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / name)
    good = jpeg(tmp_path / "good.jpg", 1)
    pixels, failed = collect(list(stream([tmp_path / name, good], SMALL)))
    assert (list(pixels), failed) == ([1], {0: "not a regular file"})
    with pytest.raises(OSError, match="not a regular file"):
        digest(tmp_path / name)


def test_stream_decodes_only_a_bounded_number_ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Path] = []

    @contextmanager
    def counting(path: Path) -> Iterator[Image.Image]:
        opened.append(path)
        yield Image.new("RGB", (32, 32))

    monkeypatch.setattr(load, "held_image", counting)
    batches = stream([tmp_path / f"{n}.png" for n in range(400)], SMALL, batch_size=4, workers=2)
    next(batches)
    assert len(opened) <= 4 + 2 * load.AHEAD + 2
    batches.close()  # type: ignore[attr-defined]
    assert len(opened) < 40


def test_nothing_to_stream_and_no_common_size() -> None:
    assert list(stream([], SMALL)) == []
    with pytest.raises(UserError, match="no crop"):
        next(stream([Path("a.jpg")], PreprocessorConfig(crop=None)))
