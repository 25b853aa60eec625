"""What `sort` wrote is read again: by `tune`, `add` and `evaluate`, and by the next sorting into the same folder."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from painted_folders import paint_class
from test_sort import files, plan_of, write

import sharpzo_mlx as sz
from sharpzo_mlx.datasets.folder import read_folder
from sharpzo_mlx.datasets.matching import ClassIndex
from sharpzo_mlx.sorting.items import Item, Order
from sharpzo_mlx.sorting.plan import SortPlan


def test_images_without_a_label_are_no_class(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    photos = write(tmp_path / "p", a__jpg="1", b__jpg="2")
    plan_of(photos, {"a.jpg": "cat", "b.jpg": None}, tmp_path / "s").apply()
    assert read_folder(tmp_path / "s").folders == ("cat",)
    assert f"{tmp_path}/s: unsorted: written by this program, so not a class" in caplog.text
    own = write(tmp_path / "own", cat___a__jpg="1", unsorted___b__jpg="2")
    assert read_folder(own).folders == ("cat", "unsorted")


def test_a_sorted_folder_is_added_to_the_run(finished_run: Path, tmp_path: Path) -> None:
    new = tmp_path / "new"
    paint_class(new, seed=50, count=4)
    names = sorted(path.name for path in new.iterdir())
    labels = dict(zip(names, ("cat", "dog", "barn owl", None), strict=True))
    plan_of(new, labels, tmp_path / "s").apply()
    run = shutil.copytree(finished_run, tmp_path / "run")
    added = sz.add(run, tmp_path / "s")
    assert added.prompt.class_names == sz.Run.load(finished_run).prompt.class_names
    assert added.record.version is not None
    assert added.record.version.images == 3


def test_the_folder_of_a_name_that_no_disk_can_hold_is_its_class() -> None:
    classes = ClassIndex(["cat", "cat & <b>", "AC/DC", "CON"], ["n1", "n2", "n3", "n4"])
    places = [classes.find(folder.replace("_", " "), folder) for folder in ("cat & _b_", "AC_DC", "CON_", "cat", "x")]
    assert places == [1, 2, 3, 0, None]
    assert classes.add("AC_DC", "AC_DC") == 4
    assert classes.find("AC DC", "AC_DC") == 4


def test_a_class_keeps_its_folder_whichever_images_are_sorted(tmp_path: Path) -> None:
    photos = write(tmp_path / "p", a__jpg="1", b__jpg="2", c__jpg="3")
    for path, label in {"a.jpg": "Cat", "b.jpg": "cat", "c.jpg": "cat"}.items():
        order = Order(photos, tmp_path / "s", "move", (Item(path, label),), classes=("Cat", "cat", "AC/DC"))
        assert SortPlan(order).survey().renamed.keys() == ({"cat"} if label == "cat" else set())
        SortPlan(order).apply()
    assert files(tmp_path / "s") == {"Cat/a.jpg": "1", "cat (2)/b.jpg": "2", "cat (2)/c.jpg": "3"}
