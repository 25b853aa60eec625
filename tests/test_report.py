"""The page of a run: its figures are the run's, nothing is fetched, and a real browser shows it without complaint."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import subprocess
import zlib
from pathlib import Path

import numpy as np
import pytest
from page_reader import read
from PIL import Image
from tiny_settings import TINY

import sharpzo_mlx as sz
from sharpzo_mlx.cli import main
from sharpzo_mlx.report.analysis import RunAnalysis, analyse_run
from sharpzo_mlx.report.landscape import GRID
from sharpzo_mlx.report.page import write_report
from sharpzo_mlx.report.plots import choose_classes
from sharpzo_mlx.tuning.pipeline import tune

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
QUIET += ["--disable-component-update", "--disable-sync", "--hide-scrollbars", "--enable-logging=stderr"]


STEPS = {
    "stage2.optimiser": "zo-sgd", "stage2.rule": "normalised", "stage2.learning_rate": 0.5, "stage2.draws": 2,
    "selection.every": 5,
}  # fmt: skip


@pytest.fixture(scope="module")
def run(tiny_model: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> sz.Run:
    """A run of both stages on images whose folders have names that HTML and plots must not take for markup."""
    folder = tmp_path_factory.mktemp("runs")
    data = shutil.copytree(photos, folder / "a <b>& photos")
    (data / "cat").rename(data / "<i>cat")
    (data / "dog").rename(data / "dog $x^{$ to $5")
    config = sz.TuneConfig(shots=4, head="none", generations=6, steps=20).with_settings({**TINY, **STEPS})
    return tune(sz.load(tiny_model), data, config, output=folder / "run")


@pytest.fixture(scope="module")
def page(run: sz.Run, photos: Path) -> Path:
    data = Path(run.record.dataset)
    assert main.run(["evaluate", str(run.folder), str(data)]) == 0
    return write_report(run, png=True)


def test_the_page_says_what_the_run_says(run: sz.Run, page: Path) -> None:
    words = " ".join(" ".join(read(page).words).split())
    assert run.results.test is not None
    for accuracy in (run.results.zero_shot, run.results.test):
        assert f"{100 * accuracy:.1f} %" in words
    assert f"queries {run.results.queries}" in words
    assert "<i>cat" in words  # as a name, not as markup
    assert "sharpzo-mlx tune" in words
    assert "--set space.relative_scale=20.0" in words
    assert run.record.versions["mlx"] in words
    assert "in distribution" in words


def test_nothing_is_fetched(page: Path) -> None:
    reader = read(page)
    assert reader.sources
    assert [source for source in reader.sources if not source.startswith(("data:", "#"))] == []
    assert not {"script", "iframe", "object", "embed"} & reader.tags
    text = page.read_text(encoding="utf-8")
    assert "@import" not in text
    assert [found for found in re.findall(r"url\(([^)]*)\)", text) if not found.strip("'\"").startswith("#")] == []


def test_thumbnails_are_the_images(run: sz.Run, page: Path) -> None:
    found = [source for source in read(page).sources if source.startswith("data:image/jpeg")]
    assert found
    pictures = [Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))) for source in found]
    assert all(picture.size == (26, 20) for picture in pictures)


def test_findings_are_those_of_the_classifier(run: sz.Run, page: Path) -> None:
    found = analyse_run(run, sz.load(run.model_folder))
    assert found.confusion.trace() / found.confusion.sum() == pytest.approx(run.results.test)
    rows = run.record.images.by_split()["test"]
    features = np.array(sz.load(run.model_folder).encode_images([Path(run.record.dataset, path) for path, _ in rows]))
    shares = []
    for classifier in (run.prompt.zero_shot_features, run.prompt.class_features):
        powers = np.exp(run.prompt.logit_scale * features @ np.array(classifier).T)
        shares.append((powers / powers.sum(axis=1, keepdims=True))[range(len(rows)), [label for _, label in rows]])
    assert found.gained[0].after - found.gained[0].before == pytest.approx(max(shares[1] - shares[0]), abs=1e-5)
    assert found.lost[0].after - found.lost[0].before == pytest.approx(min(shares[1] - shares[0]), abs=1e-5)
    plane = found.landscape
    assert plane is not None
    assert plane.losses.shape == (GRID, GRID)
    assert plane.sharpness > 0  # uphill is up
    # the middle of the plane is the result: its loss is the cross-entropy of the training images
    train = run.record.images.train
    features = np.array(sz.load(run.model_folder).encode_images([Path(run.record.dataset, p) for p, _ in train]))
    logits = run.prompt.logit_scale * features @ np.array(run.prompt.class_features).T
    own = logits[range(len(train)), [label for _, label in train]]
    loss = np.mean(np.log(np.exp(logits).sum(axis=1)) - own)
    assert plane.losses[GRID // 2, GRID // 2] == pytest.approx(loss, abs=1e-4)


def test_png_files(page: Path) -> None:
    names = {path.stem for path in page.parent.glob("*.png")}
    assert names == {"curves", "curves-seconds", "confusion", "classes", "landscape"}
    for path in page.parent.glob("*.png"):
        with Image.open(path) as picture:
            assert min(picture.size) > 300


def test_without_images_the_rest_is_shown(run: sz.Run, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = shutil.copytree(run.folder, tmp_path / "run")
    record = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**record, "dataset": str(tmp_path / "gone")}))
    words = " ".join(read(write_report(folder)).words)
    assert "classes and images are left out" in caplog.text
    assert "The search" in words
    assert "Images that changed" not in words


def test_the_command(run: sz.Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["report", str(run.folder), "--output", str(tmp_path / "page.html"), "--no-landscape"]
    assert main.run(words) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "page.html")
    assert "loss around" not in (tmp_path / "page.html").read_text()
    assert main.run(["report", str(tmp_path)]) == 2


def browse(profile: Path, *words: str) -> subprocess.CompletedProcess[str]:
    assert BROWSER is not None
    command = [BROWSER, "--headless", *QUIET, f"--user-data-dir={profile}", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.mark.skipif(BROWSER is None, reason="no chromium here")
def test_a_path_that_is_not_there_is_a_folder_unless_it_ends_in_html(run: sz.Run, tmp_path: Path) -> None:
    for output, written in (("pages/", "pages/report.html"), ("one.HTML", "one.HTML"), ("v1.2", "v1.2/report.html")):
        assert write_report(run, output=tmp_path / output, landscape=False) == tmp_path / written
        assert (tmp_path / written).is_file()
    (tmp_path / "plain").touch()
    assert write_report(run, output=tmp_path / "plain", landscape=False) == tmp_path / "plain"


def test_a_browser_shows_it_without_complaint(page: Path, tmp_path: Path) -> None:
    """On a phone's width nothing is cut off; no message in the console; no request but for the page itself."""
    frame = tmp_path / "frame.html"
    frame.write_text(
        f'<iframe width="390" height="800" src="{page.resolve().as_uri()}"></iframe><script>addEventListener("load", '
        '() => { const d = frames[0].document; document.body.append("width " + d.scrollingElement.scrollWidth + '
        '" images " + [...d.images].every(i => i.naturalWidth > 0) + " plots " + d.querySelectorAll("svg").length + '
        '" fetched " + frames[0].performance.getEntriesByType("resource").length) });'
        "</script>"
    )
    done = browse(tmp_path / "profile", "--allow-file-access-from-files", "--dump-dom", frame.as_uri())
    shown = re.search(r"width (\d+) images (\w+) plots (\d+) fetched (\d+)", done.stdout)
    assert shown, done.stderr
    assert int(shown[1]) <= 390
    assert shown.groups()[1:] == ("true", "5", "0")
    assert "CONSOLE" not in done.stderr


