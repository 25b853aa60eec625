"""Plans carried out: where images and sidecars go, what is passed over or numbered, and names of all kinds."""

from __future__ import annotations

import json
import os
import random
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from sort_trees import LABELS, make_plan, make_tree, parts_left, snapshot

import sharpzo_mlx as sz

WAYS: list[Any] = ["copy", "move", "link", "symlink"]


def plan_of(folder: Path, labels: Mapping[str, str | None], into: Path | None, mode: Any = "copy") -> sz.SortPlan:
    """Return the plan of a plan file with these labels."""
    file = folder.parent / f"plan-{random.random()}.json"
    entries = [{"path": path, "label": label} for path, label in labels.items()]
    file.write_text(json.dumps({"format": "sharpzo-mlx plan 1", "folder": str(folder), "labels": entries}))
    return sz.read_sort_plan(file, into, mode=mode)


def write(folder: Path, **files: str) -> Path:
    """Write files, whose names have `__` for a dot and `___` for a slash, and return the folder."""
    for name, content in files.items():
        path = folder / name.replace("___", "/").replace("__", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return folder


def files(folder: Path) -> dict[str, str]:
    """Return the texts of all files below a folder but the journals."""
    found = (path for path in folder.rglob("*") if path.is_file() and ".sharpzo-sort" not in path.parts)
    return {path.relative_to(folder).as_posix(): path.read_text() for path in found}


@pytest.mark.parametrize("mode", WAYS)
def test_images_come_to_their_folders(tmp_path: Path, mode: Any) -> None:
    photos = write(tmp_path / "p", a__jpg="1", b__jpg="2", more___c__jpg="3")
    plan = plan_of(photos, {"a.jpg": "cat", "b.jpg": None, "more/c.jpg": "dog"}, tmp_path / "s", mode)
    found = plan.survey()
    assert dict(found.classes) == {"cat": 1, "dog": 1, "unsorted": 1}
    assert not (tmp_path / "s").exists()
    done = plan.apply()
    assert (done.done, done.there, done.failures) == (3, 0, [])
    assert files(tmp_path / "s") == {"cat/a.jpg": "1", "unsorted/b.jpg": "2", "dog/c.jpg": "3"}
    assert len(files(photos)) == (0 if mode == "move" else 3)
    target = tmp_path / "s" / "cat" / "a.jpg"
    assert target.is_symlink() == (mode == "symlink")
    assert os.stat(target).st_nlink == (2 if mode == "link" else 1)


def test_a_copy_keeps_time_and_permissions(tmp_path: Path) -> None:
    photos = write(tmp_path / "p", a__jpg="1")
    (photos / "a.jpg").chmod(0o640)
    os.utime(photos / "a.jpg", (1_500_000_000, 1_500_000_000))
    plan_of(photos, {"a.jpg": "cat"}, tmp_path / "s").apply()
    copy = (tmp_path / "s" / "cat" / "a.jpg").stat()
    assert (copy.st_mtime, copy.st_mode & 0o777) == (1_500_000_000, 0o640)


def test_the_same_content_is_passed_over_and_another_is_numbered(tmp_path: Path) -> None:
    photos = write(tmp_path / "p", a__jpg="1", x___a__jpg="2", y___a__jpg="1", z___a__jpg="4")
    write(tmp_path / "s", cat___a__jpg="0")
    plan = plan_of(photos, dict.fromkeys(("a.jpg", "x/a.jpg", "y/a.jpg", "z/a.jpg"), "cat"), tmp_path / "s")
    found = plan.survey()
    assert (found.there, found.numbered) == (1, 3)
    done = plan.apply()
    assert (done.done, done.there, done.numbered) == (3, 1, 3)
    names = {"cat/a.jpg": "0", "cat/a (2).jpg": "1", "cat/a (3).jpg": "2", "cat/a (4).jpg": "4"}
    assert files(tmp_path / "s") == names
    again = plan.apply()
    assert (again.done, again.there, again.journal) == (0, 4, None)
    assert files(tmp_path / "s") == names


@pytest.mark.parametrize("mode", ["copy", "move"])
def test_sidecars_travel_under_the_name_of_their_image(tmp_path: Path, mode: Any) -> None:
    photos = write(
        tmp_path / "p", IMG_1__HEIC="i", IMG_1__MOV="m", IMG_1__AAE="e", IMG_O1__aae="o", IMG_1__HEIC__xmp="x",
        a__jpg="a", a__XMP="ax", b__mov="no image", IMG_7__AAE="no image", c__txt="no sidecar",
    )  # fmt: skip
    write(tmp_path / "s", cat___IMG_1__HEIC="other", cat___a__xmp="other")
    plan_of(photos, {"IMG_1.HEIC": "cat", "a.jpg": "cat"}, tmp_path / "s", mode).apply()
    moved = files(tmp_path / "s")
    number = " (2)" if sys.platform == "darwin" else ""  # a.xmp and a.XMP are one file there
    expected = {"IMG_1 (2).HEIC": "i", "IMG_1 (2).MOV": "m", "IMG_1 (2).AAE": "e", "IMG_O1 (2).aae": "o",
                "IMG_1 (2).HEIC.xmp": "x", f"a{number}.jpg": "a", f"a{number}.XMP": "ax", "IMG_1.HEIC": "other",
                "a.xmp": "other"}  # fmt: skip
    assert moved == {f"cat/{name}": content for name, content in expected.items()}
    left = {"b.mov", "IMG_7.AAE", "c.txt"}
    assert set(files(photos)) == (left if mode == "move" else left | {path.name for path in photos.iterdir()})


def test_the_edited_picture_of_apple_keeps_its_own_files(tmp_path: Path) -> None:
    photos = write(tmp_path / "p", IMG_E1__JPG="edited", IMG_O1__AAE="o", IMG_E1__MOV="m")
    plan_of(photos, {"IMG_E1.JPG": "cat"}, tmp_path / "s").apply()
    assert set(files(tmp_path / "s")) == {"cat/IMG_E1.JPG", "cat/IMG_O1.AAE", "cat/IMG_E1.MOV"}


def test_a_sidecar_of_two_images_goes_with_both_and_stays_for_a_third(tmp_path: Path) -> None:
    photos = write(tmp_path / "p", a__jpg="1", a__png="2", a__xmp="x", b__jpg="3", b__png="4", b__xmp="y")
    labels = {"a.jpg": "cat", "a.png": "dog", "b.jpg": "cat"}
    plan_of(photos, labels, tmp_path / "s", "move").apply()
    assert set(files(tmp_path / "s")) == {"cat/a.jpg", "cat/a.xmp", "dog/a.png", "dog/a.xmp", "cat/b.jpg", "cat/b.xmp"}
    assert set(files(photos)) == {"b.png", "b.xmp"}


def test_names_of_classes_become_folders_that_every_disk_can_hold(tmp_path: Path) -> None:
    labels = ["AC/DC", "..", ".git", "nul", "COM1.txt", "a" * 300, "Cat", "cat", "unsorted", "é", "e\u0301", "x. "]
    photos = write(tmp_path / "p", **{f"{number}__jpg": str(number) for number in range(len(labels))})
    plan_of(photos, {f"{number}.jpg": label for number, label in enumerate(labels)}, tmp_path / "s").apply()
    folders = {path.split("/")[0]: int(content) for path, content in files(tmp_path / "s").items()}
    assert len(files(tmp_path / "s")) == len(labels)
    assert {folders[name] for name in ("AC_DC", "_", "_git", "nul_", "COM1.txt_", "a" * 200)} == {0, 1, 2, 3, 4, 5}
    assert {folders[name] for name in ("Cat", "cat (2)", "unsorted (2)", "é", "é (2)", "x")} == {6, 7, 8, 9, 10, 11}


def test_a_folder_that_stands_for_the_class_is_used(tmp_path: Path) -> None:
    photos = write(tmp_path / "p", barn_owl___1__jpg="1", n01440764___2__jpg="2", classnames__txt="n01440764 tench")
    (photos / "classnames.txt").write_text("n01440764 tench\nbarn_owl barn owl\n")
    labels = {"barn_owl/1.jpg": "tench", "n01440764/2.jpg": "barn owl"}
    plan_of(photos, labels, photos, "move").apply()
    assert set(files(photos)) == {"barn_owl/2.jpg", "n01440764/1.jpg", "classnames.txt"}


def test_images_change_places_inside_their_split(tmp_path: Path) -> None:
    photos = write(tmp_path / "p", train___cat___1__jpg="1", train___dog___2__jpg="2", val___cat___3__jpg="3")
    labels = {"train/cat/1.jpg": "dog", "val/cat/3.jpg": "cat"}
    done = plan_of(photos, labels, photos, "move").apply()
    assert (done.done, done.there) == (1, 1)
    assert set(files(photos)) == {"train/dog/1.jpg", "train/dog/2.jpg", "val/cat/3.jpg"}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("mode", ["copy", "move", "link", "symlink", "tag"])
def test_odd_names_and_links_are_sorted_and_undone(tmp_path: Path, mode: Any, seed: int) -> None:
    rng = random.Random(seed)
    folder, into = tmp_path / "photos", tmp_path / "sorted"
    paths = make_tree(folder, rng, 30)
    make_tree(into / "cat", rng, 6)
    before = snapshot(folder, into)
    file = make_plan(tmp_path / "plan.json", folder, paths, rng)
    plan = sz.read_sort_plan(file, None if mode == "tag" else into, mode=mode)
    done = plan.apply()
    assert done.done > 5
    assert done.done + done.there + len(done.failures) + (
        sum(item.label is None for item in plan.order.items) if mode == "tag" else 0
    ) == len(plan.order.items)
    contents = set(snapshot(folder, into).values())
    if mode == "move":
        assert {words for words in before.values() if not words.startswith("link")} <= contents
    assert done.journal is not None
    assert sz.undo_sort(done.journal).kept == ()
    assert snapshot(folder, into) == before
    assert parts_left(folder, into) == []


@pytest.mark.parametrize("mode", WAYS)
def test_what_is_no_file_stays(tmp_path: Path, mode: Any) -> None:
    photos = write(tmp_path / "p", a__jpg="1", folder__jpg___b__jpg="2")
    os.mkfifo(photos / "pipe.jpg")
    labels = dict.fromkeys(("a.jpg", "folder.jpg", "pipe.jpg", "gone.jpg"), "cat")
    done = plan_of(photos, labels, tmp_path / "s", mode).apply()
    assert (done.done, [one.path for one in done.failures]) == (1, ["folder.jpg", "gone.jpg", "pipe.jpg"])
    assert set(files(tmp_path / "s")) == {"cat/a.jpg"}
    assert (photos / "folder.jpg" / "b.jpg").exists()
    assert (photos / "pipe.jpg").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="Linux's own call")
def test_a_disk_that_can_clones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def clone(copy: int, call: int, source: int) -> int:
        calls.append(call)
        os.write(copy, os.pread(source, 100, 0))
        return 0

    monkeypatch.setattr("fcntl.ioctl", clone)
    photos = write(tmp_path / "p", a__jpg="1")
    plan_of(photos, {"a.jpg": "cat"}, tmp_path / "s").apply()
    assert files(tmp_path / "s") == {"cat/a.jpg": "1"}
    assert calls == [0x40049409]


def test_labels_of_the_trees_need_safe_folders() -> None:
    assert {"AC/DC", "..", "nul", None} <= set(LABELS)
