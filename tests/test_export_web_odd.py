"""The exported page with odd names, odd images and damaged files: one line each, and nothing is markup.

A stand-in takes the place of onnxruntime: its answer is the class whose number is the first byte of the picture.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chromium import Page, browsing
from file_server import serve_files
from PIL import Image

import sharpzo_mlx as sz
from sharpzo_mlx.exporting import web_runtime
from sharpzo_mlx.images.load import resize_and_crop

pytest.importorskip("onnx")
NAMES = [
    "<img src=x onerror=document.title='markup'>", "\u202eturned", "שלום", "x" * 300, "👩‍👧 family", "\u200b",
    "__proto__", "constructor", "a, b", "</script><b>bold</b>",
]  # fmt: skip
RUNTIME = """
export const env = { wasm: {} };
export class Tensor { constructor(type, data) { this.data = data; } }
const run = async ({ image: { data } }) => {
  globalThis.given = Array.from(data);
  const probabilities = Array.from({ length: COUNT }, (_, index) => Number(index === data[0]));
  return { label: { data: [data[0]] }, name: { data: [""] }, probabilities: { data: probabilities } };
};
export const InferenceSession = { create: async () => ({ run }) };
"""
STATUS = "document.getElementById('status').textContent"
RESULTS = "document.getElementById('results').children"


@pytest.fixture(scope="module")
def folder(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported page with the names above."""
    place = tmp_path_factory.mktemp("odd")
    (place / "runtime").mkdir()
    for name in web_runtime.FILES:
        (place / "runtime" / name).write_text(f"const COUNT = {len(NAMES)};{RUNTIME}")
    options = sz.ExportOptions(runtime=place / "runtime")
    page = sz.export(finished_run, "web", place / "page", options=options).path
    about = json.loads((page / "classifier.json").read_text()) | {"names": NAMES, "licence": "<b>mit</b>"}
    (page / "classifier.json").write_text(json.dumps(about))
    return page


@pytest.fixture(scope="module")
def browser(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Page, str]]:
    with browsing(tmp_path_factory.mktemp("profile")) as page, serve_files(folder) as address:
        page.send("Network.setCacheDisabled", cacheDisabled=True)
        yield page, f"{address}/index.html"


def open_page(browser: tuple[Page, str]) -> Page:
    page, address = browser
    page.open(address, width=400)
    page.wait_for(f"!{STATUS}.startsWith('Loading')")
    page.complaints.clear()
    return page


def drop(page: Page, *files: Path) -> list[str]:
    """Drop files, wait until all have an answer, and return its words, the newest first."""
    expected = page.run(f"{RESULTS}.length") + len(files)
    page.drop(200, 200, *files)
    page.wait_for(f"{RESULTS}.length === {expected} && {STATUS}.startsWith('Ready')")
    found: list[str] = page.run(f"[...{RESULTS}].map((item) => item.querySelector('.answer, .failed').innerText)")
    return found


def paint(folder: Path) -> list[Path]:
    """Make one picture for each class."""
    files = [folder / f"{number}.png" for number in range(len(NAMES))]
    for number, file in enumerate(files):
        Image.new("RGB", (30, 20), (number, 90, 200)).save(file)
    return files


def test_names_are_shown_as_they_are(browser: tuple[Page, str], tmp_path: Path) -> None:
    page = open_page(browser)
    shown = ["(U+200B)" if name == "\u200b" else name for name in NAMES]
    assert page.run("document.getElementById('classes').innerText") == f"It tells apart: {', '.join(shown)}"
    files = paint(tmp_path)
    for file in files:  # one drop after another, without waiting
        page.drop(200, 200, file)
    page.wait_for(f"{RESULTS}.length === {len(files)} && {STATUS}.startsWith('Ready')")
    assert page.run("[...document.querySelectorAll('.answer')].map((one) => one.innerText)") == shown[::-1]
    assert page.run("document.querySelectorAll('b, script:not([src]), #classes img').length") == 0
    assert page.run("Math.max(...[...document.querySelectorAll('.answer')].map((one) => one.clientHeight))") < 100
    assert page.run("document.documentElement.scrollWidth") <= 400
    assert page.run("document.title") == "Image classifier"
    assert page.complaints == []


def test_many_classes_leave_room_for_the_images(browser: tuple[Page, str], folder: Path) -> None:
    whole = (folder / "classifier.json").read_text()
    names = [f"class {number}" for number in range(1000)]
    (folder / "classifier.json").write_text(json.dumps(json.loads(whole) | {"names": names}))
    page = open_page(browser)
    (folder / "classifier.json").write_text(whole)
    assert page.run("document.getElementById('classes').innerText") == "It tells apart 1000 classes"
    assert page.run("document.getElementById('zone').getBoundingClientRect().top") < 300
    page.run("document.querySelector('summary').click()")
    assert page.run("document.querySelectorAll('#classes bdi').length") == 1000


