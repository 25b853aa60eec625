"""`classes`: what a data set holds, as a table, as JSON and in Python; and the line that `tune` writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from listed_data import class_files

import sharpzo_mlx as sz
from sharpzo_mlx.cli import main

Capture = pytest.CaptureFixture[str]


def test_class_folders(photos: Path, capsys: Capture) -> None:
    assert main.run(["classes", str(photos)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "folder    images  prompt",
        "barn owl      12  a photo of a barn owl.",
        "cat           12  a photo of a cat.",
        "dog           12  a photo of a dog.",
        "",
        "3 classes; 36 images",
    ]


def test_splits_and_names_as_json(photos: Path, tmp_path: Path, capsys: Capture) -> None:
    numbers = {"barn owl": "001", "cat": "002", "dog": "003"}
    rows = [
        (file, f"{numbers[label]}.{label.replace(chr(32), chr(95))}", place % 3)
        for place, (file, label) in enumerate(class_files(photos))
    ]
    names = ("train", "validation", "test")
    lines = [f"{file},{label},{names[part]}\n" for file, label, part in rows]
    (tmp_path / "x.csv").write_text("path,label,split\n" + "".join(lines))
    assert main.run(["classes", str(tmp_path / "x.csv"), "--json", "--template", "my {}"]) == 0
    out, err = capsys.readouterr()
    record = json.loads(out)
    assert record["images"] == {"train": 12, "val": 12, "test": 12}
    assert record["classes"][0] == {
        "folder": "001.barn_owl", "name": "barn owl", "prompt": "my barn owl",
        "images": {"train": 4, "val": 4, "test": 4},
    }  # fmt: skip
    assert "numbers before the class names are left out" in err
    assert main.run(["classes", str(tmp_path / "x.csv")]) == 0
    table = capsys.readouterr().out.splitlines()
    assert table[1] == "001.barn_owl  barn owl      4    4     4  a photo of a barn owl."
    found = sz.list_classes(tmp_path / "x.csv")
    assert (found.splits, found.images, found.classes[2].name) == (("train", "val", "test"), (12, 12, 12), "dog")


def test_long_and_wide_names_fit_80_columns(tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a_class_with_a_name_that_is_much_longer_than_any_column", "アジアゾウ", "cat", "x\x1b[31mred"):
        (tmp_path / "set" / name).mkdir(parents=True)
        (tmp_path / "set" / name / "1.jpg").touch()
    monkeypatch.delenv("COLUMNS", raising=False)
    assert main.run(["classes", str(tmp_path / "set")]) == 0
    whole = capsys.readouterr().out  # as in a pipe
    assert "\x1b" not in whole
    assert whole.splitlines()[1].startswith("a_class_with_a_name_that_is_much_longer_than_any_column ")
    monkeypatch.setenv("COLUMNS", "80")
    assert main.run(["classes", str(tmp_path / "set")]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "    a photo of a アジアゾウ." in out.splitlines()
    assert max(len(line) for line in out.splitlines()) <= 80


@pytest.mark.parametrize("place", ["absent", "", "file.txt"])
def test_what_is_no_data_set_is_one_line(place: str, tmp_path: Path, refused: Any) -> None:
    (tmp_path / "file.txt").touch()
    assert refused("classes", tmp_path / place if place else "")


def test_tune_shows_a_prompt_before_it_starts(tiny_model: Path, photos: Path, tmp_path: Path, capsys: Capture) -> None:
    words = ["tune", str(photos), "--model", str(tiny_model), "--output", str(tmp_path / "r"), "--no-report"]
    assert main.run([*words, "--query-budget", "40", "--shots", "4"]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "3 classes, with prompts such as 'a photo of a barn owl.'"
    assert "classes" not in lines[1]  # said once
