"""The page on which labels are decided: driven by its keys in a real browser, safe with hostile names, and bounded."""

from __future__ import annotations

import csv
import html
import io
import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
from page_reader import read
from PIL import Image

import sharpzo_mlx as sz
from sharpzo_mlx.images.thumbnail import MOST_BYTES, as_data_url
from sharpzo_mlx.review.label_check import LabelCheck, Neighbour, Suspect
from sharpzo_mlx.review.labelled_folder import Part
from sharpzo_mlx.review.page import MOST_CARDS, embed, write_page
from sharpzo_mlx.review.suggestions import Suggestion, Suggestions

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
QUIET = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--hide-scrollbars"]
QUIET += ["--disable-component-update", "--disable-sync", "--enable-logging=stderr", "--allow-file-access-from-files"]

NAMES = ("cat", "</script><script>parent.hacked=1</script>", "كلب", "東京の犬", "dog & \u2028 'cow' \"x\"")
FOLDERS = ("cat", "</script><script>parent.hacked=1<", "كلب", "東京の犬", "dog & \u2028 'cow' \"x\"")


def make_image(path: Path, seed: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (30, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, "PNG")
    return path


def make_suggestions(folder: Path, names: Sequence[str]) -> Suggestions:
    shares = (0.4, 0.3, 0.15, 0.1, 0.05)
    items = []
    for place, name in enumerate(names):
        path = make_image(folder / name, place)
        order = [*NAMES[place % 5 :], *NAMES[: place % 5]]
        items.append(Suggestion(path, tuple(zip(order, shares, strict=True)), 0.9, foreign=place == 1))
    return Suggestions(folder, tuple(items), 90, 10, NAMES, FOLDERS)


def make_check(folder: Path) -> LabelCheck:
    """Two suspects of train, one of test; each is called "cat" and looks like the third class."""
    suspects: list[Suspect] = []
    for split, name in (("train", "a.png"), ("train", "<b>.png"), ("test", "c.png")):
        path = make_image(folder / split / "cat" / name, len(suspects))
        near = make_image(folder / "train" / "x" / "near.png", 9)
        choices = ((NAMES[2], 0.9), (NAMES[1], 0.05), (NAMES[0], 0.01))
        part = Part(split, folder / split, 5)
        suspects.append(Suspect(path, part, NAMES[0], NAMES[2], 0.01, 0.9, choices, (Neighbour(near, 0.8),)))
    return LabelCheck(folder, 30, 0.8, tuple(suspects), (), NAMES, FOLDERS, by_folder=True)


DRIVER = """
<iframe id="page" width="400" height="900" src="PAGE"></iframe>
<script>
window.plans = [];
const frame = document.getElementById("page");
const answers = [];
const wait = (time) => new Promise((done) => setTimeout(done, time));
function press(key) {
  const inside = frame.contentDocument, target = inside.activeElement || inside.body;
  target.dispatchEvent(new frame.contentWindow.KeyboardEvent("keydown", { key, bubbles: true, cancelable: true }));
}
async function ready() {
  await new Promise((done) => { frame.onload = done; });
  const own = frame.contentWindow;
  const make = own.URL.createObjectURL.bind(own.URL);
  own.URL.createObjectURL = (blob) => {  // read at once: the page's clock runs ahead of promises
    const address = make(blob), request = new XMLHttpRequest();
    request.open("GET", address, false);
    request.send();
    plans.push(request.responseText);
    return address;
  };
  own.HTMLAnchorElement.prototype.click = function () { answers.push(this.download); };
}
function look() {
  const d = frame.contentDocument;
  return { status: d.getElementById("status").textContent, width: d.scrollingElement.scrollWidth,
    verdicts: [...d.querySelectorAll(".verdict")].map((one) => one.textContent),
    at: [...d.querySelectorAll(".card")].findIndex((one) => one.getAttribute("aria-current") === "true"),
    focused: d.activeElement.className, images: [...d.images].every((one) => one.naturalWidth > 0),
    outline: frame.contentWindow.getComputedStyle(d.activeElement).outlineStyle,
    fetched: frame.contentWindow.performance.getEntriesByType("resource").length,
    bdi: d.querySelectorAll("bdi").length };
}
(async () => {
  await ready();
  const looks = [look()];
  for (const step of STEPS) {
    if (step === "reload") { const done = ready(); frame.contentWindow.location.reload(); await done; }
    else if (step === "close") frame.contentDocument.getElementById("finder").close();
    else if (step === "look") looks.push(look());
    else if (step.startsWith("type ")) {
      const typed = frame.contentDocument.getElementById("typed");
      typed.value = step.slice(5);
      typed.dispatchEvent(new frame.contentWindow.Event("input"));
    } else press(step);
    await wait(20);
  }
  looks.push(look());
  await wait(900);
  const shown = { looks, plans, answers, hacked: window.hacked === 1 };
  const place = document.createElement("pre");
  place.id = "result";
  place.textContent = encodeURIComponent(JSON.stringify(shown));
  document.body.append(place);
})();
</script>
"""


def drive(page: Path, folder: Path, steps: Sequence[str]) -> dict[str, Any]:
    """Press keys on a page in a browser of 400 pixels; return what was seen and saved."""
    assert BROWSER is not None
    frame = folder / "frame.html"
    frame.write_text(DRIVER.replace("PAGE", page.resolve().as_uri()).replace("STEPS", json.dumps(list(steps))))
    words = [BROWSER, "--headless", *QUIET, f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=20000"]
    done = subprocess.run([*words, "--dump-dom", frame.as_uri()], capture_output=True, text=True, timeout=120)
    assert "CONSOLE" not in done.stderr, done.stderr
    found = re.search(r'<pre id="result">([^<]*)</pre>', done.stdout)
    assert found, done.stdout[-2000:]
    shown: dict[str, Any] = json.loads(unquote(found[1]))
    assert not shown["hacked"]
    return shown


needs_browser = pytest.mark.skipif(BROWSER is None, reason="no chromium here")


@needs_browser
def test_keys_decide_and_the_plan_is_what_was_decided(tmp_path: Path) -> None:
    names = ("a.png", "sub/<img src=x onerror=alert(1)>.png", "שלום.png", "犬.png", "</script>.png", "f.png")
    page = write_page(make_suggestions(tmp_path / "new", names), tmp_path / "page.html")
    # accept; second choice; none; undo it and accept; by prefix; go down, back up; accept by space; save
    steps = ["Enter", "2", "x", "u", "look", "Enter", "/", "type 東", "look", "Enter", "j", "k", "s"]
    shown = drive(page, tmp_path, steps)
    first, undone, typing, last = shown["looks"]
    assert first["status"] == "0 of 6 decided"
    assert first["images"]
    assert first["width"] <= 400
    assert first["fetched"] == 0
    assert first["bdi"] > 20
    assert undone["at"] == 2  # where it was undone
    assert undone["verdicts"][2] == ""
    assert undone["focused"].startswith("card")
    assert undone["outline"] == "solid"
    assert typing["focused"] == ""  # in the field
    assert last["verdicts"][:3] == ["label: cat", "label: كلب", "label: كلب"]
    (plan,) = (json.loads(text) for text in shown["plans"])
    assert plan == {
        "format": "sharpzo-mlx plan 1",
        "folder": str(tmp_path / "new"),
        "labels": [
            {"path": "a.png", "label": FOLDERS[0]},
            {"path": "sub/<img src=x onerror=alert(1)>.png", "label": FOLDERS[2]},
            {"path": "שלום.png", "label": FOLDERS[2]},
            {"path": "犬.png", "label": FOLDERS[3]},
        ],
    }
    assert shown["answers"] == ["plan.json"]


@needs_browser
def test_labels_of_listed_images_are_saved_as_a_list(tmp_path: Path) -> None:
    names = ("a.png", 'a,"b".png', "犬.png", "none.png", "later.png")
    found = replace(make_suggestions(tmp_path / "new", names), folder=tmp_path / "list.csv")
    shown = drive(write_page(found, tmp_path / "page.html"), tmp_path, ["Enter", "2", "Enter", "x", "look", "s"])
    (text,) = shown["plans"]
    paths, labels = [str(tmp_path / "new" / name) for name in names], [FOLDERS[0], FOLDERS[2], FOLDERS[2]]
    assert list(csv.reader(io.StringIO(text))) == [["path", "label"], *map(list, zip(paths, labels, strict=False))]
    assert shown["answers"] == ["labels.csv"]


@needs_browser
def test_what_was_decided_survives_a_reload(tmp_path: Path) -> None:
    page = write_page(make_suggestions(tmp_path / "new", ("a.png", "b.png", "c.png")), tmp_path / "page.html")
    shown = drive(page, tmp_path, ["Enter", "x", "reload", "look", "u", " ", "s"])
    assert shown["looks"][1]["verdicts"] == ["label: cat", "label: none of them", ""]
    assert shown["looks"][1]["status"] == "2 of 3 decided"
    (plan,) = (json.loads(text) for text in shown["plans"])
    assert plan["labels"] == [{"path": "a.png", "label": "cat"}, {"path": "b.png", "label": FOLDERS[1]}]


@needs_browser
def test_checked_labels_give_a_plan_for_each_split(tmp_path: Path) -> None:
    """A label that stays is in no plan; any class is reached by the beginning of its name."""
    page = write_page(make_check(tmp_path / "data"), tmp_path / "page.html")
    shown = drive(page, tmp_path, ["Enter", "o", "x", "/", "type DOG", "look", "close", "s"])
    assert shown["looks"][1]["verdicts"][1] == "label stays: cat"
    assert shown["looks"][-1]["verdicts"][2] == ""  # x means nothing here, and nothing was entered
    (plan,) = (json.loads(text) for text in shown["plans"])
    assert plan == {
        "format": "sharpzo-mlx plan 1",
        "folder": str(tmp_path / "data" / "train"),
        "labels": [{"path": "cat/a.png", "label": FOLDERS[2]}],
    }
    both = drive(page, tmp_path, ["k", "k", "k", "1", "1", "2", "s"])
    assert both["answers"] == ["plan-test.json", "plan-train.json"]
    plans = {Path(plan["folder"]).name: plan["labels"] for plan in map(json.loads, both["plans"])}
    assert plans["test"] == [{"path": "cat/c.png", "label": FOLDERS[1]}]
    assert [row["path"] for row in plans["train"]] == ["cat/a.png", "cat/<b>.png"]


def test_the_page_fetches_nothing_and_names_are_no_markup(tmp_path: Path) -> None:
    page = write_page(make_suggestions(tmp_path / "new", ("a.png", "<b>bold</b>.png")), tmp_path / "page.html")
    reader, text = read(page), page.read_text(encoding="utf-8")
    assert [source for source in reader.sources if not source.startswith("data:")] == []
    assert not {"b", "iframe", "object", "embed", "link rel"} & reader.tags
    assert text.count("</script>") == 2
    assert "default-src 'none'" in html.unescape(text)
    assert "unsafe-inline" not in text


def test_json_in_a_page_cannot_end_its_element() -> None:
    hostile = {"name": "</script><!-- \u2028\u2029 & \udcff"}
    text = embed(hostile)
    assert text.isascii()
    assert not set("<>&") & set(text)
    assert json.loads(text) == hostile


def test_the_page_is_bounded(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    one = make_suggestions(tmp_path / "new", ("a.png",))
    many = Suggestions(one.folder, one.items * (MOST_CARDS + 20), 900, 0, NAMES, FOLDERS)
    page = write_page(many, tmp_path / "page.html")
    assert page.read_text(encoding="utf-8").count('<li class="card"') == MOST_CARDS
    assert f"the first {MOST_CARDS} of {MOST_CARDS + 20}" in caplog.text
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (900, 900, 3), dtype=np.uint8))
    assert len(as_data_url(noise, 200)) * 3 / 4 <= MOST_BYTES + 30


def test_an_image_that_is_gone_is_said_to_be(tmp_path: Path) -> None:
    found = make_suggestions(tmp_path / "new", ("a.png",))
    found.items[0].path.unlink()
    assert "cannot be shown" in " ".join(read(write_page(found, tmp_path / "page.html")).words)


def test_pages_that_cannot_be_written(tmp_path: Path) -> None:
    found = make_suggestions(tmp_path / "new", ("a.png",))
    with pytest.raises(sz.UserError, match=r"end its name in \.html"):
        write_page(found, tmp_path / "page.txt")
    listed = LabelCheck(tmp_path, 3, 1.0, (), (), NAMES, FOLDERS, by_folder=False)
    with pytest.raises(sz.UserError, match="stand in a file"):
        write_page(listed, tmp_path / "page.html")
    assert not list(tmp_path.glob("*.html"))
