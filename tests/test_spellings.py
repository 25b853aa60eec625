"""One folder under several spellings: links, hard links, and the case that macOS folds (pretended)."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import sharpzo_mlx as sz
from sharpzo_mlx.comparison.sources import name_folders
from sharpzo_mlx.evaluation.overlap import UsedImages
from sharpzo_mlx.evaluation.reports import read_evaluations
from sharpzo_mlx.files import identify, is_inside
from sharpzo_mlx.runs.run import Run
from sharpzo_mlx.tuning.pipeline import tune


@pytest.fixture
def respell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Path, str], Path]:
    """Give a folder a second spelling that no resolving of links tells, as a disk that folds case does."""

    def make(folder: Path, spelling: str) -> Path:
        (tmp_path / spelling).symlink_to(folder)
        return tmp_path / spelling

    monkeypatch.setattr(os.path, "realpath", lambda path, **_: os.path.abspath(path))
    return make


@pytest.fixture
def folding(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `os.stat` find a path in any case, and keep the case that was typed in every resolved path."""
    stat = os.stat

    def fold(path: Any, **details: Any) -> os.stat_result:
        try:
            return stat(path, **details)
        except FileNotFoundError:
            place = Path("/")
            for part in Path(path).parts[1:]:
                place /= next((name for name in os.listdir(place) if name.casefold() == part.casefold()), part)
            return stat(place, **details)

    monkeypatch.setattr(os, "stat", fold)


@pytest.fixture
def run(finished_run: Path, tmp_path: Path) -> Run:
    return Run.load(shutil.copytree(finished_run, tmp_path / "run"))


def test_the_case_that_a_disk_folds_is_no_difference(folding: None, tmp_path: Path) -> None:
    (tmp_path / "photos" / "test").mkdir(parents=True)
    (tmp_path / "photos" / "1.jpg").write_bytes(b"x")
    (tmp_path / "other").mkdir()
    assert is_inside(tmp_path / "PHOTOS" / "Test", tmp_path / "photos")
    assert is_inside(tmp_path / "photos", tmp_path / "Photos")
    assert not is_inside(tmp_path / "other", tmp_path / "photos")
    assert not is_inside(tmp_path, tmp_path / "photos")
    assert UsedImages("x", [tmp_path / "photos" / "1.jpg"]).count([tmp_path / "Photos" / "1.JPG"]) == 1


def test_hard_and_symbolic_links_are_the_file_and_copies_are_not(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    (tmp_path / "a" / "1.jpg").write_bytes(b"x")
    os.link(tmp_path / "a" / "1.jpg", tmp_path / "b" / "hard.jpg")
    (tmp_path / "b" / "soft.jpg").symlink_to(tmp_path / "a" / "1.jpg")
    shutil.copy(tmp_path / "a" / "1.jpg", tmp_path / "b" / "copy.jpg")
    used = UsedImages("x", [tmp_path / "b" / ".." / "a" / "1.jpg"])
    counts = [used.count([tmp_path / "b" / f"{name}.jpg"]) for name in ("hard", "soft", "copy", "gone")]
    assert counts == [1, 1, 0, 0]


def test_what_is_gone_is_known_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    assert identify(tmp_path / "gone") == identify(tmp_path / "link") == str(tmp_path / "gone")
    assert is_inside(tmp_path / "gone" / "test", tmp_path / "link")


def test_a_disk_without_numbers_goes_by_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    stat = os.stat
    monkeypatch.setattr(os, "stat", lambda path, **d: os.stat_result([*stat(path, **d)[:1], 0, *stat(path, **d)[2:]]))
    assert identify(tmp_path / "a") != identify(tmp_path / "b")


def test_a_runs_own_images_are_its_own_under_another_spelling(
    run: Run, photos: Path, respell: Callable[[Path, str], Path], caplog: pytest.LogCaptureFixture
) -> None:
    """Its folder counts as in distribution, and its training images as seen."""
    again = respell(photos, "PHOTOS")
    result = sz.evaluate(run, [again]).folders[0]
    seen = len(run.record.images.train) + len(run.record.images.val)
    assert result.in_distribution
    assert result.seen == seen > 0
    assert f"was trained or validated on {seen} of these {result.images} images" in caplog.text


def test_evaluations_under_two_spellings_are_one(run: Run, photos: Path, respell: Callable[[Path, str], Path]) -> None:
    for folder in (photos, respell(photos, "PHOTOS")):
        sz.evaluate(run, [folder])
    assert [Path(entry.path).name for entry in read_evaluations(run)] == ["PHOTOS"]  # the last


def test_a_finished_run_knows_its_data_under_another_spelling(
    run: Run,
    tiny_model: Path,
    photos: Path,
    respell: Callable[[Path, str], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without reading the images, as it must where a copy is given."""
    monkeypatch.setattr("sharpzo_mlx.runs.resume.content_of", lambda paths: pytest.fail("the images were read"))
    again = tune(sz.load(tiny_model), respell(photos, "PHOTOS"), output=run.folder, resume=True)
    assert again.results == run.results


def test_compare_takes_a_folder_once(photos: Path, respell: Callable[[Path, str], Path]) -> None:
    assert list(name_folders([photos, respell(photos, "PHOTOS"), photos]).values()) == [photos]
