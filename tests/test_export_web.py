"""The exported page: it resizes as this program does, answers as `predict` in a browser, and asks no other host."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import tarfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chromium import Page, browsing
from conftest import TESTBED
from file_server import serve_files
from head_answers import paint_strangers
from PIL import Image

import sharpzo_mlx as sz
from sharpzo_mlx.exporting import web, web_runtime
from sharpzo_mlx.images.load import resize_and_crop
from sharpzo_mlx.images.preprocessor import PreprocessorConfig

pytest.importorskip("onnx")
VARIABLE = "SHARPZO_MLX_ONNXRUNTIME_WEB"  # a folder with onnxruntime-web, or npm's archive of it
RUNTIME = Path(os.environ.get(VARIABLE) or TESTBED.parent / f"onnxruntime-web-{web_runtime.VERSION}.tgz")
node = pytest.mark.skipif(shutil.which("node") is None, reason="no node here")


@pytest.fixture
def stand_in(tmp_path: Path) -> Path:
    """A runtime that a page can hold, but not run."""
    folder = tmp_path / "runtime"
    folder.mkdir()
    for name in web_runtime.FILES:
        (folder / name).write_text("no runtime")
    return folder


SIZES = [(20, 26), (26, 20), (16, 16), (5, 7), (300, 211), (64, 48), (1000, 30), (33, 224)]
CONFIGS = {
    "clip": PreprocessorConfig.for_size(16),
    "squash": PreprocessorConfig(resize=(16, 12), crop=None),
    "odd": PreprocessorConfig(resize=23, crop=(16, 17)),
    "larger crop": PreprocessorConfig(resize=15, crop=(20, 21)),
    "no resize": PreprocessorConfig(resize=None, crop=(16, 16)),
    "bilinear": PreprocessorConfig(resize=16, crop=(16, 16), resample=2),
    "lanczos": PreprocessorConfig(resize=16, crop=(16, 16), resample=1),
    "box": PreprocessorConfig(resize=16, crop=(16, 16), resample=4),
    "hamming": PreprocessorConfig(resize=16, crop=(16, 16), resample=5),
}


def described(config: PreprocessorConfig) -> dict[str, Any]:
    """The part of classifier.json that the page resizes by."""
    return {
        "resize": config.resize,
        "size": config.output_size,
        "filter": Image.Resampling(config.resample).name.lower(),
    }


@node
def test_resizing_gives_the_same_bytes(tmp_path: Path) -> None:
    draw, cases = np.random.default_rng(0), []
    for config in CONFIGS.values():
        for height, width in SIZES:
            pixels = draw.integers(0, 256, (height, width, 3), dtype=np.uint8)
            cases.append((config, Image.fromarray(pixels)))
    given = [
        {"rgb": np.asarray(image).ravel().tolist(), "size": image.size[::-1], "how": described(config)}
        for config, image in cases
    ]
    (tmp_path / "cases.json").write_text(json.dumps(given))
    shutil.copy(web.PAGE / "resize.js", tmp_path / "resize.mjs")
    (tmp_path / "use.mjs").write_text(
        'import { readFileSync } from "node:fs";\n'
        'import { prepare } from "./resize.mjs";\n'
        'const cases = JSON.parse(readFileSync("cases.json"));\n'
        "const made = cases.map(({ rgb, size, how }) => Array.from(prepare(Uint8Array.from(rgb), ...size, how)));\n"
        "console.log(JSON.stringify(made));\n"
    )
    done = subprocess.run(["node", "use.mjs"], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    for (config, image), found in zip(cases, json.loads(done.stdout), strict=True):
        expected = resize_and_crop(image, config)
        differing = np.abs(np.array(found).reshape(expected.shape) - expected.astype(int))
        tall = image.height > 2 * image.width  # versions of Pillow differ in which pass comes first
        assert differing.mean() < (0.5 if tall else 1e-9), (config, image.size)


@node
def test_a_stripe_is_resized_where_it_is_kept(tmp_path: Path) -> None:
    """This program resizes the middle of a stripe alone, with rounding of its own."""
    image = Image.fromarray(np.random.default_rng(1).integers(0, 256, (3, 700, 3), dtype=np.uint8))
    how = json.dumps(described(CONFIGS["clip"]))
    shutil.copy(web.PAGE / "resize.js", tmp_path / "resize.mjs")
    rgb = json.dumps(np.asarray(image).ravel().tolist())
    (tmp_path / "use.mjs").write_text(
        'import { prepare } from "./resize.mjs";\n'
        f"console.log(JSON.stringify(Array.from(prepare(Uint8Array.from({rgb}), 3, 700, {how}))));\n"
    )
    done = subprocess.run(["node", "use.mjs"], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    found = np.array(json.loads(done.stdout)).reshape(16, 16, 3)
    assert np.abs(found - resize_and_crop(image, CONFIGS["clip"]).astype(int)).max() <= 1


def wait_long(page: Page, script: str) -> None:
    """Wait until an expression is true, also where other programs take the processor."""
    end = time.monotonic() + 240
    while not page.run(script):
        assert time.monotonic() < end, (page.complaints, page.run("document.body.innerText"))
        time.sleep(0.2)


@pytest.mark.skipif(not RUNTIME.exists(), reason=f"no onnxruntime-web: name its archive with {VARIABLE}")
def test_page_answers_as_predict_without_a_network(finished_run: Path, tmp_path: Path) -> None:
    run, folder = sz.Run.load(finished_run), tmp_path / "page"
    sz.export(run, "web", folder, options=sz.ExportOptions(runtime=RUNTIME))
    images = draw_files(run, tmp_path / "files")
    (tmp_path / "<b>x.png").write_bytes(b"no image")
    with browsing(tmp_path / "profile") as page, serve_files(folder) as address:
        page.open(f"{address}/index.html", width=400)
        wait_long(page, "Boolean(document.body.dataset.ready)")
        assert page.complaints == []
        limits = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
        page.send("Network.emulateNetworkConditions", offline=True, **limits)
        assert page.run("fetch('./classifier.json').then(() => 'reached', () => 'off')") == "off"
        page.complaints.clear()
        page.drop(200, 200, *images, tmp_path / "<b>x.png")
        wait_long(page, f"document.getElementById('results').children.length === {len(images) + 1}")
        rows = "[...document.getElementById('results').children].reverse()"
        items = page.run(f"{rows}.map((item) => ({{...item.dataset, text: item.innerText}}))")
        text, bold = page.run("document.body.innerText"), page.run("document.querySelectorAll('b').length")
        assert page.run("document.documentElement.scrollWidth") <= 400
        assert page.complaints == []
        assert {request for request in page.requests if not request.startswith((address, "blob:", "data:"))} == set()

    expected = sz.predict(run, images, top=3, reject=0.05)
    for one, item in zip(expected, items[:-1], strict=True):
        probabilities = [dict(one.labels)[name] for name in run.prompt.class_names]
        np.testing.assert_allclose(json.loads(item["probabilities"]), probabilities, atol=1e-4)
        assert item["rejected"] == str(one.rejected).lower()
        assert run.prompt.class_names[int(item["label"])] == one.labels[0][0]
        assert item["text"].startswith("none of them" if one.rejected else one.labels[0][0])
    assert {one.rejected for one in expected} == {False, True}
    assert "<b>x.png: this browser cannot read it" in items[-1]["text"]
    assert bold == 0  # a name is never markup
    assert "It tells apart: barn owl, cat, dog" in text


def draw_files(run: sz.Run, folder: Path) -> list[Path]:
    """Images of the classes, of none, transparent, lying on their side, and one of a single row; 200 in all."""
    folder.mkdir()
    draw, made = np.random.default_rng(6), []
    known = [Path(run.record.dataset) / relative for relative, _ in run.record.images.train]
    strangers = [path for path in paint_strangers(folder / "x").rglob("*.png") if path.name != "broken.png"]
    for number, source in enumerate([*known, *strangers]):
        made.append(shutil.copy(source, folder / f"given-{number}.png"))
    for number in range(200 - len(made) - 3):
        height, width = draw.integers(10, 120, 2)
        pixels = draw.integers(0, 256, 3) + draw.integers(-60, 60, (height, width, 3))
        picture = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
        made.append(folder / f"drawn-{number}.png")
        picture.save(made[-1])
    turned = Image.Exif()
    turned[0x0112] = 6
    picture.convert("RGB").save(folder / "turned.png", exif=turned)
    Image.fromarray(draw.integers(0, 256, (1, 40, 3), dtype=np.uint8)).save(folder / "row.png")
    mask = Image.fromarray((draw.random((height, width)) < 0.5).astype(np.uint8) * 255)
    picture.putalpha(mask)
    picture.save(folder / "transparent.png")
    return [Path(path) for path in made] + [folder / name for name in ("turned.png", "row.png", "transparent.png")]


def test_page_names_nothing_elsewhere(finished_run: Path, stand_in: Path, tmp_path: Path) -> None:
    page = sz.export(finished_run, "web", tmp_path / "page", options=sz.ExportOptions(runtime=stand_in)).path
    own = [path for path in page.iterdir() if path.suffix in (".js", ".html", ".css", ".json")]
    assert {"index.html", "app.js", "classifier.js", "resize.js", "style.css", "classifier.json"} == {
        p.name for p in own
    }
    for path in own:
        assert "://" not in path.read_text(encoding="utf-8"), path.name
    assert "MIT License" in (page / web.NOTICE).read_text()


def test_runtime_from_an_archive(stand_in: Path, tmp_path: Path) -> None:
    def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
        info = tarfile.TarInfo(name)
        info.size = len(content)
        archive.addfile(info, io.BytesIO(content))

    with tarfile.open(tmp_path / "whole.tgz", "w:gz") as archive:
        for name in web_runtime.FILES:
            add(archive, f"package/dist/{name}", b"x")
        add(archive, "package/package.json", b'{"version": "9.9.9"}')
        add(archive, "../outside", b"x")
    with tarfile.open(tmp_path / "part.tgz", "w:gz") as archive:
        add(archive, f"package/dist/{web_runtime.FILES[0]}", b"x")
    assert web_runtime.find(tmp_path / "whole.tgz").version == "9.9.9"
    assert not (tmp_path.parent / "outside").exists()
    (tmp_path / "none.tgz").write_bytes(b"no archive")
    (stand_in / web_runtime.FILES[1]).unlink()
    for name, words in (
        ("part.tgz", "lacks"),
        ("none.tgz", "no archive"),
        ("absent.tgz", "cannot be read"),
        ("runtime", "lacks"),
    ):
        with pytest.raises(sz.UserError, match=rf"{name}: {words}.*npm pack"):
            web_runtime.find(tmp_path / name)


def test_without_npm_and_without_a_runtime(finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(sz.UserError, match=r"npm is not here.*--runtime"):
        sz.export(finished_run, "web", tmp_path / "page")
    assert list(tmp_path.iterdir()) == []


def test_what_a_browser_cannot(
    finished_run: Path, stand_in: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sharpzo_mlx.exporting import onnx_model

    monkeypatch.setattr(onnx_model, "MOST_INSIDE", 10_000)
    with pytest.raises(sz.UserError, match="too large for a browser"):
        sz.export(finished_run, "web", tmp_path / "page", options=sz.ExportOptions(runtime=stand_in))
    assert [path.name for path in tmp_path.iterdir()] == ["runtime"]