def test_a_hundred_classes_stay_readable(tiny_model: Path, tmp_path: Path) -> None:
    """No confusion matrix of ten thousand cells; of the classes only those that changed, at most thirty."""
    draw = np.random.default_rng(0)
    for number in range(100):
        place = tmp_path / "data" / f"a rather long name of class {number}"
        place.mkdir(parents=True)
        for name in ("a", "b", "c"):
            Image.fromarray(draw.integers(0, 255, (16, 16, 3), dtype=np.uint8)).save(place / f"{name}.png")
    config = sz.TuneConfig(shots=1, head="none", generations=4, steps=0).with_settings(
        {"space.dimension": 8, "stage1.population": 6, "space.relative_scale": 30.0}
    )
    run = tune(sz.load(tiny_model), tmp_path / "data", config, output=tmp_path / "run")
    page = read(write_report(run, landscape=False, png=True))
    assert {path.stem for path in run.folder.glob("*.png")} == {"curves", "curves-seconds", "classes"}
    with Image.open(run.folder / "classes.png") as picture:
        assert picture.height <= 200 * 10  # inches
    assert "classes that changed most" in " ".join(" ".join(page.words).split())
    assert 30 <= sum(word.startswith("a rather long name") for word in page.words) <= 30 + 2 * 10 + 12


def test_of_many_classes_those_that_changed_are_shown() -> None:
    before = np.full(100, 0.5)
    before[7] = np.nan  # no images
    after = before + np.where(np.arange(100) % 20 == 3, 0.01 * np.arange(100), 0)

    def found(classes: int) -> RunAnalysis:
        nothing = np.zeros((classes, classes), dtype=int)
        return RunAnalysis("test", nothing, before[:classes], after[:classes], (), (), None)

    assert choose_classes(found(100)) == [3, 23, 43, 63, 83]
    assert len(choose_classes(found(30))) == 29
    after = np.where(np.arange(100) == 7, np.nan, np.arange(100) / 100)
    assert choose_classes(found(100)) == [*range(7), *range(8, 16), *range(85, 100)]
    after = before
    assert len(choose_classes(found(100))) == 30


