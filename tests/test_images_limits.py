"""What a stranger's image can do: take memory within the budget, be refused, and nothing else."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pictures import SMALL, Pixels, jpeg, picture
from PIL import Image

from sharpzo_mlx.images import decoding_memory
from sharpzo_mlx.images.decode import KINDS, ImageError, held_image, open_image
from sharpzo_mlx.images.decoding_memory import ByteBudget, plan_decoding
from sharpzo_mlx.images.jpeg import coefficient_bytes, is_plain_jpeg
from sharpzo_mlx.images.load import preprocess, stream
from sharpzo_mlx.images.quiet import quiet

POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 50 50\n%%EndComments\nshowpage\n%%EOF\n"
AUDITED = """
import sys
from pathlib import Path
STARTS = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.spawn", "pty.spawn")
started = []
sys.addaudithook(lambda event, _: started.append(event) if event in STARTS else None)
from sharpzo_mlx.images.load import stream
from sharpzo_mlx.images.preprocessor import PreprocessorConfig
files = sorted(Path(sys.argv[1]).iterdir())
for batch in stream(files, PreprocessorConfig.for_size(16)):
    print(*sorted(files[i].name for i in batch.indices))
    print(*sorted({reason for _, reason in batch.failed}), sep="; ")
print(started)
"""


def test_no_image_starts_a_program(tmp_path: Path) -> None:
    """PostScript is handed to Ghostscript by Pillow; here a program of that name would be found, and leave a file."""
    images, programs = tmp_path / "images", tmp_path / "bin"
    images.mkdir()
    programs.mkdir()
    (programs / "gs").write_text(f"#!/bin/sh\necho run > {tmp_path}/ran\n")
    (programs / "gs").chmod(0o755)
    for name in ("cat.jpg", "cat.png", "cat.eps"):
        (images / name).write_bytes(POSTSCRIPT)
    for kind in ("jpeg", "png", "webp", "gif", "tiff", "bmp"):
        Image.fromarray(picture()).save(images / f"good.{kind}")
        (images / f"cut.{kind}").write_bytes((images / f"good.{kind}").read_bytes()[:200])
    for name, pillow in (("a.jpg", "PPM"), ("b.jpg", "JPEG2000"), ("c.jpg", "TGA"), ("d.jpg", "PCX")):
        Image.fromarray(picture()).save(images / name, pillow)
    environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"}
    ran = subprocess.run(
        [sys.executable, "-c", AUDITED, str(images)], capture_output=True, text=True, check=True, env=environment
    )
    good, reasons, started = ran.stdout.splitlines()
    assert good == "good.bmp good.gif good.jpeg good.png good.tiff good.webp"
    assert "not an image of a kind that can be read" in reasons
    assert started == "[]"
    assert not (tmp_path / "ran").exists()


def test_only_the_documented_kinds_are_opened(tmp_path: Path) -> None:
    assert {"EPS", "WMF", "PSD", "FITS", "JPEG2000"}.isdisjoint(KINDS)
    for kind in ("PPM", "JPEG2000", "TGA", "EPS"):
        Image.fromarray(picture()).save(tmp_path / "a.jpg", kind)
        with pytest.raises(ImageError, match="not an image of a kind that can be read"):
            open_image(tmp_path / "a.jpg")


def header_lie(path: Path, side: int, **options: Any) -> Path:
    """A small JPEG whose header claims a large picture."""
    data = bytearray(jpeg(path, **options).read_bytes())
    place = max(data.find(b"\xff\xc0"), data.find(b"\xff\xc2"))
    data[place + 5 : place + 9] = struct.pack(">HH", side, side)
    path.write_bytes(data)
    return path


def canvas_of(path: Path, side: int) -> Path:
    """An animated WebP file of few bytes with a large canvas."""
    buffer = io.BytesIO()
    Image.new("RGBA", (16, 16), (1, 2, 3, 128)).save(buffer, "WEBP", lossless=True)
    frame = buffer.getvalue()[buffer.getvalue().find(b"VP8L") :]

    def small(number: int) -> bytes:
        return struct.pack("<I", number)[:3]

    place = small(0) + small(0) + small(15) + small(15) + small(100) + b"\0"
    body = b"WEBPVP8X" + struct.pack("<I", 10) + b"\x12\0\0\0" + 2 * small(side - 1)
    body += b"ANIM" + struct.pack("<I", 6) + bytes(6) + b"ANMF" + struct.pack("<I", len(place + frame)) + place + frame
    path.write_bytes(b"RIFF" + struct.pack("<I", len(body)) + body)
    return path


def test_what_cannot_fit_is_refused_by_its_header(tmp_path: Path) -> None:
    started = time.monotonic()
    Image.new("L", (8, 8)).save(tmp_path / "a.gif")
    progressive = header_lie(tmp_path / "a.jpg", 13_300, progressive=True, subsampling=0)
    for path in (canvas_of(tmp_path / "a.webp", 13_300), progressive):
        with pytest.raises(ImageError, match=r"13300 x 13300 pixels need \d+ MB, more than can be decoded safely"):
            open_image(path)
    with (tmp_path / "huge.bmp").open("wb") as file:
        file.write(b"BM")
        file.truncate(decoding_memory.BYTES + 1)
    with pytest.raises(ImageError, match="larger than can be decoded safely"):
        open_image(tmp_path / "huge.bmp")
    assert open_image(canvas_of(tmp_path / "b.webp", 500)).size == (500, 500)
    assert time.monotonic() - started < 5, "nothing of that is decoded"


PEAK = """
import sys
from pathlib import Path
from sharpzo_mlx.images.decode import open_image
def peak():
    return next(int(line.split()[1]) for line in Path("/proc/self/status").open() if line.startswith("VmHWM")) * 1024
