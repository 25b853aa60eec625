"""Mistakes of a user: one line that names the file or value and the remedy, exit code 2, nothing half-written."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import sharpzo_mlx as sz
from sharpzo_mlx.cli import main
from sharpzo_mlx.features.cache import features_folder
from sharpzo_mlx.tuning.pipeline import tune

Capture = pytest.CaptureFixture[str]
Refused = Callable[..., str]
CONFIG = sz.TuneConfig(shots=4, generations=3, steps=4).with_settings({"space.dimension": 8, "stage1.population": 6})


@pytest.fixture(scope="module")
def original(tiny_model: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run that no test changes."""
    return tune(sz.load(tiny_model), photos, CONFIG, output=tmp_path_factory.mktemp("runs") / "run").folder


@pytest.fixture
def run(original: Path, tmp_path: Path) -> Path:
    """A copy of it for one test."""
    return shutil.copytree(original, tmp_path / "run")


@pytest.fixture(scope="module")
def other_model(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that the run was not tuned on."""
    from sharpzo_mlx import demo

    return shutil.copytree(demo.MODEL_FOLDER, tmp_path_factory.mktemp("models") / "other")


@pytest.fixture
def refused(capsys: Capture) -> Refused:
    """Run a command line that is to be refused; its one line on stderr."""

    def attempt(*words: str | Path) -> str:
        capsys.readouterr()
        assert main.run([str(word) for word in words]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        *notes, line = err.splitlines()
        assert all(note.startswith("note: ") for note in notes), err
        assert line.startswith("error: ")
        return line

    return attempt


@pytest.fixture
def read_only(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Let no file be made in a folder; the superuser, whom no mode stops, is stopped too."""

    def close(folder: Path) -> None:
        def within(directory: Any) -> bool:
            return directory is not None and Path(directory).resolve().is_relative_to(folder.resolve())

        for name in ("mkstemp", "TemporaryFile"):
            plain = getattr(tempfile, name)

            def guarded(*args: Any, plain: Any = plain, **details: Any) -> Any:
                if within(details.get("dir")):
                    raise PermissionError(13, "Permission denied", str(Path(details["dir"], ".report-x8.html")))
                return plain(*args, **details)

            monkeypatch.setattr(tempfile, name, guarded)

    return close


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
def test_a_damaged_step_is_one_line(line: str, run: Path, refused: Refused) -> None:
    lines = (run / "steps.jsonl").read_text().splitlines(keepends=True)
    (run / "steps.jsonl").write_text("".join([lines[0], line + "\n", *lines[1:]]))
    said = refused("report", run, "--no-landscape")
    assert said == f"error: {run / 'steps.jsonl'}: line 2 is damaged; delete that line, or tune again"
    assert not (run / "report.html").exists() or b"garbage" not in (run / "report.html").read_bytes()


def test_damaged_evaluations_are_left_out_and_named(run: Path, photos: Path, capsys: Capture) -> None:
    assert main.run(["evaluate", str(run), str(photos)]) == 0
    (good,) = json.loads((run / "evaluations.json").read_text())
    for damaged in (
        [good, 5],
        [good, {**good, "images": None}],
        [good, {**good, "interval": [0.1]}],
        [{**good, "path": 7}],
        [{key: value for key, value in good.items() if key != "in_distribution"}],
        {"a": 1},
    ):
        (run / "evaluations.json").write_text(json.dumps(damaged))
        capsys.readouterr()
        assert main.run(["report", str(run), "--no-landscape"]) == 0
        assert f"note: {run / 'evaluations.json'}: damaged" in capsys.readouterr().err
        shown = (run / "report.html").read_text()
        assert ("in distribution" in shown) == (damaged[0] == good if isinstance(damaged, list) else False)


def test_what_is_no_run_is_told_apart(
    run: Path, tmp_path: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "not a folder; name the run's folder" in refused("predict", run / "run.json", "x.jpg")
    assert "file name too long; name the run's folder" in refused("report", tmp_path / ("n" * 300))
    assert "no run here" in refused("report", tmp_path)
    (tmp_path / "loop").symlink_to("loop")
    assert "; name the run's folder" in refused("report", tmp_path / "loop")
    plain = Path.read_text

    def closed(path: Path, *args: Any, **details: Any) -> str:
        if path == run / "run.json":
            raise PermissionError(13, "Permission denied", str(path))
        return plain(path, *args, **details)

    monkeypatch.setattr(Path, "read_text", closed)
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