@pytest.mark.skipif(BROWSER is None, reason="no chromium here")
def test_a_browser_paints_light_and_dark(page: Path, tmp_path: Path) -> None:
    shades = []
    for scheme in ("light", "dark"):
        picture = tmp_path / f"{scheme}.png"
        words = ["--blink-settings=preferredColorScheme=0"] if scheme == "dark" else []
        browse(tmp_path / scheme, *words, "--window-size=600,800", f"--screenshot={picture}", page.as_uri())
        with Image.open(picture) as opened:
            shades.append(np.median(np.asarray(opened.convert("L"))))
    assert shades[0] > 240
    assert shades[1] < 40


@pytest.mark.skipif(BROWSER is None, reason="no chromium here")
def test_paper_is_white_whatever_the_screen(page: Path, tmp_path: Path) -> None:
    """Printed from a dark screen the page has the colours that it has from a light one, on a few sheets."""
    colours = []
    for scheme in ("light", "dark"):
        sheet = tmp_path / f"{scheme}.pdf"
        words = ["--blink-settings=preferredColorScheme=0"] if scheme == "dark" else []
        browse(tmp_path / scheme, *words, f"--print-to-pdf={sheet}", page.as_uri())
        data = sheet.read_bytes()
        assert 2 <= len(re.findall(rb"/Type\s*/Page\b", data)) <= 8
        streams = re.findall(rb"stream\r?\n(.*?)endstream", data, re.DOTALL)
        drawn = b"\n".join(zlib.decompressobj().decompress(found) for found in streams if found[:1] == b"\x78")
        colours.append(set(re.findall(rb"[\d.]+ [\d.]+ [\d.]+ rg\b", drawn)))
    assert len(colours[0]) > 5
    assert colours[0] == colours[1]


def test_a_run_that_was_killed_before_there_was_anything_to_show(
    run: sz.Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line, whatever had been written: the record alone, the prompt too, or nothing."""
    folder = shutil.copytree(run.folder, tmp_path / "run")
    (folder / "report.html").unlink(missing_ok=True)
    record = json.loads((folder / "run.json").read_text())
    unmeasured = json.dumps({**record, "status": "running", "results": None})
    for text, prompt, words in (
        (json.dumps({**record, "status": "running"}), False, "no prompt so far; continue it with `tune --resume`"),
        (json.dumps(record), False, "missing, though the run is finished; tune again with another --output"),
        (unmeasured, True, "stopped before there was anything to show; continue it with `tune --resume`"),
        (unmeasured, False, "stopped before there was anything to show; continue it with `tune --resume`"),
        (None, False, "no run here"),
    ):
        (folder / "run.json").write_text(text) if text else (folder / "run.json").unlink()
        if not prompt:
            (folder / "prompt.safetensors").unlink(missing_ok=True)
        else:
            shutil.copy(run.folder / "prompt.safetensors", folder)
        assert main.run(["report", str(folder)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert words in line
        assert not (folder / "report.html").exists()


def test_a_run_that_was_cut_off_and_has_no_test_split(run: sz.Run, tmp_path: Path) -> None:
    folder = shutil.copytree(run.folder, tmp_path / "run")
    record = json.loads((folder / "run.json").read_text())
    del record["images"]["test"]
    record["results"]["test"] = None
    (folder / "run.json").write_text(json.dumps({**record, "status": "running"}))
    steps = (folder / "steps.jsonl").read_text().splitlines(keepends=True)
    (folder / "steps.jsonl").write_text("".join(steps[:3]))  # stage 1 alone
    page = write_report(folder)
    words = " ".join(" ".join(read(page).words).split())
    assert "This run is not finished." in words
    assert "measured on validation" in words
    assert f"tuned {100 * record['results']['val']:.1f} %" in words
    assert "Accuracy on the validation images" in words
    assert "None" not in words
    assert "The dotted line" not in words  # stage 2 has not begun


def test_a_run_with_neither_validation_nor_test_images(run: sz.Run, tmp_path: Path) -> None:
    """Nothing is shown of classes; the loss on the training images is."""
    folder = shutil.copytree(run.folder, tmp_path / "run")
    record = json.loads((folder / "run.json").read_text())
    del record["images"]["test"]
    record["images"]["val"] = []
    record["results"]["test"] = None
    record["results"]["head"] = {"kind": "gda", "text": 0.25, "image": 0.5, "named": 0.125, "words_kept": False}
    (folder / "run.json").write_text(json.dumps(record))
    analysis = analyse_run(sz.Run.load(folder), sz.load(run.model_folder))
    assert (analysis.images, analysis.gained, analysis.lost) == (0, (), ())
    assert np.isnan(analysis.after).all()
    assert analysis.landscape is not None
    words = " ".join(" ".join(read(write_report(folder)).words).split())
    assert "the same images, each left out in turn, chose the result" in words
    assert "measured on left-out images" in words
    assert "The loss around the result" in words
    assert "Accuracy on the" not in words
    assert "None" not in words
    assert "nan" not in words