before = peak()
picture = open_image(sys.argv[1])
print(peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of a process that was started by this one")
@pytest.mark.parametrize("kind", ["RGBA png", "RGB webp", "RGB tif", "P gif"])
def test_a_picture_takes_no_more_than_its_plan(kind: str, tmp_path: Path) -> None:
    mode, ending = kind.split()
    path = tmp_path / f"a.{ending}"
    options: dict[str, Any] = {"compression": "tiff_adobe_deflate", "tiffinfo": {278: 2400}} if ending == "tif" else {}
    Image.new(mode, (2400, 2400)).save(path, **options)
    with Image.open(path) as image:
        planned = plan_decoding(image, path.stat().st_size).size
    ran = subprocess.run([sys.executable, "-c", PEAK, str(path)], capture_output=True, text=True, check=True)
    taken = int(ran.stdout)
    assert 0.3 * planned < taken < 1.1 * planned + 30e6


def test_large_pictures_are_reduced_on_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a budget of 1 MB, pictures of 480 x 400 come out at a fraction of that, and look the same."""
    exif = Image.Exif()
    exif[0x0112] = 6
    upright = picture(480, 400)
    stored = Image.fromarray(np.rot90(upright).copy())
    layers = stored.convert("RGBA")
    wide = Image.fromarray(np.asarray(stored)[..., 0].astype(np.uint16) * 257)
    layers.save(tmp_path / "a.png", exif=exif)
    wide.save(tmp_path / "b.png", exif=exif)
    stored.save(tmp_path / "c.jpg", exif=exif, quality=95)
    exact = [preprocess(open_image(path), SMALL) for path in sorted(tmp_path.iterdir())]
    monkeypatch.setattr(decoding_memory, "BUDGET", ByteBudget(1_000_000))
    for path, pixels in zip(sorted(tmp_path.iterdir()), exact, strict=True):
        small = open_image(path)
        assert small.height / small.width == pytest.approx(480 / 400, abs=0.01)
        assert np.abs(preprocess(small, SMALL) - pixels).max() < 0.15, "two levels of 255"
    monkeypatch.setattr(decoding_memory, "BUDGET", ByteBudget(400_000))
    assert open_image(tmp_path / "c.jpg").height <= 240, "libjpeg decodes at a half"
    with pytest.raises(ImageError, match="safely"):
        open_image(tmp_path / "a.png")


def test_pictures_of_several_tiles_are_the_same_as_of_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sharpzo_mlx.images import upright

    layers = Image.fromarray(picture(75, 110)).convert("RGBA")
    layers.putalpha(Image.fromarray(picture(75, 110, seed=2)[..., 1]))
    files = []
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        files.append(tmp_path / f"{orientation}.png")
        layers.save(files[-1], exif=exif)
    whole: list[Pixels] = [np.asarray(open_image(path)) for path in files]
    monkeypatch.setattr(upright, "TILE", 32)
    for path, pixels in zip(files, whole, strict=True):
        np.testing.assert_array_equal(np.asarray(open_image(path)), pixels)


def test_decoding_threads_share_one_budget(tmp_path: Path) -> None:
    budget, inside, most = ByteBudget(10), [0], [0]
    lock = threading.Lock()

    def hold(size: int) -> None:
        with budget.held(size):
            with lock:
                inside[0] += min(size, 10)
                most[0] = max(most[0], inside[0])
            time.sleep(0.002)
            with lock:
                inside[0] -= min(size, 10)

    threads = [threading.Thread(target=hold, args=(size,)) for size in (4, 6, 1, 10, 3, 50, 7, 2) * 4]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=10)
    assert not any(thread.is_alive() for thread in threads)
    assert most[0] <= 10
    with pytest.raises(ValueError, match="inside"), budget.held(10):
        raise ValueError("inside")
    with budget.held(10):
        pass


def test_an_image_holds_its_bytes_until_it_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sharpzo_mlx.images import decode

    held: list[int] = []

    class Watched(ByteBudget):
        def held(self, size: int):  # type: ignore[no-untyped-def]
            held.append(size)
            return super().held(size)

    monkeypatch.setattr(decode, "BUDGET", Watched(10**9))
    path = jpeg(tmp_path / "a.jpg")
    with held_image(path) as image:
        assert image.size == (60, 40)
    assert held == [60 * 40 * 8]
    with pytest.raises(RuntimeError, match="the caller's"), held_image(path):
        raise RuntimeError("the caller's")


def test_scans_that_libjpeg_must_remember(tmp_path: Path) -> None:
    sizes = {
        (False, 0): 0.0,
        (True, 0): 6.0,
        (True, 2): 3.0,
    }
    for (progressive, subsampling), expected in sizes.items():
        path = jpeg(tmp_path / "a.jpg", progressive=progressive, subsampling=subsampling)
        with path.open("rb") as file:
            assert coefficient_bytes(file) == expected
    assert coefficient_bytes(io.BytesIO(b"\xff\xd8")) == 0
    data = (tmp_path / "a.jpg").read_bytes()
    assert is_plain_jpeg(data)
    large = header_lie(tmp_path / "a.jpg", 2300)
    assert not is_plain_jpeg(large.read_bytes()), "left to Pillow, which asks the budget"


def test_decoders_are_quiet(tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow's warnings never pass; the C libraries' lines do not where the command line has closed the descriptor."""
    Image.fromarray(picture(300, 300)).save(tmp_path / "a.tif", compression="tiff_adobe_deflate")
    data = bytearray((tmp_path / "a.tif").read_bytes())
    data[2000:2400] = bytes(400)
    (tmp_path / "a.tif").write_bytes(data)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 60_000)  # warned of from here on
    Image.fromarray(picture(300, 300)).save(tmp_path / "b.tif")
    monkeypatch.setattr(quiet, "descriptor", 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (batch,) = stream([tmp_path / "a.tif", tmp_path / "b.tif"], SMALL)
    assert ([index for index, _ in batch.failed], batch.indices) == ([0], [1])
    assert capfd.readouterr().err == ""
    os.write(2, b"open again\n")
    assert capfd.readouterr().err == "open again\n"


def test_damaged_exif_is_not_spoken_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(picture(40, 30)).save(tmp_path / "a.jpg", exif=exif)
    data = (tmp_path / "a.jpg").read_bytes()
    said: list[object] = []
    monkeypatch.setattr(warnings, "showwarning", lambda *given, **_: said.append(given))
    place = data.index(b"Exif\0\0") + 14  # how many entries follow
    for damaged in (data, data[:place] + b"\xff\xff" + data[place + 2 :]):
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            is_plain_jpeg(damaged)
    assert not said
