"""Listing folders: what counts as a class and an image, names, notices, errors that say what to do."""

from __future__ import annotations

import errno
import os
import sys
import unicodedata
from pathlib import Path
from typing import Any

import pytest

from sharpzo_mlx.datasets.folder import read_folder, split_folders
from sharpzo_mlx.datasets.image_set import ImageSet
from sharpzo_mlx.datasets.matching import match_classes
from sharpzo_mlx.datasets.names import plain_name, same_name
from sharpzo_mlx.datasets.splits import draw_split
from sharpzo_mlx.errors import UserError


def make(folder: Path, *names: str) -> Path:
    """Empty files: listing opens none."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def notices(caplog: pytest.LogCaptureFixture) -> str:
    return "\n".join(record.message for record in caplog.records)


def test_classes_and_images_are_sorted_and_strangers_passed_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make(tmp_path, "owl/2.JPG", "owl/10.jpeg", "cat/a.heic", "cat/.DS_Store", "cat/._a.heic", ".top.jpg")
    make(tmp_path, "golden_retriever/x.webp", ".hidden/a.jpg", "__MACOSX/a.jpg", "owl/notes.txt")
    images = read_folder(tmp_path)
    assert images.folders == ("cat", "golden_retriever", "owl")
    assert images.class_names == ("cat", "golden retriever", "owl")
    assert [path.name for path in images.paths] == ["a.heic", "x.webp", "10.jpeg", "2.JPG"]
    assert images.labels == (0, 1, 2, 2)
    assert images.counts() == [1, 1, 2]
    assert not caplog.records
    assert read_folder(str(tmp_path)) == images


def test_order_is_that_of_the_names_not_of_the_disk(tmp_path: Path) -> None:
    names = [f"{folder}/{number * 37 % 101:03d}.jpg" for number in range(101) for folder in ("b", "a", "b/inner")]
    images = read_folder(make(tmp_path, *names))
    assert [path.relative_to(tmp_path).as_posix() for path in images.paths] == sorted(names)


def test_images_deeper_down_belong_to_their_class(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make(tmp_path, "n01/images/1.jpg", "n01/images/more/2.jpg", "n01/.cache/3.jpg", "n02/4.jpg")
    images = read_folder(tmp_path)
    assert [path.name for path in images.paths] == ["1.jpg", "2.jpg", "4.jpg"]
    assert images.labels == (0, 0, 1)
    assert "2 images lie deeper" in notices(caplog)


def test_a_class_folder_may_be_a_link(tmp_path: Path) -> None:
    make(tmp_path, "real/1.jpg", "real/2.jpg", "set/owl/1.jpg")
    (tmp_path / "set" / "cat").symlink_to(tmp_path / "real")
    (tmp_path / "set" / "cat2").symlink_to(tmp_path / "absent")
    assert read_folder(tmp_path / "set").counts() == [2, 1]


def test_what_a_user_should_know_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make(tmp_path, "cat/a.jpg", "cat/.b.jpg.icloud", "cat/.c.heic.icloud", "cat/raw.cr2", "empty/readme.txt")
    make(tmp_path, "owl/a.jpg", "owl/clip.mov", "owl/other.mov")
    assert read_folder(tmp_path).folders == ("cat", "owl")
    said = notices(caplog)
    assert "empty: no images" in said
    assert "2 images are in iCloud only" in said
    assert "1 .cr2" in said
    assert "2 .mov" in said
    assert all("\n" not in record.message for record in caplog.records)


@pytest.mark.parametrize(
    "written",
    [
        ("runs/photos-m-0/run.json", "runs/photos-m-0/curves.png"),
        ("comparisons/photos-m/comparison.json", "comparisons/photos-m/curves/a.png"),
        ("mine/run.json", "mine/confusion.png"),
    ],
)
def test_what_this_program_wrote_is_no_class(
    written: tuple[str, str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make(tmp_path, "cat/1.jpg", "owl/2.jpg", *written)
    assert read_folder(tmp_path).folders == ("cat", "owl")
    assert notices(caplog) == f"{tmp_path}: {written[0].split('/')[0]}: written by this program, so not a class"


def test_a_record_deep_inside_a_class_takes_no_class_away(tmp_path: Path) -> None:
    assert read_folder(make(tmp_path, "cat/1.jpg", "cat/a/b/run.json", "owl/2.jpg")).folders == ("cat", "owl")


def test_images_beside_the_class_folders_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    read_folder(make(tmp_path, "cat/1.jpg", "owl/1.jpg", "a.jpg", "b.PNG", "c.txt", ".d.jpg"))
    assert notices(caplog) == (
        f"{tmp_path}: 2 images lie beside the class folders and are left out; move them into one"
    )


def test_a_folder_that_cannot_be_read_is_no_empty_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, "cat/1.jpg", "owl/1.jpg", "owl/more/2.jpg")
    scandir = os.scandir
    closed = tmp_path / "owl"

    def refused(place: str | Path) -> Any:  # the rights of a file do not bind root, who may run these tests
        if Path(place) == closed:
            raise PermissionError(errno.EACCES, "Permission denied", str(place))
        return scandir(place)

    monkeypatch.setattr(os, "scandir", refused)
    for closed in (tmp_path / "owl", tmp_path / "owl" / "more", tmp_path):
        with pytest.raises(UserError) as error:
            read_folder(tmp_path)
        assert str(error.value) == f"{closed}: permission denied; allow reading it"


def test_a_data_set_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, "cat/1.jpg", "owl/1.jpg")
    monkeypatch.setattr(os, "access", lambda *_: False)
    for read in (read_folder, lambda folder: draw_split(folder, shots=1, seed=0)):
        with pytest.raises(UserError) as error:
            read(tmp_path)
        assert str(error.value) == f"{tmp_path}: permission denied; allow reading it"


def test_only_regular_files_are_images(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make(tmp_path, "cat/1.jpg", "owl/1.jpg")
    os.mkfifo(tmp_path / "cat" / "pipe.jpg")
    (tmp_path / "cat" / "link.jpg").symlink_to(tmp_path / "cat" / "pipe.jpg")
    (tmp_path / "owl" / "linked.jpg").symlink_to(tmp_path / "cat" / "1.jpg")
    (tmp_path / "owl" / "void.jpg").symlink_to(tmp_path / "absent.jpg")  # said when it is read
    images = read_folder(tmp_path)
    assert [path.name for path in images.paths] == ["1.jpg", "1.jpg", "linked.jpg", "void.jpg"]
    assert "2 with the name of an image are not regular files" in notices(caplog)


@pytest.mark.skipif(sys.platform == "darwin", reason="its file systems take UTF-8 alone")
def test_a_folder_name_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    make(tmp_path, "cat/1.jpg")
    folder = os.path.join(os.fsencode(tmp_path), b"pers\xe9n")
    os.mkdir(folder)
    Path(os.fsdecode(folder), "1.jpg").touch()
    with pytest.raises(UserError) as error:
        read_folder(tmp_path)
    assert (
        str(error.value)
        == f"{tmp_path}: the name of the folder {b'pers' + bytes([0xE9]) + b'n'!r} is not UTF-8; rename it"
    )


def test_unicode_spellings_are_one(tmp_path: Path) -> None:
    decomposed = unicodedata.normalize("NFD", "Käfer")
    assert decomposed != "Käfer"
    make(tmp_path, f"{decomposed}/z.jpg", "owl/1.jpg")
    images = read_folder(tmp_path)
    assert images.folders == ("Käfer", "owl")
    assert images.class_names == ("Käfer", "owl")
    assert images.paths[0].exists()
    if (tmp_path / "Käfer").exists():
        pytest.skip("this file system keeps one spelling")
    make(tmp_path, "Käfer/1.jpg")
    with pytest.raises(UserError, match="two unicode spellings"):
        read_folder(tmp_path)


@pytest.mark.parametrize(("one", "other"), [("Dog", "dog"), ("big_dog", "big dog"), ("Big_Dog", "big  dog")])
def test_two_folders_of_one_name_are_an_error(one: str, other: str, tmp_path: Path) -> None:
    make(tmp_path, f"{one}/1.jpg")
    if (tmp_path / other).exists():
        pytest.skip("this file system does not tell them apart")
    make(tmp_path, f"{other}/1.jpg")
    with pytest.raises(UserError) as error:
        read_folder(tmp_path)
    assert repr(one) in str(error.value)
    assert repr(other) in str(error.value)
    assert "merge" in str(error.value)


def test_class_names_from_a_list(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make(tmp_path, "train/n01/1.jpg", "train/n02/1.jpg", "train/sea lion/1.jpg")
    text = "\ufeffn01 tench\n\nn02\tgreat_white  shark\nsea lion a sea lion\nn99 unused\n"
    (tmp_path / "classnames.txt").write_text(text, encoding="utf-8")
    assert read_folder(tmp_path / "train").class_names == ("tench", "great white shark", "a sea lion")
    (tmp_path / "train" / "classnames.txt").write_text("n01 goldfish\nn02 goldfish\nsea lion seal\n")
    assert read_folder(tmp_path / "train").class_names == ("goldfish", "goldfish", "seal")
    assert "cannot tell" in notices(caplog)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("n01 tench\n", "does not name these class folders: n02"),
        ("n01 tench\nn02\n", "line 2 .* has no name"),
        ("n01 tench\nn02 shark\nn01 trout\n", "line 3 .* names a folder twice"),
        ("tench\nshark\n", "no name"),
    ],
)
def test_a_list_that_does_not_fit_is_an_error(text: str, match: str, tmp_path: Path) -> None:
    make(tmp_path, "n01/1.jpg", "n02/1.jpg")
    (tmp_path / "classnames.txt").write_text(text)
    with pytest.raises(UserError, match=match):
        read_folder(tmp_path)


def test_a_list_beside_counts_for_splits_and_otherwise_where_it_fits(tmp_path: Path) -> None:
    make(tmp_path, "val/n01/1.jpg", "val/n02/1.jpg", "variant/n01/1.jpg", "others/cat/1.jpg")
    (tmp_path / "classnames.txt").write_text("n01 tench\n")
    with pytest.raises(UserError, match="n02"):
        read_folder(tmp_path / "val")
    assert read_folder(tmp_path / "variant").class_names == ("tench",)
    assert read_folder(tmp_path / "others").class_names == ("cat",)
    (tmp_path / "classnames.txt").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(UserError, match="UTF-8"):
        read_folder(tmp_path / "val")


def test_folders_that_cannot_be_used_say_what_to_do(tmp_path: Path) -> None:
    for name, match in (("absent", "no such folder"), ("file", "a file"), ("flat", "no class folders")):
        make(tmp_path, "file", "flat/1.jpg")
        with pytest.raises(UserError, match=match):
            read_folder(tmp_path / name)
    with pytest.raises(UserError, match="no images in its class folders"):
        read_folder(make(tmp_path / "empty", "a/x.txt", "b/y.txt"))
    make(tmp_path / "set", "train/a/1.jpg", "test/a/1.jpg")
    with pytest.raises(UserError, match="name one of them"):
        read_folder(tmp_path / "set")


def test_a_class_called_train_is_no_split(tmp_path: Path) -> None:
    make(tmp_path, "train/1.jpg", "car/1.jpg", "Validation/x/1.jpg")
    assert list(split_folders(tmp_path)) == ["val"]
    make(tmp_path, "valid/x/1.jpg")
    with pytest.raises(UserError, match="keep one"):
        split_folders(tmp_path)


@pytest.mark.parametrize("names", [("train", "test"), ("Training", "val", "testing")])
def test_splits_without_class_folders_are_refused(names: tuple[str, ...], tmp_path: Path) -> None:
    make(tmp_path, *(f"{name}/{number}.jpg" for name in names for number in range(3)))
    for read in (read_folder, lambda folder: draw_split(folder, shots=1, seed=0)):
        with pytest.raises(UserError, match=r"images lie directly in .*; put those of each class in a folder") as error:
            read(tmp_path)
        assert all(name in str(error.value) for name in names)


TUNED = (("tench", "great white shark", "crane", "crane"), ("n01", "n02", "n03", "n04"))


def evaluated(folder: Path, *names: str) -> ImageSet:
    return read_folder(make(folder, *(f"{name}/{n}.jpg" for name in names for n in range(2))))


def test_matching_by_folder_by_name_and_as_a_subset(tmp_path: Path) -> None:
    by_folder = match_classes(evaluated(tmp_path / "a", "n03", "n01", "n04"), *TUNED)
    assert by_folder.labels == (0, 0, 2, 2, 3, 3)
    by_name = match_classes(evaluated(tmp_path / "b", "Great_White_Shark", "tench"), *TUNED)
    assert by_name.labels == (0, 0, 1, 1)  # in the order of the tuned classes
    assert [path.parent.name for path in by_name.paths] == ["tench"] * 2 + ["Great_White_Shark"] * 2
    assert (by_name.class_names, by_name.folders) == TUNED
    with_names = evaluated(tmp_path / "c", "x1", "x2")
    (tmp_path / "c" / "classnames.txt").write_text("x1 tench\nx2 Great white shark\n")
    assert match_classes(read_folder(tmp_path / "c"), *TUNED).labels == (0, 0, 1, 1)
    with pytest.raises(UserError, match="x1, x2"):
        match_classes(with_names, *TUNED)


def test_unknown_and_doubled_classes_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not tuned: zebra;") as error:
        match_classes(evaluated(tmp_path / "a", "n01", "zebra"), *TUNED)
    assert str(tmp_path / "a") in str(error.value)
    with pytest.raises(UserError, match="n01 and tench are both"):
        match_classes(evaluated(tmp_path / "b", "n01", "tench"), *TUNED)


def test_names_as_words() -> None:
    assert plain_name("golden_retriever") == "golden retriever"
    assert plain_name("_") == "_"
    assert same_name("Golden_Retriever") == same_name("golden  retriever")
