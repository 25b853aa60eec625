"""Disks that are full or read-only stop a sorting with one line, leave nothing half-written, and it goes on afterwards.

A small tmpfs is such a disk where this process may mount one; elsewhere only the pretended disks are tried."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sort_trees import parts_left, snapshot
from test_sort import files, plan_of, write

import sharpzo_mlx as sz
from sharpzo_mlx.sorting import transfer
from sharpzo_mlx.sorting.journal import Journal

LABELS = {f"{number}.jpg": "cat" for number in range(6)}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Make six files of 100 kB with sidecars."""
    folder = write(tmp_path / "p", **{f"{number}__xmp": f"x{number}" for number in range(6)})
    for number in range(6):
        (folder / f"{number}.jpg").write_bytes(bytes([number]) * 100_000)
    return folder


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a small disk; skip where that is not possible."""
    place = tmp_path / "disk"
    place.mkdir()
    if sys.platform != "linux" or os.geteuid() or shutil.which("mount") is None:
        pytest.skip("no disk can be mounted here")
    words = ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(place)]
    if subprocess.run(words, capture_output=True, check=False).returncode:
        pytest.skip("no disk can be mounted here")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def remount(place: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(place)], check=True)


@pytest.mark.parametrize("mode", ["copy", "move"])
def test_a_full_disk(photos: Path, disk: Path, mode: Any) -> None:
    before = snapshot(photos)
    plan = plan_of(photos, LABELS, disk / "s", mode)
    with pytest.raises(
        sz.UserError, match=r"no space left on device; [123] of 6 images are done; make room, and"
    ) as found:
        plan.apply()
    line = str(found.value)
    assert "sort --undo" in line
    assert parts_left(photos, disk) == []
    placed = sorted((disk / "s").rglob("*.jpg"))
    assert placed
    assert all(path.stat().st_size == 100_000 and path.with_suffix(".xmp").exists() for path in placed)
    assert set(before.values()) <= set(snapshot(photos, disk / "s").values())
    remount(disk, "size=4m")
    done = plan_of(photos, {name: "cat" for name in LABELS if (photos / name).exists()}, disk / "s", mode).apply()
    assert done.failures == []
    assert len(list((disk / "s").rglob("*.jpg"))) == 6
    for journal in sorted((disk / "s" / ".sharpzo-sort").glob("*.jsonl"), reverse=True):
        assert sz.undo_sort(journal).kept == ()
    assert snapshot(photos) == before
    assert files(disk / "s") == {}


def test_a_read_only_disk(photos: Path, disk: Path) -> None:
    remount(disk, "ro")
    with pytest.raises(sz.UserError, match=r"read-only file system; 0 of 6 images are done; let this user write there"):
        plan_of(photos, LABELS, disk / "s").apply()
    remount(disk, "rw")
    assert list(disk.iterdir()) == []
    done = plan_of(photos, {"0.jpg": "cat"}, disk / "s").apply()
    assert done.journal is not None
    remount(disk, "ro")
    with pytest.raises(sz.UserError, match="read-only file system; allow it or make room"):
        sz.undo_sort(done.journal)
    remount(disk, "rw")
    assert sz.undo_sort(done.journal).files == 2


def test_moving_out_of_a_read_only_disk_leaves_all(photos: Path, disk: Path, tmp_path: Path) -> None:
    shutil.copyfile(photos / "0.jpg", disk / "0.jpg")
    plan = plan_of(disk, {"0.jpg": "cat"}, tmp_path / "s", "move")
    remount(disk, "ro")
    with pytest.raises(sz.UserError, match="read-only file system; 0 of 1 images are done"):
        plan.apply()
    assert files(tmp_path / "s") == {}
    assert (disk / "0.jpg").stat().st_size == 100_000


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EIO])
@pytest.mark.parametrize("call", ["copy_new", "place_new"])
def test_an_error_of_the_disk_takes_back_the_files_that_it_struck(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, call: str
) -> None:
    plain, left = getattr(transfer, call), [6]

    def fail(one: Path, other: Path) -> None:
        left[0] -= 1
        if left[0] == 0:
            raise OSError(number, os.strerror(number), str(other))
        plain(one, other)

    monkeypatch.setattr(transfer, call, fail)
    with pytest.raises(sz.UserError, match="2 of 6 images are done"):
        plan_of(photos, LABELS, tmp_path / "s").apply()
    monkeypatch.undo()
    assert sorted(path.name for path in (tmp_path / "s" / "cat").iterdir()) == ["0.jpg", "0.xmp", "1.jpg", "1.xmp"]


def test_a_disk_without_room_for_the_journal_gets_nothing(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Journal, "write", fail)
    with pytest.raises(sz.UserError, match="no space left on device; 0 of 6 images are done"):
        plan_of(photos, LABELS, tmp_path / "s" / "in").apply()
    assert not (tmp_path / "s").exists()


def test_a_disk_without_hard_links_says_what_else_there_is(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), "x")

    monkeypatch.setattr(os, "link", fail)
    with pytest.raises(sz.UserError, match="leave out --link, or give --symlink"):
        plan_of(photos, LABELS, tmp_path / "s", "link").apply()
    assert files(tmp_path / "s") == {}
