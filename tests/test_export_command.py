"""The command `export`: what it prints and writes, and what it refuses in one line without leaving a file."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Callable
from importlib import util
from pathlib import Path
from typing import Any

import pytest

import sharpzo_mlx as sz
from sharpzo_mlx.cli import main
from sharpzo_mlx.exporting import onnx_model, output

Capture = pytest.CaptureFixture[str]
Refused = Callable[..., str]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def licensed(run: Path, folder: Path, card: str) -> tuple[Path, Path]:
    """A copy of a run's model with another card, which is no part of what the run knows the model by."""
    model = Path(sz.Run.load(run).record.model.folder)
    shutil.copytree(model, folder / "licensed")
    (folder / "licensed" / "README.md").write_text(f"---\n{card}\n---\n# A model\n")
    return run, folder / "licensed"


def test_each_format_says_what_it_wrote(finished_run: Path, here: Path, capsys: Capture) -> None:
    pytest.importorskip("onnxruntime")
    assert main.run(["export", str(finished_run), "--to", "onnx"]) == 0
    out = capsys.readouterr().out
    assert re.match(r"run\.onnx: \d+ kB, 3 classes\nlicence of the model: not named\nchecked on 8 images: ", out)
    assert max(map(len, out.splitlines())) <= 80
    assert main.run(["export", str(finished_run), "--to", "bundle", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    sizes = {path.name: path.stat().st_size for path in (here / "run-bundle").iterdir()}
    assert {one["name"]: one["bytes"] for one in said["files"]} == sizes
    assert (said["path"], said["classes"], said["checked"]) == ("run-bundle", 3, None)
    assert names(here) == ["run-bundle", "run.onnx"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--to", "bundle", "--dtype", "float16"], "a bundle has float32 numbers only"),
        (["--to", "bundle", "--input", "float"], "--input float: is for --to onnx"),
        (["--to", "web", "--head-only"], "a web needs the image tower"),
        (["--to", "bundle", "--head-only"], "a bundle never has an image tower"),
        (["--to", "onnx", "--head-only", "--input", "float"], "--input float: is for --to onnx with its image tower"),
        (["--to", "onnx", "--runtime", "x"], "--runtime: is for --to web"),
        (["--to", "onnx", "--reject", "1.5"], "must be above 0 and below 1"),
        (["--to", "tiff"], "--to"),
        ([], "--to"),
    ],
)
def test_what_a_format_lacks(finished_run: Path, here: Path, refused: Refused, words: list[str], expected: str) -> None:
    assert expected in refused("export", finished_run, *words)
    assert names(here) == []


def test_python_names_what_is_unknown(finished_run: Path, here: Path) -> None:
    for to, options in (
        ("tiff", sz.ExportOptions()),
        ("onnx", sz.ExportOptions(dtype="int8")),
        ("onnx", sz.ExportOptions(pixels="bytes")),
    ):
        with pytest.raises(sz.UserError, match="must be one of"):
            sz.export(finished_run, to, "x", options=options)
    with pytest.raises(sz.UserError, match="an empty path"):
        sz.export(finished_run, "bundle", "")
    assert names(here) == []


def test_a_run_of_another_version(finished_run: Path, here: Path, refused: Refused) -> None:
    shutil.copytree(finished_run, here / "old")
    record = json.loads((here / "old" / "run.json").read_text())
    (here / "old" / "run.json").write_text(json.dumps(record | {"format": 1}))
    assert "written by another version" in refused("export", "old", "--to", "bundle")
    assert "no run here" in refused("export", "absent", "--to", "bundle")
    assert names(here) == ["old"]


def test_another_model(finished_run: Path, tiny_model: Path, here: Path, refused: Refused) -> None:
    assert "no such model" in refused("export", finished_run, "--to", "bundle", "--model", "absent")
    assert names(here) == []


@pytest.mark.parametrize("there", ["file", "folder", "link"])
def test_nothing_is_replaced(finished_run: Path, here: Path, refused: Refused, there: str) -> None:
    if there == "file":
        (here / "x").write_text("mine")
    elif there == "folder":
        (here / "x").mkdir()
        (here / "x" / "mine").touch()
    else:
        (here / "x").symlink_to("nowhere")
    for to in ("bundle", "onnx"):
        line = refused("export", finished_run, "--to", to, "--output", "x")
        assert line == "error: x: exists; choose another --output, or remove it"
    assert names(here) == ["x"]


def test_an_empty_folder_is_filled(finished_run: Path, here: Path) -> None:
    (here / "x").mkdir()
    sz.export(finished_run, "bundle", "x")
    assert names(here / "x") == ["classifier.json", "classifier.safetensors"]


def test_a_file_does_not_take_the_place_of_a_folder(finished_run: Path, here: Path, refused: Refused) -> None:
    (here / "x").mkdir()
    line = refused("export", finished_run, "--to", "onnx", "--output", "x")
    assert line == "error: x: a folder; name the file to write, such as x/classifier.onnx"
    assert names(here / "x") == []


@pytest.mark.parametrize("stop", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_a_stopped_export_leaves_nothing(
    finished_run: Path, here: Path, monkeypatch: pytest.MonkeyPatch, stop: Any
) -> None:
    pytest.importorskip("onnx")
    written = onnx_model.write_onnx

    def write_half(*given: Any) -> list[Path]:
        written(*given)
        raise stop

    monkeypatch.setattr(onnx_model, "write_onnx", write_half)
    with pytest.raises((KeyboardInterrupt, sz.UserError)) as caught:
        sz.export(finished_run, "onnx", Path("new", "x.onnx"))
    if isinstance(stop, OSError):
        assert (
            str(caught.value)
            == f"{here / 'new' / 'x.onnx'}: cannot be written (no space left on device); choose another --output"
        )
    assert names(here) == []


def test_a_place_that_is_taken_meanwhile(here: Path) -> None:
    def make_folder() -> None:
        with output.make_folder(here / "x") as folder:
            (folder / "ours").touch()
            (here / "x").write_text("theirs")

    def make_file() -> None:
        with output.make_file(here / "x") as path:
            path.write_text("ours")
            path.with_name("x.data").write_text("ours")

    for make in (make_folder, make_file):
        with pytest.raises(sz.UserError, match="exists"):
            make()
        assert names(here) == ["x"]
        assert (here / "x").read_text() == "theirs"


def test_leftovers_of_killed_exports_go(here: Path) -> None:
    (here / ".x-sharpzo-abcd1234").mkdir()
    (here / ".x-sharpzo-abcd1234" / "part").touch()
    (here / ".y-sharpzo-abcd1234").mkdir()
    with output.make_folder(here / "x") as folder:
        with output.make_file(here / "x.onnx") as other:  # a neighbour that is being written stays
            other.touch()
        (folder / "part").touch()
    assert names(here) == [".y-sharpzo-abcd1234", "x", "x.onnx"]


def test_a_folder_that_cannot_be_written_to(
    finished_run: Path, here: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    def closed(*_: Any, **__: Any) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tempfile, "mkdtemp", closed)
    line = refused("export", finished_run, "--to", "bundle", "--output", "x")
    assert line.endswith("x: cannot be written (permission denied); choose another --output")
    assert names(here) == []


def test_a_licence_for_research_has_to_be_accepted(finished_run: Path, here: Path, refused: Refused) -> None:
    run, model = licensed(finished_run, here, "license: apple-amlr\nbase_model: apple/MobileCLIP-S0")
    words = ["export", str(run), "--to", "bundle", "--model", str(model), "--output", "x"]
    line = refused(*words)
    assert "apple/MobileCLIP-S0: its licence, apple-amlr, is for research" in line
    assert "--accept-licence" in line
    assert names(here) == ["licensed"]
    assert main.run([*words, "--accept-licence"]) == 0
    about = json.loads((here / "x" / "classifier.json").read_text())
    assert (about["licence"], about["model"]["name"]) == ("apple-amlr", "apple/MobileCLIP-S0")


@pytest.mark.parametrize("name", ["cc-by-nc-4.0", "cc-by-nc-sa-4.0", "something-noncommercial"])
def test_other_licences_that_do_not_allow_every_use(
    finished_run: Path, here: Path, refused: Refused, name: str
) -> None:
    run, model = licensed(finished_run, here, f"license: {name}")
    assert "--accept-licence" in refused("export", run, "--to", "bundle", "--model", model)
    assert names(here) == ["licensed"]


def test_a_licence_without_changed_copies_forbids(finished_run: Path, here: Path, refused: Refused) -> None:
    run, model = licensed(finished_run, here, "license: cc-by-nc-nd-4.0")
    line = refused("export", run, "--to", "bundle", "--model", model, "--accept-licence")
    assert "allows no changed copies" in line
    assert names(here) == ["licensed"]


@pytest.mark.parametrize(
    ("card", "noticed"), [("license: mit", False), ("license: other", True), ("tags: [clip]", True)]
)
def test_a_licence_that_is_not_named_is_noticed(
    finished_run: Path, here: Path, capsys: Capture, card: str, noticed: bool
) -> None:
    run, model = licensed(finished_run, here, card)
    assert main.run(["export", str(run), "--to", "bundle", "--model", str(model)]) == 0
    assert ("names no known licence" in capsys.readouterr().err) == noticed


def test_without_the_package_the_extra_is_named(
    finished_run: Path, here: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(util, "find_spec", lambda *_: None)
    for to in ("onnx", "web"):
        assert 'pip install "sharpzo-mlx[onnx]"' in refused("export", finished_run, "--to", to)
    assert main.run(["export", str(finished_run), "--to", "bundle"]) == 0
    assert names(here) == ["run-bundle"]


def test_a_listed_run_is_compared_on_its_images(finished_run: Path, photos: Path, here: Path) -> None:
    pytest.importorskip("onnxruntime")
    data, run = shutil.copytree(photos, here / "data"), shutil.copytree(finished_run, here / "run")
    (data / "labels.csv").touch()  # names of a listed run's images start at the list's folder
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**record, "dataset": str(data / "labels.csv")}))
    checked = sz.export(run, "onnx", "x.onnx").checked
    assert checked is not None
    assert checked.images == 8
