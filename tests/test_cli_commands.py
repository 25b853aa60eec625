"""evaluate and predict end to end in process, on a very small random CLIP and painted images."""

from __future__ import annotations

import csv
import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from painted_data import QUICK, paint_photos, save_random_clip

import sharpzo_mlx
from sharpzo_mlx.cli import main

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_random_clip(tmp_path_factory.mktemp("model") / "m")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return paint_photos(tmp_path_factory.mktemp("data") / "photos")


@pytest.fixture(scope="module")
def tuned(model: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run."""
    folder = tmp_path_factory.mktemp("runs") / "r"
    assert main.run(["tune", str(photos), "--model", str(model), "--output", str(folder), *QUICK]) == 0
    return folder


@pytest.fixture(autouse=True)
def _quiet_logger() -> Iterator[None]:
    """The handler that the command line installs does not outlive these tests."""
    yield
    logging.getLogger("sharpzo_mlx").handlers.clear()


def test_evaluate(tuned: Path, photos: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    report = sharpzo_mlx.evaluate(tuned, [photos / "test", photos / "val"])
    words = ["evaluate", str(tuned), str(photos / "test"), str(photos / "val")]
    assert main.run([*words, "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["mean"] == {"zero_shot": report.zero_shot, "tuned": report.tuned}
    kept = ("path", "images", "zero_shot", "tuned")
    assert [{name: row[name] for name in kept} for row in record["folders"]] == [
        {"path": str(row.path), "images": row.images, "zero_shot": row.zero_shot, "tuned": row.tuned}
        for row in report.folders
    ]
    assert [row["images"] for row in record["folders"]] == [18, 6]
    monkeypatch.setenv("COLUMNS", "80")
    assert main.run(words) == 0
    assert max(map(len, capsys.readouterr().out.partition("\n\n" + str(photos))[0].splitlines())) <= 80
    monkeypatch.setenv("COLUMNS", "400")
    assert main.run(words) == 0
    table = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in table[:4]] == ["folder", *words[2:], "mean"]
    assert table[1].split()[-1] == "1"  # the unreadable one
    assert f"{100 * report.folders[0].tuned:.1f} %" in table[1]


def test_evaluate_names_unknown_classes_and_folders(tuned: Path, photos: Path, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "zebra").mkdir()
    (tmp_path / "zebra" / "0.png").write_bytes((photos / "test" / "red" / "0.png").read_bytes())
    assert main.run(["evaluate", str(tuned), str(tmp_path)]) == 2
    assert "zebra" in capsys.readouterr().err
    assert main.run(["evaluate", str(tmp_path), str(photos / "test")]) == 2
    assert str(tmp_path) in capsys.readouterr().err


def test_predict_in_all_styles(tuned: Path, photos: Path, capsys: Capture) -> None:
    good, bad = photos / "test" / "red" / "0.png", photos / "test" / "blue" / "broken.png"
    (expected, _) = sharpzo_mlx.predict(tuned, [good, bad], top=2)
    words = ["predict", str(tuned), str(good), str(bad), "--top", "2"]
    assert main.run([*words, "--json"]) == 0
    out, err = capsys.readouterr()
    first, second = json.loads(out)["predictions"]
    assert [(row["label"], row["probability"]) for row in first["labels"]] == list(expected.labels)
    assert first["error"] is None
    assert second == {"path": str(bad), "labels": [], "error": second["error"], "rejected": False}
    assert f"note: {bad}: " in err
    assert main.run([*words, "--csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["label"] for row in rows] == [label for label, _ in expected.labels] + [""]
    assert float(rows[0]["probability"]) == pytest.approx(expected.labels[0][1], abs=1e-6)
    assert rows[2]["error"] != ""
    assert main.run(words) == 0
    label, share = expected.labels[0]
    assert capsys.readouterr().out.startswith(f"{good}: {label} {100 * share:.1f} %, ")


def test_predict_on_nothing_readable_is_an_error(tuned: Path, photos: Path, capsys: Capture) -> None:
    assert main.run(["predict", str(tuned), str(photos / "test" / "blue" / "broken.png"), "absent.jpg"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines()[-1].startswith("error: ")


def test_model_that_has_moved(tuned: Path, photos: Path, model: Path, tmp_path: Path, capsys: Capture) -> None:
    moved = tmp_path / "elsewhere"
    moved.symlink_to(model)
    words = ["predict", str(tuned), str(photos / "test" / "red" / "0.png"), "--model"]
    assert main.run([*words, str(moved)]) == 0
    assert main.run([*words, str(tmp_path / "absent")]) == 2
    assert "absent" in capsys.readouterr().err
