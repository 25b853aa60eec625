"""Links to folders in class folders: followed once, circles end, no image gets two classes; and what is left out."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from sharpzo_mlx.datasets.folder import read_folder
from sharpzo_mlx.datasets.image_set import ImageSet


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    for name in ("cat/1.jpg", "cat/2.jpg", "dog/1.jpg", "pool/monday/7.jpg", "pool/8.jpg"):
        file = tmp_path / (name if name.startswith("pool") else f"pets/{name}")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    return tmp_path / "pets"


def listed(images: ImageSet) -> dict[str, list[str]]:
    """The images of each class by their names below its folder."""
    found: dict[str, list[str]] = {name: [] for name in images.folders}
    for path, label in zip(images.paths, images.labels, strict=True):
        parts = path.parts
        found[images.folders[label]].append("/".join(parts[parts.index("pets") + 2 :]))
    return found


def test_a_linked_folder_belongs_to_the_class(pets: Path, caplog: pytest.LogCaptureFixture) -> None:
    (pets / "dog" / "more").symlink_to("../../pool", target_is_directory=True)
    assert listed(read_folder(pets))["dog"] == ["1.jpg", "more/8.jpg", "more/monday/7.jpg"]
    assert "2 images lie deeper" in caplog.text


@pytest.mark.parametrize("target", ["..", "../..", "../cat", ".", "../dog"])
def test_circles_and_other_classes_are_left_out_and_said(
    target: str, pets: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (pets / "dog" / "again").symlink_to(target, target_is_directory=True)
    assert listed(read_folder(pets)) == {"cat": ["1.jpg", "2.jpg"], "dog": ["1.jpg"]}
    assert "1 links lead to folders that are read elsewhere" in caplog.text


def test_two_links_and_the_real_folder_count_once(pets: Path) -> None:
    shutil.move(pets.parent / "pool", pets / "dog" / "z")
    for link in ("a", "b"):
        (pets / "dog" / link).symlink_to("z", target_is_directory=True)
    (pets / "dog" / "z" / "up").symlink_to("../z/monday", target_is_directory=True)
    assert listed(read_folder(pets))["dog"] == ["1.jpg", "z/8.jpg", "z/monday/7.jpg"]


def test_files_without_an_ending_are_said(pets: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("IMG_1", "IMG_2", "clip.MOV", "Thumbs.db"):
        (pets / "cat" / name).touch()
    read_folder(pets)
    assert "left out: 2 without an ending, 1 .mov" in caplog.text
    assert ".db" not in caplog.text
