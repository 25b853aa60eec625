"""Nothing is overwritten: when a file appears in between, on disks without the right calls, and by two at once."""

from __future__ import annotations

import ctypes
import errno
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_sort import files, plan_of, write

import sharpzo_mlx as sz
from sharpzo_mlx.runtime import renames
from sharpzo_mlx.sorting import transfer
from sharpzo_mlx.sorting.journal import Journal


@pytest.fixture(params=["rename", "link", "reserve"])
def disk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Be a disk that renames without overwriting, one that only has hard links, and one that has neither."""

    def no_links(*_: Any, **__: Any) -> None:
        raise OSError(errno.EPERM, "no links here")

    if request.param != "rename":
        monkeypatch.setattr(transfer, "rename_new", lambda *_: False)
        monkeypatch.setattr(transfer, "exchange", lambda *_: False)
    if request.param == "reserve":
        monkeypatch.setattr(os, "link", no_links)
    return str(request.param)


def before_it(monkeypatch: pytest.MonkeyPatch, deed: Callable[[Path], object]) -> None:
    """Let somebody do a deed to the new path after it was announced in the journal, each time it is a new one."""
    plain = Journal.write
    seen: set[str] = set()

    def write_and(self: Journal, record: dict[str, Any], **details: Any) -> None:
        plain(self, record, **details)
        for step in record.get("steps", ()):
            if step["target"] not in seen and len(seen) < 2:
                seen.add(step["target"])
                deed(self.path.parents[1] / step["target"])

    monkeypatch.setattr(Journal, "write", write_and)


@pytest.mark.parametrize("mode", ["copy", "move"])
@pytest.mark.parametrize("content", ["other", "1"])
def test_a_file_that_appears_is_neither_overwritten_nor_undone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, disk: str, mode: Any, content: str
) -> None:
    photos = write(tmp_path / "p", a__jpg="1", a__xmp="x")
    before_it(monkeypatch, lambda path: path.write_text(content))
    done = plan_of(photos, {"a.jpg": "cat"}, tmp_path / "s", mode).apply()
    monkeypatch.undo()
    appeared = {path: text for path, text in files(tmp_path / "s").items() if text == content}
    assert appeared, files(tmp_path / "s")
    if content == "other":
        assert {"1", "x"} <= set(files(tmp_path / "s").values())
    assert done.journal is not None
    assert sz.undo_sort(done.journal).kept == ()
    assert files(photos) == {"a.jpg": "1", "a.xmp": "x"}
    assert set(appeared) <= set(files(tmp_path / "s"))


@pytest.mark.parametrize("mode", ["copy", "move"])
def test_every_kind_of_disk_sorts_and_undoes(tmp_path: Path, disk: str, mode: Any) -> None:
    photos = write(tmp_path / "p", a__jpg="1", b__jpg="2")
    write(tmp_path / "s", cat___a__jpg="0")
    done = plan_of(photos, {"a.jpg": "cat", "b.jpg": "cat"}, tmp_path / "s", mode).apply()
    assert files(tmp_path / "s") == {"cat/a.jpg": "0", "cat/a (2).jpg": "1", "cat/b.jpg": "2"}
    assert done.journal is not None
    sz.undo_sort(done.journal)
    assert files(photos) == {"a.jpg": "1", "b.jpg": "2"}
    assert files(tmp_path / "s") == {"cat/a.jpg": "0"}


def test_a_sidecar_that_is_written_meanwhile_keeps_what_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, disk: str
) -> None:
    photos = write(tmp_path / "p", a__jpg="1")
    plan_of(photos, {"a.jpg": "dog"}, None, "tag").apply()
    other = (photos / "a.jpg.xmp").read_text().replace("dog", "by somebody")
    before_it(monkeypatch, lambda path: path.write_text(other))
    done = plan_of(photos, {"a.jpg": "cat"}, None, "tag").apply()
    assert done.failures == []
    text = (photos / "a.jpg.xmp").read_text()
    assert "by somebody" in text
    assert ">cat<" in text


def test_a_move_to_another_disk_is_compared_before_the_original_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = write(tmp_path / "p", a__jpg="1", b__jpg="2")

    def other_disk(path: Path, free: Path) -> None:
        if path.parent.parent != free.parent.parent or path.parent == photos:
            raise OSError(errno.EXDEV, "another disk", str(free))
        plain(path, free)

    def copy_badly(source: Path, new: Path) -> None:
        new.write_text("X" if source.name == "a.jpg" else source.read_text())

    plain = transfer.place_new
    monkeypatch.setattr(transfer, "place_new", other_disk)
    monkeypatch.setattr(transfer, "copy_new", copy_badly)
    done = plan_of(photos, {"a.jpg": "cat", "b.jpg": "cat"}, tmp_path / "s", "move").apply()
    assert [one.path for one in done.failures] == ["a.jpg"]
    assert files(photos) == {"a.jpg": "1"}
    assert files(tmp_path / "s") == {"cat/b.jpg": "2"}


def test_two_sortings_at_once_into_one_folder(tmp_path: Path) -> None:
    photos = write(tmp_path / "p", **{f"{number}__jpg": str(number) for number in range(20)})
    labels: dict[str, str | None] = {f"{number}.jpg": "cat" for number in range(20)}
    first = plan_of(photos, labels, tmp_path / "s").apply_steps()
    next(first)
    with pytest.raises(sz.UserError, match="another sort is at work there"):
        plan_of(photos, labels, tmp_path / "s").apply()
    list(first)
    assert len(files(tmp_path / "s")) == 20


def test_without_locks_two_at_once_overwrite_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*_: Any) -> None:
        raise OSError(errno.ENOTSUP, "no locks")

    monkeypatch.setattr("sharpzo_mlx.sorting.journal.fcntl.flock", no_locks)
    for place in ("p", "q"):
        write(tmp_path / place, **{f"{number}__jpg": f"{place}{number}" for number in range(30)})
    labels: dict[str, str | None] = {f"{number}.jpg": "cat" for number in range(30)}
    plans = [plan_of(tmp_path / place, labels, tmp_path / "s", "move") for place in ("p", "q")]
    threads = [threading.Thread(target=plan.apply) for plan in plans]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(files(tmp_path / "s").values()) == sorted(f"{p}{n}" for p in "pq" for n in range(30))


def test_a_mac_clones_with_its_own_call_and_compares_names_as_its_disk_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    class Library:
        @staticmethod
        def copyfile(source: bytes, new: bytes, state: None, flags: Any) -> int:
            calls.append(flags.value)
            with open(new, "xb") as file:
                file.write(Path(os.fsdecode(source)).read_bytes())
            return 0

    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: Library)
    monkeypatch.setattr(transfer, "rename_new", lambda *_: False)
    photos = write(tmp_path / "p", a__jpg="1", A__jpg="2")
    plan = plan_of(photos, {"a.jpg": "cat", "A.jpg": "cat"}, tmp_path / "s")
    assert plan.survey().numbered == 1
    plan.apply()
    assert calls == [1 << 24] * 2


def test_rename_new_says_what_stands_in_its_way(tmp_path: Path) -> None:
    write(tmp_path, a="1", b="2")
    if not renames.rename_new(tmp_path / "a", tmp_path / "c"):
        pytest.skip("a disk that cannot")
    with pytest.raises(FileExistsError):
        renames.rename_new(tmp_path / "c", tmp_path / "b")
    assert files(tmp_path) == {"c": "1", "b": "2"}
