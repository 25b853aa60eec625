"""Decoding and preprocessing: every kind of file, and pixels equal to the checkpoint's own processor."""

from __future__ import annotations

import importlib
import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sharpzo_mlx.errors import UserError
from sharpzo_mlx.features.cache import digest
from sharpzo_mlx.images import decode, load
from sharpzo_mlx.images.decode import ImageError, is_plain_jpeg, open_image
from sharpzo_mlx.images.load import Batch, preprocess, stream
from sharpzo_mlx.images.preprocessor import PreprocessorConfig

Pixels = np.ndarray[Any, Any]
SMALL = PreprocessorConfig.for_size(32)
RAW = PreprocessorConfig(resize=None, crop=(32, 32), rescale_factor=None, mean=None, std=None)


def picture(height: int = 40, width: int = 60, seed: int = 0) -> Pixels:
    """A smooth picture with different quarters, so that every turn of it is another picture."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 255, (4, 5, 3), dtype=np.uint8)
    return np.array(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def jpeg(path: Path, seed: int = 0, **options: Any) -> Path:
    Image.fromarray(picture(seed=seed)).save(path, "JPEG", quality=92, **options)
    return path


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


LOSSLESS = {"png": {}, "webp": {"lossless": True}, "tiff": {}, "bmp": {}, "gif": {}}


@pytest.mark.parametrize("kind", LOSSLESS)
def test_lossless_kinds_keep_every_pixel(kind: str, tmp_path: Path) -> None:
    pixels = np.repeat(picture()[..., :1], 3, axis=-1)  # grey survives GIF's palette
    frames = [Image.fromarray(picture(seed=9))] if kind in ("gif", "webp") else []
    options = {"save_all": True, "append_images": frames} if frames else {}
    Image.fromarray(pixels).save(tmp_path / f"a.{kind}", kind.upper(), **LOSSLESS[kind], **options)
    image = open_image(tmp_path / f"a.{kind}")
    assert image.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(image), pixels)


@pytest.mark.parametrize("kind", ["jpg", "heic"])
def test_lossy_kinds_are_close(kind: str, tmp_path: Path) -> None:
    if kind == "heic":
        pytest.importorskip("pillow_heif").register_heif_opener()
    Image.fromarray(picture()).save(tmp_path / f"a.{kind}", quality=95)
    assert np.abs(np.asarray(open_image(tmp_path / f"a.{kind}")).astype(int) - picture()).mean() < 8


UPRIGHT: dict[int, Callable[[Pixels], Pixels]] = {
    1: lambda stored: stored,
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.transpose(1, 0, 2),
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: stored[::-1, ::-1].transpose(1, 0, 2),
    8: lambda stored: np.rot90(stored),
}


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("kind", ["png", "jpg", "tiff", "16 bit"])
def test_exif_orientation_is_applied(kind: str, orientation: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = picture()
    if kind == "16 bit":
        wide = Image.fromarray(stored[..., 0].astype(np.uint16) * 257)
        wide.save(tmp_path / "a.png", exif=exif)
        stored = np.repeat(stored[..., :1], 3, axis=-1)
    else:
        Image.fromarray(stored).save(tmp_path / f"a.{kind}", exif=exif)
    file = next(tmp_path.iterdir())
    upright = UPRIGHT[orientation](stored).astype(int)
    result = np.asarray(open_image(file)).astype(int)
    assert result.shape == upright.shape
    assert np.abs(result - upright).mean() < (4 if kind == "jpg" else 1e-9)
    if kind == "jpg":
        assert is_plain_jpeg(file.read_bytes()) == (orientation == 1)
        (batch,) = stream([file], SMALL)
        np.testing.assert_array_equal(batch.pixels[0], preprocess(open_image(file), SMALL))


def test_heic_is_turned_once(tmp_path: Path) -> None:
    pytest.importorskip("pillow_heif").register_heif_opener()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(picture()).save(tmp_path / "a.heic", quality=95, exif=exif.tobytes())
    result = np.asarray(open_image(tmp_path / "a.heic")).astype(int)
    assert np.abs(result - UPRIGHT[6](picture())).mean() < 8


def test_sixteen_bits_are_scaled_not_clipped(tmp_path: Path) -> None:
    levels = np.linspace(0, 65535, 40 * 60).astype(np.uint16).reshape(40, 60)
    for name in ("a.png", "a.tif"):
        Image.fromarray(levels).save(tmp_path / name)
        result = np.asarray(open_image(tmp_path / name)).astype(float)
        assert np.abs(result - levels[..., None] / 257.0).max() <= 0.5001
    Image.fromarray((levels / 65535).astype(np.float32)).save(tmp_path / "f.tif")
    assert np.abs(np.asarray(open_image(tmp_path / "f.tif")) - levels[..., None] / 257.0).max() <= 0.5001


def test_transparency_is_laid_on_white(tmp_path: Path) -> None:
    for name, mode in (("a.png", "RGBA"), ("a.webp", "RGBA"), ("b.png", "LA")):
        Image.new(mode, (8, 8), (10, 20, 30, 0) if mode == "RGBA" else (10, 0)).save(tmp_path / name)
        assert np.asarray(open_image(tmp_path / name)).min() == 255
    palette = Image.new("P", (8, 8), 3)
    palette.putpalette([40] * 768)
    palette.save(tmp_path / "p.png", transparency=bytes([255, 255, 255, 0]))
    assert np.asarray(open_image(tmp_path / "p.png")).min() == 255


def png_of(width: int, height: int) -> bytes:
    """A PNG whose header claims a size that its few bytes of data do not have."""
    parts = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(bytes(1000))),
        (b"IEND", b""),
    ]
    chunks = [struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in parts]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def broken_files(folder: Path) -> list[Path]:
    whole = jpeg(folder / "whole.jpg").read_bytes()
    buffer = io.BytesIO()
    Image.fromarray(picture()).save(buffer, "PNG")
    contents = {
        "empty.jpg": b"",
        "text.png": b"no picture",
        "cut.jpg": whole[: len(whole) // 2],
        "cut_closed.jpg": whole[: len(whole) // 3] + b"\xff\xd9",
        "head.jpg": whole[:30],
        "cut.png": buffer.getvalue()[:-200],
        "bit.png": buffer.getvalue().replace(b"IDAT", b"IDAX", 1),
        "bomb.png": png_of(60_000, 60_000),
        "large.png": png_of(11_000, 11_000),  # where Pillow only warns
        "page.jpg": b"<!doctype html><html></html>",
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    (folder / "folder.jpg").mkdir()
    return [folder / name for name in [*contents, "folder.jpg", "absent.jpg"]]


def test_broken_files_are_named_with_a_reason(tmp_path: Path) -> None:
    for path in broken_files(tmp_path):
        if path.name == "cut_closed.jpg":
            continue  # decoders fill what is missing between the header and an end mark without a word
        with pytest.raises(ImageError) as error:
            open_image(path)
        assert str(path) in str(error.value)
        assert error.value.reason
        assert "\n" not in str(error.value)
        assert ("safely" in error.value.reason) == (path.name == "bomb.png")
        assert "exceeds limit" not in error.value.reason
        assert isinstance(error.value, UserError)


@pytest.fixture(params=["mlx-data", "pillow"])
def decoder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "pillow":
        monkeypatch.setattr(load, "_mlx_data", lambda: None)
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
    pixels = {i: one for batch in batches for i, one in zip(batch.indices, batch.pixels, strict=True)}
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
    monkeypatch.setattr(load, "_is_plain", lambda path: True)
    (batch,) = stream(paths, SMALL)
    assert batch.indices == [0, 1, 2]
    for pixels, path in zip(batch.pixels, paths, strict=True):
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

    def counting(path: Path) -> Image.Image:
        opened.append(path)
        return Image.new("RGB", (32, 32))

    monkeypatch.setattr(load, "open_image", counting)
    batches = stream([tmp_path / f"{n}.png" for n in range(400)], SMALL, batch_size=4, workers=2)
    next(batches)
    assert len(opened) <= 4 + 2 * load.AHEAD + 2
    batches.close()  # type: ignore[attr-defined]
    assert len(opened) < 40


def test_nothing_to_stream_and_no_common_size() -> None:
    assert list(stream([], SMALL)) == []
    with pytest.raises(UserError, match="no crop"):
        next(stream([Path("a.jpg")], PreprocessorConfig(crop=None)))


def test_plain_jpegs_are_told_from_the_others(tmp_path: Path) -> None:
    whole = jpeg(tmp_path / "a.jpg").read_bytes()
    xmp = b"http://ns.adobe.com/xap/1.0/\0<x tiff:Orientation='6'/>"
    segment = b"\xff\xe1" + struct.pack(">H", len(xmp) + 2) + xmp
    assert is_plain_jpeg(whole)
    assert is_plain_jpeg(whole + b"\0\0")
    assert not is_plain_jpeg(whole[:2] + segment + whole[2:])
    assert not is_plain_jpeg(whole[:-2])
    assert not is_plain_jpeg(whole + b"more")
    assert not is_plain_jpeg(b"\xff\xd8\xff\xd9")
    assert not any(is_plain_jpeg(whole[:end]) for end in range(0, len(whole) - 1, 7))


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=60), st.integers(2, 700))
def test_damage_never_crashes_either_reader(noise: bytes, at: int) -> None:
    buffer = io.BytesIO()
    Image.fromarray(picture()).save(buffer, "JPEG")
    data = buffer.getvalue()
    damaged = data[:at] + noise + data[at + len(noise) :]
    assert is_plain_jpeg(damaged) in (True, False)
    reason, image = "", None
    try:
        image = decode._read(damaged)
    except Exception as error:
        reason = decode._reason(error)
    assert reason if image is None else image.mode == "RGB"
