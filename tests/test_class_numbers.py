"""Numbers before the names of class folders: left out of prompts where they count the classes, and said."""

from __future__ import annotations

from pathlib import Path

import pytest

from sharpzo_mlx.datasets.evaluation_sets import recognise
from sharpzo_mlx.datasets.splits import draw_split


def make(folder: Path, *classes: str) -> Path:
    for name in classes:
        (folder / name).mkdir(parents=True)
        for number in range(3):
            (folder / name / f"{number}.jpg").touch()
    return folder


@pytest.mark.parametrize(
    ("folders", "names"),
    [
        (("001.dog", "002.sea_lion"), ("dog", "sea lion")),  # CUB-200, Caltech-256
        (("n02085620-Chihuahua", "n02085782-Japanese_spaniel"), ("Chihuahua", "Japanese spaniel")),  # Stanford Dogs
        (("0_cat", "1_dog", "2_owl"), ("cat", "dog", "owl")),
        (("01 - cat", "07 - dog"), ("cat", "dog")),
    ],
)
def test_numbers_that_count_are_left_out(
    folders: tuple[str, ...], names: tuple[str, ...], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    split = draw_split(make(tmp_path / "set", *folders), shots=1, seed=0)
    assert (split.train.class_names, split.train.folders) == (names, folders)
    assert f"the numbers before the class names are left out: {folders[0]!r} is {names[0]!r}" in caplog.text


@pytest.mark.parametrize(
    "folders",
    [("2-door car", "4-door car"), ("1 euro", "2 euro", "3 euro"), ("1_cent", "2_euro", "5_pounds"), ("8", "9")],
)
def test_numbers_that_may_mean_something_stay_and_are_said(
    folders: tuple[str, ...], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    split = draw_split(make(tmp_path / "set", *folders), shots=1, seed=0)
    assert split.train.class_names == tuple(name.replace("_", " ") for name in folders)
    assert "name them in a classnames.txt" in caplog.text


@pytest.mark.parametrize("folders", [("cat", "dog"), ("001.dog", "cat"), ("3d print", "4x4")])
def test_other_names_are_not_mentioned(
    folders: tuple[str, ...], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    split = draw_split(make(tmp_path / "set", *folders), shots=1, seed=0)
    assert split.train.class_names == folders
    assert "number" not in caplog.text


def test_a_list_of_names_comes_first(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = make(tmp_path / "set", "001.dog", "002.cat")
    (folder / "classnames.txt").write_text("001.dog 101 Dalmatians\n002.cat a cat\n")
    assert draw_split(folder, shots=1, seed=0).train.class_names == ("101 Dalmatians", "a cat")
    assert "number" not in caplog.text


def test_folders_with_and_without_numbers_are_the_same_classes(tmp_path: Path) -> None:
    tuned, folders = ("dog", "cat"), ("001.dog", "002.cat")
    (plain,) = recognise(make(tmp_path / "plain", "cat", "dog"), tuned, folders)
    assert plain.images.labels == (0, 0, 0, 1, 1, 1)
    (back,) = recognise(make(tmp_path / "numbered", *folders), ("cat", "dog"), ("cat", "dog"))
    assert next(path.parent.name for path in back.images.paths) == "002.cat"
