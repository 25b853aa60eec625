"""A user's mistakes with runs: one line that names the file and the remedy, and nothing half-written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import sharpzo_mlx as sz
from sharpzo_mlx.cli import main
from sharpzo_mlx.evaluation.reports import read_evaluations

Capture = pytest.CaptureFixture[str]
Refused = Callable[..., str]


@pytest.fixture
def run(finished_run: Path, tmp_path: Path) -> Path:
    """A copy of the finished run for one test."""
    return shutil.copytree(finished_run, tmp_path / "run")


@pytest.fixture(scope="module")
def other_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that the run was not tuned on."""
    from sharpzo_mlx import demo

    return shutil.copytree(demo.MODEL_FOLDER, tmp_path_factory.mktemp("models") / "other")


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# report


def test_report_refuses_another_model_and_keeps_the_page(run: Path, other_model: Path, refused: Refused) -> None:
    assert main.run(["report", str(run), "--no-landscape"]) == 0
    before = contents(run)
    line = refused("report", run, "--model", other_model)
    assert f"{other_model}: not the model that {run} was tuned on" in line
    assert contents(run) == before


@pytest.mark.parametrize(
    "name", ["prompt.safetensors", "run.json", "RUN.json", "steps.jsonl", "checkpoint.safetensors", "evaluations.json"]
)
def test_report_never_writes_over_a_run(name: str, run: Path, refused: Refused) -> None:
    before = contents(run)
    assert f"{run / name}: a file of the run itself" in refused("report", run, "--output", run / name)
    assert contents(run) == before


def test_report_takes_a_folder(run: Path, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "pages").mkdir()
    assert main.run(["report", str(run), "--output", str(tmp_path / "pages"), "--no-landscape"]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "pages" / "report.html")
    assert (tmp_path / "pages" / "report.html").is_file()


def test_report_below_a_file(run: Path, tmp_path: Path, refused: Refused) -> None:
    (tmp_path / "file").write_text("mine")
    line = refused("report", run, "--output", tmp_path / "file" / "x.html")
    assert f"{tmp_path / 'file'}: cannot be written to" in line
    assert "--output" in line


def test_report_of_a_run_that_cannot_be_written_to(
    run: Path, refused: Refused, read_only: Callable[[Path], None]
) -> None:
    read_only(run)
    line = refused("report", run, "--no-landscape")
    assert line == f"error: {run}: cannot be written to (permission denied); choose another --output"


# runs that are finished


def test_a_finished_run_is_not_prolonged(run: Path, photos: Path, tiny_model: Path, refused: Refused) -> None:
    before = contents(run)
    for option, value in (("--query-budget", "900"), ("--time-budget", "3")):
        line = refused("tune", photos, "--model", tiny_model, "--output", run, "--resume", option, value)
        assert "a finished run cannot be prolonged; choose another --output for a new one" in line
        assert option[2:] in line
    assert contents(run) == before


# runs that are damaged


@pytest.mark.parametrize("name", ["model", "images", "dataset", "versions", "class_names", "status", "results"])
@pytest.mark.parametrize("damage", ["gone", "another kind"])
def test_a_damaged_record_is_one_line(name: str, damage: str, run: Path, photos: Path, refused: Refused) -> None:
    record = json.loads((run / "run.json").read_text())
    changed = {key: value for key, value in record.items() if key != name}
    (run / "run.json").write_text(json.dumps(changed if damage == "gone" else {**changed, name: 5}))
    for words in (["report", run], ["evaluate", run, photos], ["predict", run, photos / "cat" / "0.png"]):
        line = refused(*words)
        assert f"{run / 'run.json'}: damaged (" in line
        assert line.endswith("; tune again")


@pytest.mark.parametrize(
    ("path", "value"),
    [("model", {"folder": "m"}), ("images", {"train": []}), ("images", {"train": 1, "val": 2}), ("results", {})],
)
def test_a_record_that_lacks_a_part_is_one_line(path: str, value: Any, run: Path, refused: Refused) -> None:
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**record, path: value}))
    assert f"{run / 'run.json'}: damaged (" in refused("report", run)


