"""The lines of `evaluate` fit a terminal, whatever folders and classes are called; in a pipe names stay whole."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

import sharpzo_mlx as sz
from sharpzo_mlx.cli import wording
from sharpzo_mlx.cli.shift_tables import make_table
from sharpzo_mlx.evaluation.reports import Report

NAMES = {
    "short": ("cat", "dog", "barn owl"),
    "long": ("the one class " * 20, "another class " * 20, "cat"),
    "wide": ("東京の犬" * 20, "กรุงเทพมหานคร" * 9, "犬"),
    "steering": ("a\nb" * 30, "\u202eevil" * 20, "\x1b[31m" * 20),
}


@pytest.fixture(scope="module")
def report(finished_run: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Report:
    run = shutil.copytree(finished_run, tmp_path_factory.mktemp("runs") / "run")
    return sz.evaluate(run, [photos])


def renamed(report: Report, names: tuple[str, ...], folder: str, kind: str) -> Report:
    (result,) = report.folders
    classes = tuple(replace(one, name=name) for one, name in zip(result.classes, names, strict=True))
    first = replace(result, path=Path(folder), kind=kind, classes=classes)
    return Report.of([first, replace(first, in_distribution=False)])


@pytest.mark.parametrize("columns", [80, 60])
@pytest.mark.parametrize("folder", ["photos", "/a/very/long/path" * 9, "写真/" * 30])
@pytest.mark.parametrize("names", NAMES.values(), ids=NAMES)
def test_remarks_fit_the_terminal(
    report: Report, names: tuple[str, ...], folder: str, columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    found = renamed(report, names, folder, "3 classes by " + "mapping" * 9)
    remarks = make_table({Path("runs/a"): found}).split("\n\n")
    several = make_table({Path("/runs" * 30): found, Path("b"): found})
    lines = [line for part in remarks for line in part.splitlines()]
    assert sum("worst: " in line for line in lines) == 2
    wide = [line for line in (*lines, *several.splitlines()) if wording.columns_of(line) > max(columns, 80)]
    assert wide == []
    assert not any(mark in line for line in lines for mark in ("\x1b", "\u202e"))
    worst = next(line for line in lines if "worst: " in line)
    assert wording.columns_of(worst) <= columns
    for one in report.folders[0].classes:
        assert wording.percent(one.tuned) in worst


def test_short_names_are_whole_where_a_long_one_is_cut(report: Report, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    found = renamed(report, ("cat", "x" * 200, "barn owl"), "photos", "3 classes")
    lines = make_table({Path("runs/a"): found}).splitlines()
    worst = next(line for line in lines if "worst: " in line)
    assert worst.startswith("  worst: cat ")
    assert ", barn owl " in worst
    assert wording.columns_of(worst) == 80


def test_in_a_pipe_names_stay_whole(report: Report) -> None:
    names = NAMES["long"]
    text = make_table({Path("runs/a"): renamed(report, names, "/a/very/long/path" * 9, "3 classes")})
    assert all(name in text for name in names)
    assert f"{'/a/very/long/path' * 9}: in distribution, 3 classes\n" in text
