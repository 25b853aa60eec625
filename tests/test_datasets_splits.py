"""Splits: folders are honoured, draws depend on the seed and the class's own names alone, nothing is in two sets."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sharpzo_mlx.datasets.folder import read_folder
from sharpzo_mlx.datasets.splits import Split, apportion, draw_split
from sharpzo_mlx.errors import UserError


def make(folder: Path, counts: dict[str, int]) -> Path:
    """Class folders (or split/class folders) with so many empty files."""
    for name, count in counts.items():
        (folder / name).mkdir(parents=True)
        for number in range(count):
            (folder / name / f"{number:03d}.jpg").touch()
    return folder


def sizes(split: Split) -> tuple[list[int], list[int], list[int] | None]:
    return split.train.counts(), split.val.counts(), split.test.counts() if split.test else None


def names(split: Split, part: str = "train") -> set[str]:
    return {f"{path.parent.name}/{path.name}" for path in getattr(split, part).paths}


def notices(caplog: pytest.LogCaptureFixture) -> str:
    return "\n".join(record.message for record in caplog.records)


def test_nothing_given_is_drawn_and_no_image_is_in_two_sets(tmp_path: Path) -> None:
    make(tmp_path, {"cat": 30, "dog": 25, "owl": 40})
    split = draw_split(tmp_path, shots=16, seed=0)
    assert sizes(split) == ([16] * 3, [4] * 3, [10, 5, 20])
    assert split.test is not None
    every = [*split.train.paths, *split.val.paths, *split.test.paths]
    assert sorted(every) == sorted(read_folder(tmp_path).paths)
    for part in (split.train, split.val, split.test):
        assert list(part.labels) == sorted(part.labels)
        assert all(path.parent.name == part.folders[label] for path, label in zip(part.paths, part.labels, strict=True))
    assert sizes(draw_split(tmp_path, shots=2, seed=0))[1] == [2] * 3


def test_a_draw_is_a_function_of_the_seed_and_the_names(tmp_path: Path) -> None:
    make(tmp_path / "a", {"cat": 30, "dog": 30})
    first = draw_split(tmp_path / "a", shots=8, seed=0)
    assert names(first) == names(draw_split(tmp_path / "a", shots=8, seed=0))
    assert names(first) != names(draw_split(tmp_path / "a", shots=8, seed=1))
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    make(tmp_path / "b", {"ant": 30})  # another class changes no other draw
    other = draw_split(tmp_path / "b", shots=8, seed=0)
    assert {name for name in names(other) if not name.startswith("ant")} == names(first)
    cats = {name.split("/")[1] for name in names(first) if name.startswith("cat")}
    dogs = {name.split("/")[1] for name in names(first) if name.startswith("dog")}
    assert cats != dogs, "classes draw apart"


def test_fewer_shots_are_the_first_of_more(tmp_path: Path) -> None:
    make(tmp_path, {"cat": 60, "dog": 60})
    assert names(draw_split(tmp_path, shots=4, seed=3)) < names(draw_split(tmp_path, shots=16, seed=3))


def test_given_splits_are_honoured(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    counts = {"train/cat": 20, "train/dog": 20, "val/cat": 7, "val/dog": 3, "test/cat": 5, "test/dog": 6}
    make(tmp_path, counts)
    split = draw_split(tmp_path, shots=16, seed=0)
    assert sizes(split) == ([16, 16], [7, 3], [5, 6])
    assert not caplog.records
    assert {path.parent.parent.name for path in split.val.paths} == {"val"}
    assert sizes(draw_split(tmp_path, shots=20, seed=0))[0] == [20, 20]


def test_train_and_val_alone_make_val_the_test(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make(tmp_path, {"train/cat": 30, "train/dog": 18, "val/cat": 5, "val/dog": 5})
    split = draw_split(tmp_path, shots=16, seed=0)
    assert sizes(split) == ([16, 16], [4, 2], [5, 5])
    assert {path.parent.parent.name for path in split.val.paths} == {"train"}
    assert not set(split.val.paths) & set(split.train.paths)
    assert "val is the test set, validation is drawn from train" in notices(caplog)


def test_train_and_test_alone_and_train_alone(tmp_path: Path) -> None:
    make(tmp_path / "a", {"train/cat": 30, "train/dog": 30, "test/cat": 5, "test/dog": 6})
    assert sizes(draw_split(tmp_path / "a", shots=16, seed=0)) == ([16, 16], [4, 4], [5, 6])
    make(tmp_path / "b", {"train/cat": 30, "train/dog": 30})
    assert sizes(draw_split(tmp_path / "b", shots=16, seed=0)) == ([16, 16], [4, 4], [10, 10])
    make(tmp_path / "c", {"test/cat": 30, "test/dog": 30})
    with pytest.raises(UserError, match="no train"):
        draw_split(tmp_path / "c", shots=16, seed=0)


def test_classes_of_the_splits_must_agree(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make(tmp_path, {"train/cat": 9, "train/dog": 9, "train/owl": 9, "val/owl": 2, "test/dog": 2, "test/cat": 2})
    split = draw_split(tmp_path, shots=4, seed=0)
    assert sizes(split) == ([4, 4, 4], [0, 0, 2], [2, 2, 0])
    assert "no images of 2 of 3 classes: cat, dog" in notices(caplog)
    make(tmp_path, {"test/fox": 1})
    with pytest.raises(UserError, match="classes that train lacks: fox"):
        draw_split(tmp_path, shots=4, seed=0)


def test_what_lies_beside_the_splits_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make(tmp_path, {"train/a": 9, "train/b": 9, "test": 3, "extra": 2, "docs": 0, "runs/x": 1})
    (tmp_path / "runs" / "x" / "run.json").touch()
    (tmp_path / "poster.png").touch()
    assert sizes(draw_split(tmp_path, shots=2, seed=0)) == ([2, 2], [2, 2], [5, 5])
    said = notices(caplog)
    assert f"{tmp_path}: extra, test: beside the splits, so left out" in said
    assert f"{tmp_path}: 1 images lie beside" in said


def test_a_train_folder_without_class_folders_is_named(tmp_path: Path) -> None:
    make(tmp_path, {"train": 3, "test/a": 3, "test/b": 3})
    with pytest.raises(UserError, match=r"images lie directly in train;"):
        draw_split(tmp_path, shots=2, seed=0)


def test_names_come_from_the_list_beside_the_splits(tmp_path: Path) -> None:
    make(tmp_path, {"train/n1": 9, "train/n2": 9, "val/n2": 2, "test/n1": 2})
    (tmp_path / "classnames.txt").write_text("n1 tench\nn2 goldfish\n")
    split = draw_split(tmp_path, shots=4, seed=0)
    assert split.test is not None
    assert {split.train.class_names, split.val.class_names, split.test.class_names} == {("tench", "goldfish")}


def test_small_classes_use_what_there_is(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make(tmp_path, {"a": 1, "b": 2, "c": 10, "d": 16, "e": 17, "f": 100})
    split = draw_split(tmp_path, shots=16, seed=0)
    assert sizes(split) == ([1, 1, 8, 13, 16, 16], [0, 1, 2, 3, 1, 4], [0, 0, 0, 0, 0, 80])
    assert "fewer than 16 training images: a (1), b (1), c (8), d (13)" in notices(caplog)
    caplog.clear()
    split = draw_split(tmp_path, shots=None, seed=0)
    assert sizes(split) == ([1, 1, 6, 10, 11, 16], [0, 1, 2, 3, 3, 4], [0, 0, 2, 3, 3, 80])
    assert "no --shots given; training images of each class: 1 to 16" in notices(caplog)
    assert split.shots == 16


DRAWN = {  # by shots; another draw of the same seed would be another experiment
    1: ("a0 b1 c2 d0", "b0 c0 d1", "c1 d2 d3"),
    3: ("a0 b1 c0 c2 d0 d1 d3", "b0 c1 d2", ""),
}


@pytest.mark.parametrize("needed", [True, False])
@pytest.mark.parametrize("shots", DRAWN)
def test_the_draw_is_the_same_whether_or_not_validation_is_needed(shots: int, needed: bool, tmp_path: Path) -> None:
    make(tmp_path, {"a": 1, "b": 2, "c": 3, "d": 4})
    split = draw_split(tmp_path, shots=shots, seed=7, needs_validation=needed)
    parts = [part.paths if part else () for part in (split.train, split.val, split.test)]
    assert tuple(" ".join(f"{path.parent.name}{int(path.stem)}" for path in paths) for paths in parts) == DRAWN[shots]


@pytest.mark.parametrize("shots", [None, 1, 2, 4, 16])
@pytest.mark.parametrize("inner", ["", "train/"])
def test_what_has_validation_images_is_drawn_as_ever(inner: str, shots: int | None, tmp_path: Path) -> None:
    for count in (2, 3, 4, 5, 8, 16, 17, 21, 40):
        folder = make(tmp_path / str(count), {f"{inner}cat": count, f"{inner}dog": count})
        usual = draw_split(folder, shots=shots, seed=count)
        assert draw_split(folder, shots=shots, seed=count, needs_validation=False) == usual
        assert min(usual.train.counts()) > 0
        assert min(usual.val.counts()) > 0


@pytest.mark.parametrize("shots", [None, 1, 4])
@pytest.mark.parametrize(
    ("parts", "val", "test"),
    [
        (("",), 0, None),
        (("train/",), 0, None),
        (("train/", "test/"), 0, 1),
        (("train/", "val/"), 0, 1),  # val is the test set
        (("train/", "val/", "test/"), 1, 1),
    ],
)
def test_one_image_a_class_is_for_training(
    parts: tuple[str, ...], val: int, test: int | None, shots: int | None, tmp_path: Path
) -> None:
    make(tmp_path, {f"{part}{name}": 1 for part in parts for name in ("cat", "dog")})
    split = draw_split(tmp_path, shots=shots, seed=0, needs_validation=False)
    assert sizes(split) == ([1, 1], [val, val], test and [test, test])
    assert (split.val.class_names, split.val.folders) == (split.train.class_names, split.train.folders)
    if not val:
        with pytest.raises(UserError, match="no image is left for validation"):
            draw_split(tmp_path, shots=shots, seed=0)


def test_two_images_a_class_leave_one_for_validation(tmp_path: Path) -> None:
    make(tmp_path, {"cat": 2, "dog": 2, "owl": 1})
    for shots in (None, 1, 2):
        split = draw_split(tmp_path, shots=shots, seed=0, needs_validation=False)
        assert sizes(split) == ([1, 1, 1], [1, 1, 0], None)


def test_what_no_image_is_left_for_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make(tmp_path / "a", {"cat": 1, "dog": 1})
    draw_split(tmp_path / "a", shots=None, seed=0, needs_validation=False)
    assert "no --shots given; training images of each class: 1\n" in notices(caplog) + "\n"
    assert "left for a test split or validation, nor to be left out" in caplog.text
    assert "on the validation images" not in caplog.text
    caplog.clear()
    make(tmp_path / "b", {"train/cat": 1, "train/dog": 1, "test/cat": 1, "test/dog": 1})
    draw_split(tmp_path / "b", shots=1, seed=0, needs_validation=False)
    (said,) = caplog.messages
    assert "no image is left for validation; choices are made on labelled images, each left out in turn" in said


def test_no_test_split_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make(tmp_path, {"a": 5, "b": 5})
    assert draw_split(tmp_path, shots=4, seed=0).test is None
    assert "left for a test split; accuracies will be those on the validation images" in notices(caplog)
    caplog.clear()
    draw_split(tmp_path, shots=4, seed=0, needs_validation=False)
    assert "left for a test split; accuracies will be those on labelled images, each left out" in notices(caplog)


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 60), st.none() | st.integers(1, 30), st.booleans(), st.booleans())
def test_any_share_uses_images_once(count: int, shots: int | None, val: bool, test: bool) -> None:
    share = apportion(count, shots, draw_val=val, draw_test=test)
    assert 0 <= share.train <= (shots or 16)
    assert 0 <= share.val <= (min(shots or 16, 4) if val else 0)
    assert share.train + share.val <= count
    if count:
        assert share.train > 0
    if val and count > 1:
        assert share.val > 0
    if count >= (shots or 16) + 5:
        assert share.train == (shots or 16)


def test_what_cannot_be_split_says_what_to_do(tmp_path: Path) -> None:
    make(tmp_path / "one", {"cat": 30})
    with pytest.raises(UserError, match="only one class, 'cat'"):
        draw_split(tmp_path / "one", shots=16, seed=0)
    make(tmp_path / "two", {"cat": 1, "dog": 1})
    with pytest.raises(UserError, match="for validation; give each class at least two images, or use `tune` without"):
        draw_split(tmp_path / "two", shots=16, seed=0)
    with pytest.raises(UserError, match="--shots 0"):
        draw_split(tmp_path / "two", shots=0, seed=0)
    with pytest.raises(UserError, match="no such folder"):
        draw_split(tmp_path / "absent", shots=1, seed=0)


def test_the_testbeds_splits(testbed: Path) -> None:
    split = draw_split(testbed / "tiny-imagenet", shots=8, seed=0)
    assert len(split.train.folders) == 200
    assert sizes(split) == ([8] * 200, [4] * 200, [10] * 200)
    assert split.train.class_names[split.train.folders.index("n01443537")] == "goldfish"


def test_names_are_told_where_a_prompt_is_made_of_them(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Ids get CLIP's names, which is told when a data set is drawn, and not for each folder that is evaluated."""
    make(tmp_path / "known", {"n01440764": 3, "n01443537": 3})
    make(tmp_path / "ids", {"n01440764": 3, "n00000001": 3})
    read_folder(tmp_path / "known")
    assert caplog.text == ""
    draw_split(tmp_path / "known", shots=1, seed=0)
    assert "2 of ImageNet's classes by WordNet id; they get the names of CLIP's curated list" in caplog.text
    caplog.clear()
    draw_split(tmp_path / "ids", shots=1, seed=0)
    assert "not among ImageNet's 1000 (n00000001): name them" in caplog.text
    assert "curated" not in caplog.text