@pytest.mark.parametrize("line", ["garbage", "{}", "5", '{"stage": "x", "step": 1, "queries": 1, "seconds": 1}'])
def test_a_damaged_step_leaves_the_curves_out(line: str, run: Path, capsys: Capture) -> None:
    lines = (run / "steps.jsonl").read_text().splitlines(keepends=True)
    (run / "steps.jsonl").write_text("".join([lines[0], line + "\n", *lines[1:]]))
    assert main.run(["report", str(run), "--no-landscape"]) == 0
    said = capsys.readouterr().err
    assert f"note: the curves are left out of the page: {run / 'steps.jsonl'}: line 2 is damaged (" in said
    page = (run / "report.html").read_text()
    assert "garbage" not in page
    assert "<h2>The search</h2>" not in page


def test_damaged_evaluations_are_left_out_and_named(
    run: Path, photos: Path, capsys: Capture, caplog: pytest.LogCaptureFixture
) -> None:
    assert main.run(["evaluate", str(run), str(photos)]) == 0
    (good,) = json.loads((run / "evaluations.json").read_text())
    (whole,) = read_evaluations(sz.Run.load(run))
    for damaged, kept in (
        ([good, 5], [whole]),
        ([good, {**good, "images": None}], [whole]),
        ([good, {**good, "interval": [0.1]}], [whole]),
        ([{**good, "path": 7}], []),
        ([{key: value for key, value in good.items() if key != "in_distribution"}], []),
        ({"a": 1}, []),
    ):
        (run / "evaluations.json").write_text(json.dumps(damaged))
        caplog.clear()
        assert read_evaluations(sz.Run.load(run)) == kept
        assert f"{run / 'evaluations.json'}: damaged" in caplog.text
    for damaged in ([good, 5], [5]):
        (run / "evaluations.json").write_text(json.dumps(damaged))
        capsys.readouterr()
        assert main.run(["report", str(run), "--no-landscape"]) == 0
        assert f"note: {run / 'evaluations.json'}: damaged" in capsys.readouterr().err
        assert ("in distribution" in (run / "report.html").read_text()) == (damaged[0] == good)


def test_what_is_no_run_is_told_apart(
    run: Path, tmp_path: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "not a folder; name the run's folder" in refused("predict", run / "run.json", "x.jpg")
    assert "file name too long; name the run's folder" in refused("report", tmp_path / ("n" * 300))
    assert "no run here" in refused("report", tmp_path)
    (tmp_path / "loop").symlink_to("loop")
    assert "; name the run's folder" in refused("report", tmp_path / "loop")

    def closed(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("sharpzo_mlx.runs.run.read_json", closed)
    line = refused("report", run)
    assert line == f"error: {run / 'run.json'}: permission denied; allow reading it"


def test_evaluate_says_that_it_could_not_keep_its_figures(
    run: Path, photos: Path, capsys: Capture, read_only: Callable[[Path], None]
) -> None:
    read_only(run)
    assert main.run(["evaluate", str(run), str(photos)]) == 0
    said = capsys.readouterr()
    assert "in distribution" in said.out
    assert f"note: {run}: cannot be written to (permission denied)" in said.err


def test_a_model_that_was_moved_is_asked_for(
    run: Path, tiny_model: Path, album: Path, tmp_path: Path, refused: Refused
) -> None:
    record = json.loads((run / "run.json").read_text())
    record["model"]["folder"] = str(tmp_path / "moved-away")
    (run / "run.json").write_text(json.dumps(record))
    image = next(album.rglob("*.png"))
    line = refused("predict", run, image)
    assert "its model is not at" in line
    assert "name its new folder with --model" in line
    assert main.run(["predict", str(run), str(image), "--model", str(tiny_model)]) == 0
