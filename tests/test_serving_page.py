"""The page of `serve` in a real browser: images are dropped, pasted and chosen, and their labels read."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from chromium import Page, browsing
from PIL import Image
from served import Served, serving

import sharpzo_mlx as sz
from sharpzo_mlx.serving.limits import Limits

DONE = "document.querySelectorAll('.card .labels, .card .bad').length === {}"
TOKEN = "a-token-of-the-tests"


@pytest.fixture(scope="module")
def server(finished_run: Path) -> Iterator[Served]:
    with serving(finished_run, limits=Limits(file_bytes=1_000_000)) as served:
        yield served


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with browsing(tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.fixture
def page(browser: Page, server: Served) -> Iterator[Page]:
    """The page, freshly opened; at the end the console must be silent and no other host asked."""
    browser.complaints.clear()
    browser.requests.clear()
    browser.open(f"http://127.0.0.1:{server.port}/")
    yield browser
    own = f"http://127.0.0.1:{server.port}/"
    assert browser.complaints == []
    assert [url for url in browser.requests if not url.startswith((own, f"blob:{own}", "data:"))] == []


def cards(page: Page) -> list[str]:
    found: list[str] = page.run("[...document.querySelectorAll('.card')].map((card) => card.innerText)")
    return found


def test_dropped_images_are_labelled_as_predict_does(page: Page, finished_run: Path, photos: Path) -> None:
    files = [photos / "cat" / "3.png", photos / "dog" / "5.png"]
    page.drop(300, 300, *files)
    page.wait_for(DONE.format(2))
    expected = sz.predict(finished_run, files, top=3, reject=0.05)
    for prediction, text in zip(expected, reversed(cards(page)), strict=True):  # the newest stands first
        assert prediction.path.name in text
        for label, share in prediction.labels:
            assert f"{100 * share:.1f} %" in text
            assert label in text
    assert page.run("document.querySelectorAll('.near img').length") == 8
    page.wait_for("[...document.querySelectorAll('.near img')].every((image) => image.naturalWidth > 0)")
    said = page.run("document.getElementById('status').textContent")
    assert any(prediction.path.name in said for prediction in expected)
    assert page.run("document.getElementById('status').getAttribute('aria-live')") == "polite"


def test_a_chosen_file_that_is_no_image_does_not_stop_the_others(page: Page, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.png").write_text("no image")
    (tmp_path / "large.png").write_bytes(bytes(1_000_001))
    name = "<img src=x onerror=alert(1)>\u202e.png"
    shutil.copy(photos / "cat" / "1.png", tmp_path / name)
    page.choose("#files", tmp_path / "notes.png", tmp_path / name, tmp_path / "large.png")
    page.wait_for(DONE.format(3))
    large, odd, notes = cards(page)
    assert "larger than 1 MB" in large
    assert "not an image of a kind that can be read" in notes
    assert name in odd
    assert page.run("document.querySelector('.card h2 img')") is None
    assert page.run("[...document.querySelectorAll('.card h2')].every((one) => one.firstChild.tagName === 'BDI')")
    page.complaints[:] = [one for one in page.complaints if "422" not in one]  # the answer to what is no image


def test_a_pasted_image_is_labelled(page: Page, photos: Path) -> None:
    content = base64.b64encode((photos / "cat" / "2.png").read_bytes()).decode()
    page.run(f"""(() => {{
        const bytes = Uint8Array.from(atob({json.dumps(content)}), (one) => one.charCodeAt(0));
        const data = new DataTransfer();
        data.items.add(new File([bytes], "image.png", {{ type: "image/png" }}));
        document.dispatchEvent(new ClipboardEvent("paste", {{ clipboardData: data, bubbles: true }}));
    }})()""")
    page.wait_for(DONE.format(1))
    assert "image.png" in cards(page)[0]


def test_the_keyboard_reaches_everything_and_clear_clears(page: Page, photos: Path) -> None:
    page.choose("#files", photos / "cat" / "1.png")
    page.wait_for(DONE.format(1))
    page.run("document.activeElement.blur()")
    reached = []
    for _ in range(3):
        page.press("Tab", 9)
        reached.append(page.run("document.activeElement.id"))
    assert reached == ["files", "reject", "clear"]
    page.run("document.activeElement.click()")
    assert cards(page) == []
    assert page.run("document.activeElement.id") == "files"
    assert page.run("document.getElementById('clear').hidden")


def test_an_image_of_another_kind_is_none_of_them(page: Page, finished_run: Path, tmp_path: Path) -> None:
    for number in range(20):
        pixels = np.random.default_rng(number).integers(0, 2, (20, 20, 3), np.uint8) * 255
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    found = sz.predict(finished_run, tmp_path, reject=0.05)
    foreign = next(prediction for prediction in found if prediction.rejected)
    page.choose("#files", foreign.path)
    page.wait_for(DONE.format(1))
    assert f"none of them (best guess: {foreign.labels[0][0]})" in cards(page)[0]
    assert "none of them" in page.run("document.getElementById('status').textContent")


def test_without_the_box_no_image_is_turned_away(page: Page, photos: Path) -> None:
    page.run("document.getElementById('reject').click()")
    page.choose("#files", photos / "cat" / "1.png")
    page.wait_for(DONE.format(1))
    sent = [url for url in page.requests if "/predict" in url]
    assert len(sent) == 1
    assert "reject" not in sent[0]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_wider_than_a_phone_and_text_stands_out(
    page: Page, server: Served, photos: Path, tmp_path: Path, scheme: str
) -> None:
    page.open(f"http://127.0.0.1:{server.port}/", width=400, scheme=scheme)
    long = tmp_path / f"{'a-long-name' * 20}.png"
    shutil.copy(photos / "cat" / "1.png", long)
    page.choose("#files", long)
    page.wait_for(DONE.format(1))
    assert page.run("document.documentElement.scrollWidth") <= 400
    ink, paper = (
        sum(page.run(f"getComputedStyle(document.body).{name}.match(/\\d+/g).map(Number)")[:3])
        for name in ("color", "backgroundColor")
    )
    assert (ink < 150 and paper > 600) if scheme == "light" else (ink > 600 and paper < 150)


def test_a_page_with_a_token_works_after_its_address(browser: Page, finished_run: Path, photos: Path) -> None:
    with serving(finished_run, token=TOKEN) as server:
        browser.complaints.clear()
        browser.open(f"http://127.0.0.1:{server.port}/?token={TOKEN}")
        assert browser.run("location.search + document.cookie") == ""
        browser.choose("#files", photos / "cat" / "1.png")
        browser.wait_for(DONE.format(1))
        browser.wait_for("[...document.querySelectorAll('.near img')].every((image) => image.naturalWidth > 0)")
        assert browser.complaints == []