def test_what_is_no_image_is_one_line(browser: tuple[Page, str], tmp_path: Path) -> None:
    page, (good, *_) = open_page(browser), paint(tmp_path)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 90, 3), np.uint8)).save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:9000])
    (tmp_path / "empty.png").touch()
    (tmp_path / "photo.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    (tmp_path / "<b>.png").write_text("<b>no image</b>")
    (tmp_path / "folder").mkdir()
    bad = [tmp_path / name for name in ("cut.png", "empty.png", "photo.heic", "<b>.png", "folder")]
    answer, *said = drop(page, *bad, good)
    assert answer == NAMES[0]
    for file, line in zip(bad[::-1], said, strict=True):
        assert line.startswith(f"{file.name}: this browser cannot read it (")
        assert "\n" not in line
    assert page.complaints == []


def test_a_large_image_is_read_in_strips(browser: tuple[Page, str], finished_run: Path, tmp_path: Path) -> None:
    """To the same bytes as this program reads."""
    pixels = np.random.default_rng(0).integers(0, 256, (100, 150, 3), np.uint8).repeat(20, 0).repeat(20, 1)
    image = Image.fromarray(pixels)
    image.save(tmp_path / "large.png")
    page = open_page(browser)
    drop(page, tmp_path / "large.png")
    expected = resize_and_crop(image, sz.load(sz.Run.load(finished_run).model_folder).config.preprocessor)
    np.testing.assert_array_equal(np.array(page.run("globalThis.given")).reshape(expected.shape), expected)


def test_an_image_that_is_too_large_is_one_line(browser: tuple[Page, str], tmp_path: Path) -> None:
    Image.new("1", (32000, 5600)).save(tmp_path / "huge.png")
    assert drop(open_page(browser), tmp_path / "huge.png") == ["huge.png: 32000 × 5600 pixels are too many"]


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (None, "classifier.json is damaged"),
        ({"format": "other 2"}, 'classifier.json is not of the format "sharpzo-mlx classifier 1"'),
        ({"names": "abc"}, "classifier.json is damaged"),
        ({"names": [1, 2]}, "classifier.json is damaged"),
        ({"model": None}, "classifier.json is damaged"),
        ({"licence": {}}, "classifier.json is damaged"),
        ({"preprocessing": {"size": [10**9, 10**9], "resize": 16, "filter": "bicubic"}}, "classifier.json is damaged"),
        ({"preprocessing": {"size": [16, 16], "resize": 0, "filter": "bicubic"}}, "classifier.json is damaged"),
        ({"preprocessing": {"size": [16, 16], "resize": 16, "filter": "__proto__"}}, "classifier.json is damaged"),
    ],
)
def test_a_damaged_description_is_one_line(
    browser: tuple[Page, str], folder: Path, tmp_path: Path, changes: dict[str, Any] | None, line: str
) -> None:
    whole = (folder / "classifier.json").read_text()
    text = whole[:200] if changes is None else json.dumps(json.loads(whole) | changes)
    (folder / "classifier.json").write_text(text)
    page = open_page(browser)
    (folder / "classifier.json").write_text(whole)
    page.drop(200, 200, paint(tmp_path)[0])
    assert page.run(STATUS) == f"The classifier could not be loaded: {line}"
    assert page.run(f"new Promise((done) => setTimeout(() => done({RESULTS}.length), 50))") == 0
    assert page.complaints == []


def test_files_that_do_not_fit_together_are_named(browser: tuple[Page, str], folder: Path, tmp_path: Path) -> None:
    whole = (folder / "classifier.json").read_text()
    (folder / "classifier.json").write_text(json.dumps(json.loads(whole) | {"names": ["one"]}))
    page = open_page(browser)
    (folder / "classifier.json").write_text(whole)
    line = f"0.png: classifier.onnx has {len(NAMES)} classes, classifier.json 1"
    assert drop(page, paint(tmp_path)[0]) == [line]


def test_a_missing_description_says_what_the_server_answered(browser: tuple[Page, str], folder: Path) -> None:
    (folder / "classifier.json").rename(folder / "kept")
    page = open_page(browser)
    (folder / "kept").rename(folder / "classifier.json")
    assert page.run(STATUS) == "The classifier could not be loaded: classifier.json: the server answered 404"


def test_the_keyboard_reaches_the_field(browser: tuple[Page, str], tmp_path: Path) -> None:
    page = open_page(browser)
    page.press("Tab", 9)
    assert page.run("document.activeElement.id") == "chooser"
    assert page.run("getComputedStyle(document.getElementById('zone')).outlineStyle") == "solid"
    page.choose("#chooser", paint(tmp_path)[1])
    page.wait_for(f"{RESULTS}.length === 1")
