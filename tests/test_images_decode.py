"""Decoding: every kind of file becomes an upright RGB picture, or an error with a reason."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pictures import SMALL, Pixels, broken_files, jpeg, picture
from PIL import Image

from sharpzo_mlx.errors import UserError
from sharpzo_mlx.images.decode import ImageError, open_image
from sharpzo_mlx.images.jpeg import is_plain_jpeg
from sharpzo_mlx.images.load import normalise, preprocess, stream

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
        np.testing.assert_array_equal(normalise(batch.pictures[0], SMALL), preprocess(open_image(file), SMALL))


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


def test_broken_files_are_named_with_a_reason(tmp_path: Path) -> None:
    for path in broken_files(tmp_path):
        if path.name == "cut_closed.jpg":
            continue  # decoders fill the gap before an end mark without an error
        with pytest.raises(ImageError) as error:
            open_image(path)
        assert str(path) in str(error.value)
        assert error.value.reason
        assert "\n" not in str(error.value)
        assert ("safely" in error.value.reason) == (path.name == "bomb.png")
        assert "exceeds limit" not in error.value.reason
        assert isinstance(error.value, UserError)


def test_plain_jpegs_are_distinguished(tmp_path: Path) -> None:
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


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(noise=st.binary(max_size=60), at=st.integers(2, 700))
def test_damage_never_crashes_either_reader(tmp_path: Path, noise: bytes, at: int) -> None:
    data = jpeg(tmp_path / "a.jpg").read_bytes()
    damaged = data[:at] + noise + data[at + len(noise) :]
    assert is_plain_jpeg(damaged) in (True, False)
    (tmp_path / "a.jpg").write_bytes(damaged)
    try:
        image = open_image(tmp_path / "a.jpg")
    except ImageError as error:
        assert error.reason  # noqa: PT017
        assert "\n" not in str(error)  # noqa: PT017
    else:
        assert image.mode == "RGB"
