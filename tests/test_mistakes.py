"""A user's mistakes in paths and options: one line that names the value and the remedy, and nothing half-written."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import sharpzo_mlx as sz
from sharpzo_mlx.cli import main
from sharpzo_mlx.features.cache import features_folder

Capture = pytest.CaptureFixture[str]
Refused = Callable[..., str]


@pytest.fixture
def run(finished_run: Path, tmp_path: Path) -> Path:
    """A copy of the finished run for one test."""
    return shutil.copytree(finished_run, tmp_path / "run")


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# paths


@pytest.mark.parametrize("command", ["tune", "compare", "convert"])
@pytest.mark.parametrize("name", ["loop", "n" * 300, "file/x"])
def test_arguments_that_are_no_paths(
    command: str, name: str, tiny_model: Path, tmp_path: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    """None of them is a traceback, and nothing is made."""
    monkeypatch.chdir(tmp_path)
    Path("loop").symlink_to("loop")
    Path("file").write_text("mine")
    words: list[str | Path] = [] if command == "convert" else ["--model", tiny_model]
    assert name in refused(command, tmp_path / name, *words)
    assert {path.name for path in tmp_path.iterdir()} == {"loop", "file"}


@pytest.mark.parametrize("command", ["tune", "compare", "convert"])
@pytest.mark.parametrize("name", ["loop", "n" * 300, "file/x", "new/" + "n" * 300])
def test_outputs_that_cannot_be_made(
    command: str, name: str, tiny_model: Path, photos: Path, tmp_path: Path, refused: Refused
) -> None:
    """Found before anything is encoded, and nothing is made on the way."""
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "file").write_text("mine")
    words = [tiny_model] if command == "convert" else [photos, "--model", tiny_model]
    assert name in refused(command, *words, "--output", tmp_path / name)
    assert {path.name for path in tmp_path.iterdir()} == {"loop", "file"}


@pytest.mark.parametrize("command", ["tune", "convert"])
def test_an_output_whose_name_is_not_utf8(
    command: str, tiny_model: Path, photos: Path, tmp_path: Path, refused: Refused
) -> None:
    words = [tiny_model] if command == "convert" else [photos, "--model", tiny_model]
    line = refused(command, *words, "--output", tmp_path / os.fsdecode(b"bad\xff"))
    assert r"bad\xff: a name that is not UTF-8; choose another --output" in line
    assert list(tmp_path.iterdir()) == []


def test_a_data_set_whose_name_is_not_utf8(tiny_model: Path, photos: Path, tmp_path: Path) -> None:
    """Its pages and plots show `?` for what is no letter."""
    try:
        data = shutil.copytree(photos, tmp_path / os.fsdecode(b"bad\xff"))
    except OSError:
        pytest.skip("this file system knows no such names")
    words = [str(data), "--model", str(tiny_model), "--shots", "4", "--query-budget", "60"]
    tuning = ["--set", "space.dimension=8", "--set", "stage1.population=6", "--output", str(tmp_path / "r")]
    assert main.run(["tune", *words, *tuning]) == 0
    assert "bad?" in (tmp_path / "r" / "report.html").read_text(encoding="utf-8")
    compared = ["--methods", "bbt", "--seeds", "1", "--output", str(tmp_path / "c")]
    assert main.run(["compare", *words, *compared]) == 0
    assert "bad?" in (tmp_path / "c" / "comparison.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("command", ["tune", "compare"])
def test_one_image_a_class_is_too_few_to_validate_on(
    command: str, tiny_model: Path, photos: Path, tmp_path: Path, refused: Refused
) -> None:
    for name in ("cat", "dog"):
        (tmp_path / "few" / name).mkdir(parents=True)
        shutil.copy(photos / name / "1.png", tmp_path / "few" / name)
    own = ["--head", "none"] if command == "tune" else ["--seeds", "1"]
    line = refused(command, tmp_path / "few", "--model", tiny_model, "--output", tmp_path / "r", *own)
    assert f"{tmp_path / 'few'}: no image is left for validation; give each class at least two images" in line
    assert {path.name for path in tmp_path.iterdir()} == {"few"}


# compare


@pytest.mark.parametrize("kind", ["run", "photos", "other"])
def test_compare_refuses_a_folder_of_something_else(
    kind: str, run: Path, tiny_model: Path, photos: Path, tmp_path: Path, refused: Refused
) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    folder = {"run": run, "photos": photos, "other": tmp_path / "other"}[kind]
    before = contents(folder)
    line = refused("compare", photos, "--model", tiny_model, "--output", folder)
    assert line == f"error: {folder}: holds files but no comparison; choose another --output"
    assert contents(folder) == before


def test_compare_finds_before_encoding_that_nothing_can_be_written(
    tiny_model: Path, photos: Path, tmp_path: Path, refused: Refused, read_only: Callable[[Path], None]
) -> None:
    (tmp_path / "out").mkdir()
    read_only(tmp_path / "out")
    line = refused("compare", photos, "--model", tiny_model, "--output", tmp_path / "out")
    assert f"{tmp_path / 'out'}: cannot be written to (permission denied)" in line
    assert not list(features_folder().glob("*"))


def test_compare_of_many_folders_has_a_folder_of_its_own(
    tiny_model: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sharpzo_mlx.comparison.plots.write_curves", lambda comparison: [])  # a second for each set
    sets = [shutil.copytree(photos, tmp_path / "data" / f"{letter * 90}") for letter in "abc"]
    words = ["--model", tiny_model, "--methods", "zero-shot", "--seeds", "1", "--shots", "4"]

    def made() -> set[str]:
        return {path.name for path in Path("comparisons").iterdir()}

    assert main.run([str(word) for word in ("compare", *sets, *words)]) == 0
    (first,) = made()
    assert first.startswith("a" * 90 + "+b")
    assert len(first) <= 200
    assert main.run([str(word) for word in ("compare", *sets, *words)]) == 0
    assert made() == {first}
    assert main.run([str(word) for word in ("compare", *sets[:1], *reversed(sets[1:]), *words)]) == 0
    assert len(made()) == 2


# options


@pytest.mark.parametrize(
    ("command", "flags"),
    [
        ("evaluate", ["--json", "--csv"]),
        ("evaluate", ["--own-classes", "--all-classes"]),
        ("predict", ["--csv", "--json"]),
    ],
)
def test_flags_that_contradict_each_other(
    command: str, flags: list[str], run: Path, photos: Path, refused: Refused
) -> None:
    line = refused(command, run, photos, *flags)
    assert all(flag in line for flag in flags)
    assert "give one of them" in line


# what cannot work is known before the first image is encoded


@pytest.fixture
def unencoded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no image be encoded."""

    def encoded(clip: sz.Clip, pixels: Any) -> None:
        raise AssertionError("an image was encoded")

    monkeypatch.setattr(sz.Clip, "encode_pixels", encoded)


