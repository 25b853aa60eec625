"""What is wrong with an addition is one line; a kill at any rename leaves the old version or the new one."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from painted_folders import paint_class, paint_dataset

import sharpzo_mlx as sz
from sharpzo_mlx.cli.main import run as command
from sharpzo_mlx.demo import MODEL_FOLDER
from sharpzo_mlx.runs.labelled import LABELLED

KILL = """
import os, signal, sys
import sharpzo_mlx
from sharpzo_mlx.cli.main import run
seen = 0

def count(event, given):
    global seen
    if event == "os.rename":
        seen += 1
        if seen == int(sys.argv[1]):
            os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(count)
sys.exit(run(["add", *sys.argv[2:]]))
"""


@pytest.fixture(scope="module")
def tuned(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("tuned")
    dataset = paint_dataset(place / "photos", ("cat", "dog", "red_panda"), each=6)
    sz.tune(sz.load(tiny_model), dataset, sz.TuneConfig(shots=3, views=0, steps=0), output=place / "run", report=False)
    return place / "run"


@pytest.fixture
def run(tuned: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tuned, tmp_path / "run"))


@pytest.fixture
def more(tmp_path: Path) -> Path:
    paint_class(tmp_path / "more" / "cat", seed=30, count=2)
    paint_class(tmp_path / "more" / "fox", seed=31, count=3)
    return tmp_path / "more"


def files(folder: Path) -> dict[str, bytes]:
    return {f"{path.relative_to(folder)}": path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["{run}"], "nothing to add: name a folder of class folders, or a class with --class NAME"),
        (["{run}", "{tmp}/none"], "{tmp}/none: no such folder"),
        (
            ["{run}", "{tmp}/empty"],
            "{tmp}/empty: no class folders; put the images of each class in a folder of its own",
        ),
        (["{run}", "--class", " "], "--class is empty: name a class, such as 'red panda'"),
        (["{run}", "--back"], "{run}: this is its first version, there is none to go back to"),
        (["{run}", "--back", "3"], "{run}: has no version 3; name one of these: 1"),
        (["{run}", "--back", "--list"], "--list and --back contradict each other; give one of them"),
        (["{run}", "{more}", "--list"], "--list: goes without FOLDER and --class; give it alone"),
        (["{tmp}", "{more}"], "{tmp}: no run here (run.json is missing); name the folder that `tune` wrote"),
        (["{run}", "--class", "x" * 200], "tokens"),
    ],
)
def test_mistakes_are_one_line_and_change_nothing(
    run: Path, more: Path, tmp_path: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    before, places = files(run), {"run": run, "tmp": tmp_path, "more": more}
    assert command(["add", *(word.format(**places) for word in words)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("error: ")
    assert said.format(**places) in lines[0]
    assert files(run) == before


def test_another_model_is_refused(run: Path, more: Path) -> None:
    with pytest.raises(sz.UserError, match="not the model that"):
        sz.add(run, more, clip=sz.load(MODEL_FOLDER))


def test_how_well_named_classes_are_found_is_said_to_be_unknown(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    sz.add(run, classes=["fox"])
    assert "fox: by name alone, so no image tells how well it is found; add a few images of it" in caplog.text
    sz.add(run, classes=["ape", "emu"])
    assert "ape, emu: by name alone, so no image tells how well each is found; add a few images of each" in caplog.text


def test_names_that_differ_little_are_noticed(run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    paint_class(tmp_path / "near" / "Red-Pandas", seed=40, count=2)
    paint_class(tmp_path / "near" / "CAT", seed=41, count=2)
    paint_class(tmp_path / "near" / "cta", seed=42, count=2)
    added = sz.add(run, tmp_path / "near")
    assert added.prompt.class_names[3:] == ("Red-Pandas", "cta")
    assert "CAT: taken for the class 'cat' of the run" in caplog.text
    assert "Red-Pandas: a new class; did you mean 'red panda'?" in caplog.text
    assert "cta: a new class; did you mean 'cat'?" in caplog.text


def test_of_a_divided_list_only_training_images_are_added(
    run: Path, more: Path, caplog: pytest.LogCaptureFixture
) -> None:
    paths = sorted(path.relative_to(more).as_posix() for path in more.glob("*/*.png"))
    splits = ["train", "test"] * len(paths)
    rows = [f"{path},{path.split('/')[0]},{split}" for path, split in zip(paths, splits, strict=False)]
    (more / "list.csv").write_text("\n".join(["path,label,split", *rows]))
    added = sz.add(run, more / "list.csv")
    assert added.record.version is not None
    assert added.record.version.images == splits[: len(paths)].count("train") == 3
    assert "list.csv: its train images; those of test are left out" in caplog.text
    (more / "list.csv").write_text("\n".join(["path,label,split", *(row for row in rows if row.endswith("test"))]))
    with pytest.raises(sz.UserError, match="none for training"):
        sz.add(run, more / "list.csv")


@pytest.mark.parametrize("harm", ["cut", "label", "type"])
def test_damaged_features_are_named(run: Path, more: Path, harm: str) -> None:
    import mlx.core as mx

    path = run / LABELLED
    if harm == "cut":
        path.write_bytes(path.read_bytes()[:-7])
    else:
        loaded = mx.load(str(path), return_metadata=True)
        assert isinstance(loaded, tuple)
        arrays, words = loaded
        arrays = {name: mx.array(np.array(one)) for name, one in arrays.items()}
        arrays["labels"] = arrays["labels"] + 3 if harm == "label" else arrays["labels"].astype(mx.int64)
        mx.save_safetensors(str(path), arrays, metadata=words)
    before = files(run)
    with pytest.raises(sz.UserError, match=f"{LABELLED}: (damaged|no readable)"):
        sz.add(run, more)
    assert files(run) == before


def test_a_damaged_version_is_refused(run: Path, more: Path) -> None:
    sz.add(run, more)
    shutil.copy(run / "history" / "2" / "run.json", run / "history" / "1" / "run.json")
    with pytest.raises(sz.UserError, match=r"its run\.json is that of another version"):
        sz.go_back(run)


def test_a_kill_at_any_rename_leaves_the_old_version_or_the_new_one(run: Path, more: Path, tmp_path: Path) -> None:
    """The classes, the results and the classifier are those of one version; the same command then ends the work."""
    whole = Path(shutil.copytree(run, tmp_path / "whole"))
    old, new = sz.Run.load(run), sz.add(whole, more, classes=["lynx"])
    seen = set()
    for moment in range(1, 40):
        case = Path(shutil.copytree(run, tmp_path / f"case-{moment}"))
        words = [sys.executable, "-c", KILL, f"{moment}", str(case), str(more), "--class", "lynx"]
        code = subprocess.run(words, check=False, capture_output=True).returncode
        found = sz.Run.load(case)
        expected = old if found.record.version is None else new
        seen.add(found.record.version is None)
        assert found.record.class_names == expected.record.class_names
        assert found.results == expected.results
        np.testing.assert_array_equal(found.prompt.head.weight, expected.prompt.head.weight)  # type: ignore[union-attr]
        after = sz.add(case, more, classes=["lynx"])
        assert after.record.version is not None
        assert after.record.version.number == 2
        left = files(case)
        assert set(left) == set(files(whole))
        assert left["prompt.safetensors"] == left["history/2/prompt.safetensors"]
        if code == 0:
            break
    assert code == 0
    assert seen == {True, False}
