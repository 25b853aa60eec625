"""The command `sort`: a run's labels, the plan on a small screen, what it refuses, plan files, undo and JSON."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_sort import files, plan_of, write

import sharpzo_mlx as sz
from sharpzo_mlx.cli import main
from sharpzo_mlx.cli.sort_text import describe_plan
from sharpzo_mlx.sorting import apply

Capture = pytest.CaptureFixture[str]
Refused = Callable[..., str]


def printed(capsys: Capture, *words: str | Path) -> tuple[str, str]:
    """Run a command line, which must succeed; return stdout and stderr."""
    capsys.readouterr()
    assert main.run(["sort", *map(str, words)]) == 0
    return capsys.readouterr()


@pytest.fixture
def new(photos: Path, tmp_path: Path) -> Path:
    """Make a folder of seven images in two depths, one with a sidecar, and a file that is no image."""
    folder = tmp_path / "new"
    (folder / "more").mkdir(parents=True)
    for number in range(7):
        source = photos / ("cat", "dog", "barn owl")[number % 3] / f"{number}.png"
        shutil.copyfile(source, folder / ("more" if number > 4 else "") / f"{number}.png")
    (folder / "0.xmp").write_text("x")
    (folder / "broken.png").write_text("no image")
    return folder


def test_the_plan_is_printed_and_nothing_is_touched(
    finished_run: Path, new: Path, tmp_path: Path, capsys: Capture
) -> None:
    out, err = printed(capsys, finished_run, new, "--into", tmp_path / "s")
    assert not (tmp_path / "s").exists()
    assert out.startswith(f"copy 5 of 5 images: {new}/ -> {tmp_path}/s/\n")
    assert out.endswith("nothing was touched; the same command with --apply does it\n")
    assert "sidecars that travel along: 1" in out
    assert "note: broken.png: " in err
    assert "1 folders inside (--recursive reads them)" in err
    assert ".xmp" not in err


def test_images_are_sorted_as_predict_labels_them_and_put_back(
    finished_run: Path, new: Path, tmp_path: Path, capsys: Capture
) -> None:
    before = sorted(path.relative_to(new) for path in new.rglob("*"))
    out, _ = printed(capsys, finished_run, new, "--into", tmp_path / "s", "--recursive", "--move", "--apply")
    assert "7 of 7 images moved, 1 sidecar, 1 left as it is" in out
    labels = {one.path.name: one.labels[0][0] for one in sz.predict(finished_run, [*(tmp_path / "s").rglob("*.png")])}
    placed = {path.name: path.parent.name for path in (tmp_path / "s").rglob("*.png")}
    assert placed == labels
    assert sorted(path.name for path in new.rglob("*.*")) == ["broken.png"]
    journal = out.splitlines()[-1].removeprefix("undo: sharpzo-mlx sort --undo ")
    assert "8 files put back or removed" in printed(capsys, "--undo", journal)[0]
    assert sorted(path.relative_to(new) for path in new.rglob("*")) == before
    assert "was undone before" in printed(capsys, "--undo", journal)[0]


def test_rejected_images_go_to_unsorted(finished_run: Path, new: Path, tmp_path: Path, capsys: Capture) -> None:
    predicted = sz.predict(finished_run, new, reject=0.4)
    printed(capsys, finished_run, new, "--into", tmp_path / "s", "--reject", "0.4", "--apply")
    unsorted = {path.name for path in (tmp_path / "s").glob("unsorted/*.png")}
    assert unsorted == {one.path.name for one in predicted if one.rejected}


def test_images_under_the_folder_are_not_sorted_again(finished_run: Path, new: Path, capsys: Capture) -> None:
    for into in (new / "sorted", new):
        recursive = ["--recursive"] if into != new else []
        first, _ = printed(capsys, finished_run, new, "--into", into, *recursive, "--apply", "--json")
        again, _ = printed(capsys, finished_run, new, "--into", into, *recursive, "--json")
        assert json.loads(again)["there"] == json.loads(again)["images"] == json.loads(first)["images"]


def test_a_saved_plan_is_carried_out_without_a_model(
    finished_run: Path, new: Path, tmp_path: Path, capsys: Capture
) -> None:
    file = tmp_path / "plan.json"
    printed(capsys, finished_run, new, "--into", tmp_path / "s", "--save-plan", file)
    content = json.loads(file.read_text())
    assert content["folder"] == str(new)
    content["labels"] = [{"path": "0.png", "label": "my own"}, {"path": "1.png", "label": None}]
    file.write_text(json.dumps(content))
    out, _ = printed(capsys, "--plan", file, "--into", tmp_path / "s", "--apply")
    assert sorted(files_named(tmp_path / "s")) == ["my own/0.png", "my own/0.xmp", "unsorted/1.png"]
    assert "2 of 2 images copied" in out


def files_named(folder: Path) -> list[str]:
    found = (path for path in folder.rglob("*") if path.is_file() and ".sharpzo-sort" not in path.parts)
    return [path.relative_to(folder).as_posix() for path in found]


@pytest.mark.parametrize("mode", ["copy", "move"])
def test_images_that_stay_in_their_class_are_pointed_out(tmp_path: Path, mode: Any) -> None:
    photos = write(tmp_path / "p", cat___a__jpg="1", b__jpg="2")
    plan = plan_of(photos, {"cat/a.jpg": "dog"}, photos, mode)
    assert ("--move takes them out" in describe_plan(plan, plan.survey())) == (mode == "copy")
    loose = plan_of(photos, {"b.jpg": "dog"}, photos, mode)
    assert "--move takes" not in describe_plan(loose, loose.survey())


def test_many_classes_and_hostile_names_fit_a_small_screen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    names = {f"{number}.jpg": f"class \x1b[31m\u202e{'long ' * 30}{number}/" for number in range(30)}
    photos = write(tmp_path / "p", **{name.replace(".", "__"): name for name in names})
    for number in range(7):
        (photos / f"gone{number}.jpg").write_text("x")
        names[f"gone{number}.jpg"] = "\nerror: x"
    plan_of(photos, names, tmp_path / "s").save(tmp_path / "plan.json")
    for number in range(7):
        (photos / f"gone{number}.jpg").unlink()
    monkeypatch.chdir(tmp_path)
    out, err = printed(capsys, "--plan", "plan.json", "--into", "s")
    lines = out.splitlines() + err.splitlines()
    assert len(lines) <= 23
    assert max(map(len, lines[1:])) <= 80
    assert "\x1b" not in out
    assert not any(line.startswith("error") for line in lines)
    assert "26 more" in out


def test_ctrl_c_says_how_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    photos = write(tmp_path / "p", **{f"{number}__jpg": str(number) for number in range(5)})
    plan_of(photos, {f"{number}.jpg": "cat" for number in range(5)}, tmp_path / "s").save(tmp_path / "plan.json")
    plain, left = apply._PUT["move"], [3]

    def press(*paths: Path) -> None:
        plain(*paths)
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt

    monkeypatch.setitem(apply._PUT, "move", press)
    words = ["sort", "--plan", str(tmp_path / "plan.json"), "--into", str(tmp_path / "s"), "--move", "--apply"]
    assert main.run(words) == 130
    err = capsys.readouterr().err
    assert "the same command goes on" in err
    assert "--undo" in err
    assert len(files(tmp_path / "s")) == 2  # the third was taken back
    assert len(files(photos)) == 3
    monkeypatch.undo()
    (tmp_path / "plan2.json").write_text((tmp_path / "plan.json").read_text())
    assert main.run(words) == 0
    assert len(files(tmp_path / "s")) == 5


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "RUN and FOLDER are needed, or --plan FILE, or --undo JOURNAL"),
        (["{run}", "{new}"], "--into is missing"),
        (["{run}", "{new}", "--into", "{new}/0.png"], "a file; name a folder for --into"),
        (["{run}", "{new}", "--into", "{new}", "--recursive"], "is the folder that is sorted; leave out --recursive"),
        (["{run}", "{new}/none", "--into", "s"], "no such folder"),
        (["{run}", "{new}", "--into", "s", "--move", "--link"], "--move and --link contradict each other"),
        (["{run}", "{new}", "--into", "s", "--tag"], "--tag: writes beside the images and goes without --into"),
        (["{run}", "{new}", "--into", "s", "--xmp-by-stem"], "--xmp-by-stem: is for --tag"),
        (["{run}", "{new}", "--into", "s", "--reject", "2"], "2"),
        (["{run}", "--plan", "x.json", "--into", "s"], "leave RUN out"),
        (["--plan", "{new}/0.xmp", "--into", "s"], "no plan that can be carried out"),
        (["--undo", "{new}/0.xmp"], "no journal of a sorting"),
        (["--undo", "x.jsonl", "--apply"], "needs nothing but the journal"),
        (["{run}", "{new}", "--into", ""], "--into is empty"),
    ],
)
def test_mistakes_are_one_line(refused: Refused, finished_run: Path, new: Path, words: list[str], said: str) -> None:
    line = refused("sort", *(word.replace("{run}", str(finished_run)).replace("{new}", str(new)) for word in words))
    assert said in line


def test_a_folder_without_images_and_a_file_in_the_way_are_refused(
    refused: Refused, finished_run: Path, tmp_path: Path
) -> None:
    photos = write(tmp_path / "p", a__txt="1")
    assert "no image to sort; left out: 1 .txt" in refused("sort", finished_run, photos, "--into", tmp_path / "s")
    write(tmp_path / "q", a__jpg="1")
    write(tmp_path / "s", cat="a file")
    plan_of(tmp_path / "q", {"a.jpg": "cat"}, tmp_path / "s").save(tmp_path / "plan.json")
    line = refused("sort", "--plan", tmp_path / "plan.json", "--into", tmp_path / "s", "--apply")
    assert "a file has the name of a class folder" in line
    words = ("--plan", tmp_path / "plan.json", "--into", "s", "--save-plan", tmp_path / "plan.json")
    assert "is there already" in refused("sort", *words)


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"path": "../x.jpg", "label": "cat"}, "'../x.jpg' is not below"),
        ({"path": "/etc/passwd", "label": "cat"}, "'/etc/passwd' is not below"),
        ({"path": "out/x.jpg", "label": "cat"}, "'out/x.jpg' is not below"),
        ({"path": "", "label": "cat"}, "'' is not below"),
        ({"path": ".sharpzo-sort/x", "label": "cat"}, "is not below"),
        ({"path": "a.jpg", "label": "dog"}, "'a.jpg' is there twice"),
        ({"path": "b.jpg", "label": " "}, "the label of 'b.jpg' is empty"),
        ({"path": "b.jpg"}, "labels"),
        ({"path": "b.jpg", "label": 3}, "labels"),
        ({"path": "\ud800.jpg", "label": "x"}, "labels"),
    ],
)
def test_a_plan_file_must_stay_in_its_folder(tmp_path: Path, entry: Any, words: str) -> None:
    photos = write(tmp_path / "p", a__jpg="1", b__jpg="2")
    (tmp_path / "outside").mkdir()
    (photos / "out").symlink_to(tmp_path / "outside")
    labels = [{"path": "a.jpg", "label": "cat"}, entry]
    file = tmp_path / "plan.json"
    file.write_text(json.dumps({"format": "sharpzo-mlx plan 1", "folder": str(photos), "labels": labels}))
    with pytest.raises(sz.UserError, match=words):
        sz.read_sort_plan(file, tmp_path / "s")