@pytest.mark.usefixtures("unencoded")
@pytest.mark.parametrize("command", ["tune", "compare"])
@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--template", "{}", "template '{}': write words before {}"),
        ("--template", "a{}", "template 'a{}': put a space before {}"),
        ("--template", "many words " * 12 + "{}", "class name 'barn owl': its prompt has"),
        ("--query-budget", "1", "query-budget 1: the search needs at least"),
    ],
)
def test_what_cannot_work_is_refused_before_encoding(
    command: str,
    option: str,
    value: str,
    words: str,
    tiny_model: Path,
    photos: Path,
    tmp_path: Path,
    refused: Refused,
) -> None:
    line = refused(command, photos, "--model", tiny_model, "--output", tmp_path / "out", option, value)
    assert words in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("unencoded")
@pytest.mark.parametrize(("name", "least"), [("bbt", 20), ("zo", 2), ("zip", 10), ("sharpzo", 20), ("sharpzo-gda", 20)])
def test_a_budget_that_is_too_small_for_one_method_names_it(
    name: str, least: int, tiny_model: Path, photos: Path, tmp_path: Path, refused: Refused
) -> None:
    words = ["--model", tiny_model, "--output", tmp_path / "out", "--query-budget", least - 1]
    line = refused("compare", photos, *map(str, words), "--methods", f"zero-shot,{name}")
    assert f"{name} (tuned): query-budget {least - 1}: the search needs at least {least}; raise it" in line


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("m",), r"clip 'm': give the model that load\('m'\) opens"),
        ((Path("m"),), r"give the model that load\('m'\) opens"),
        ((None, {"shots": 4}), r"config {'shots': 4}: give a TuneConfig"),
    ],
)
@pytest.mark.parametrize("function", [sz.tune, sz.compare])
def test_what_is_no_model_and_no_configuration(
    function: Callable[..., Any], arguments: tuple[Any, ...], words: str, tiny_model: Path, photos: Path, tmp_path: Path
) -> None:
    clip, *config = arguments
    with pytest.raises(TypeError, match=words):
        function(clip or sz.load(tiny_model), photos, *config, output=tmp_path / "out")
    assert not (tmp_path / "out").exists()
