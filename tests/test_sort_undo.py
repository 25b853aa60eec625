"""`undo_sort`: changed files are kept and named, nothing is overwritten, and journals of strangers are checked."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from sort_trees import XMP
from test_sort import files, plan_of, write

import sharpzo_mlx as sz


@pytest.fixture
def sort(tmp_path: Path) -> Callable[..., tuple[Path, Path, str]]:
    """Sort two images, one with a sidecar, and return the folders and the journal."""

    def act(mode: Any) -> tuple[Path, Path, str]:
        photos = write(tmp_path / "p", a__jpg="1", a__xmp="x", b__jpg="2")
        done = plan_of(photos, {"a.jpg": "cat", "b.jpg": "dog"}, tmp_path / "s", mode).apply()
        assert done.journal is not None
        return photos, tmp_path / "s", done.journal

    return act


@pytest.mark.parametrize("mode", ["copy", "move", "link", "symlink"])
def test_all_goes_back_and_a_second_time_does_nothing(sort: Any, mode: Any) -> None:
    photos, into, journal = sort(mode)
    result = sz.undo_sort(journal)
    assert (result.files, result.kept, result.before) == (3, (), None)
    assert files(photos) == {"a.jpg": "1", "a.xmp": "x", "b.jpg": "2"}
    assert [path.name for path in into.iterdir()] == [".sharpzo-sort"]
    write(into, cat___a__jpg="1")  # the same file, put there by somebody
    assert sz.undo_sort(journal).before is not None
    assert files(into) == {"cat/a.jpg": "1"}


def test_a_changed_copy_and_the_copy_of_a_removed_original_are_kept(sort: Any) -> None:
    photos, into, journal = sort("copy")
    (into / "cat" / "a.jpg").write_text("changed")
    (photos / "b.jpg").unlink()
    kept = {Path(one.path).name: one.reason for one in sz.undo_sort(journal).kept}
    assert kept == {"a.jpg": "was changed since", "b.jpg": "its original is gone"}
    assert files(into) == {"cat/a.jpg": "changed", "dog/b.jpg": "2"}
    (photos / "b.jpg").write_text("2")
    assert [Path(one.path).name for one in sz.undo_sort(journal).kept] == ["a.jpg"]
    assert files(into) == {"cat/a.jpg": "changed"}


@pytest.mark.parametrize("mode", ["copy", "link"])
def test_what_has_lost_its_original_to_another_file_is_kept(sort: Any, mode: Any) -> None:
    photos, into, journal = sort(mode)
    (photos / "b.jpg").unlink()
    (photos / "b.jpg").write_text("another picture")
    assert [one.reason for one in sz.undo_sort(journal).kept] == ["its original has another content by now"]
    assert files(into) == {"dog/b.jpg": "2"}
    assert (photos / "b.jpg").read_text() == "another picture"


def test_a_link_to_the_copy_in_place_of_the_original_does_not_lose_it(sort: Any) -> None:
    photos, into, journal = sort("copy")
    (photos / "b.jpg").unlink()
    (photos / "b.jpg").symlink_to(into / "dog" / "b.jpg")
    assert [one.reason for one in sz.undo_sort(journal).kept] == ["its original is gone"]
    assert (photos / "b.jpg").read_text() == "2"


def test_a_moved_file_goes_back_with_its_changes_but_over_no_new_file(sort: Any) -> None:
    photos, into, journal = sort("move")
    (into / "cat" / "a.jpg").write_text("edited")
    write(photos, b__jpg="new")
    kept = sz.undo_sort(journal).kept
    assert [(Path(one.path).name, one.reason) for one in kept] == [("b.jpg", "a new file has its old name")]
    assert files(photos) == {"a.jpg": "edited", "a.xmp": "x", "b.jpg": "new"}
    assert files(into) == {"dog/b.jpg": "2"}


def test_a_moved_file_that_is_gone_is_named(sort: Any) -> None:
    photos, into, journal = sort("move")
    (into / "dog" / "b.jpg").unlink()
    assert [one.reason for one in sz.undo_sort(journal).kept] == ["is gone, moved or removed since"]
    assert "a.jpg" in files(photos)


def test_folders_that_were_there_or_hold_other_files_stay(tmp_path: Path) -> None:
    photos = write(tmp_path / "p", a__jpg="1", b__jpg="2", c__jpg="3")
    (tmp_path / "s" / "cat").mkdir(parents=True)
    done = plan_of(photos, {"a.jpg": "cat", "b.jpg": "dog", "c.jpg": "owl"}, tmp_path / "s").apply()
    write(tmp_path / "s", dog___mine__txt="mine")
    assert done.journal is not None
    sz.undo_sort(done.journal)
    assert sorted(path.name for path in (tmp_path / "s").iterdir()) == [".sharpzo-sort", "cat", "dog"]


def test_the_sorted_folder_may_have_been_moved(sort: Any, tmp_path: Path) -> None:
    photos, into, journal = sort("move")
    into.rename(tmp_path / "elsewhere")
    sz.undo_sort(tmp_path / "elsewhere" / ".sharpzo-sort" / Path(journal).name)
    assert files(photos) == {"a.jpg": "1", "a.xmp": "x", "b.jpg": "2"}


def test_a_half_written_last_line_is_left_out(sort: Any) -> None:
    photos, _, journal = sort("move")
    with open(journal, "a") as file:
        file.write('{"group": 9, "steps": [{"act": "mo')
    assert sz.undo_sort(journal).kept == ()
    assert files(photos) == {"a.jpg": "1", "a.xmp": "x", "b.jpg": "2"}
    assert "undone" in json.loads(Path(journal).read_text().splitlines()[-1])


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("nonsense", "line 2: no JSON"),
        ('{"group": 1, "steps": [{"act": "move", "source": "../a", "target": "b"}]}', "line 2: names a path outside"),
        ('{"group": 1, "steps": [{"act": "move", "source": "a", "target": "/etc/b"}]}', "line 2: names a path outside"),
        ('{"group": 1, "steps": [{"act": "burn", "source": "a", "target": "b"}]}', "line 2"),
        ('{"make": "a/../../b"}', "line 2: names a path outside"),
        ('{"burn": 1}', "line 2: says nothing"),
    ],
)
def test_a_journal_with_a_wrong_line_is_refused(sort: Any, line: str, words: str) -> None:
    _, into, journal = sort("copy")
    before = files(into)
    header, *_ = Path(journal).read_text().splitlines()
    Path(journal).write_text(f"{header}\n{line}\n")
    with pytest.raises(sz.UserError, match=words):
        sz.undo_sort(journal)
    assert files(into) == before


@pytest.mark.parametrize("mode", ["copy", "move", "tag"])
def test_a_damaged_journal_loses_nothing(tmp_path: Path, mode: Any) -> None:
    for seed in range(50):
        rng = random.Random(seed)
        place = tmp_path / str(seed)
        photos = write(place / "p", a__jpg=f"{seed} 1", a__xmp=XMP.decode() % seed, b__jpg=f"{seed} 2", c__jpg="")
        contents = set(files(photos).values())
        into = None if mode == "tag" else place / "s"
        journal = plan_of(photos, {"a.jpg": "cat", "b.jpg": "dog", "c.jpg": None}, into, mode).apply().journal
        assert journal is not None
        damaged = bytearray(Path(journal).read_bytes())
        for _ in range(rng.choice((1, 2, 8))):
            damaged[rng.randrange(len(damaged))] = rng.choice((rng.randrange(256), 0x22, 0x2E, 0x2F, 0x30))
        Path(journal).write_bytes(damaged)
        with suppress(sz.UserError):
            sz.undo_sort(journal)
        left = set(files(tmp_path).values())
        assert {f"{seed} 1", f"{seed} 2", ""} <= left
        assert mode == "tag" or contents <= left


def test_what_is_no_journal_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text("{}\n")
    for path in (tmp_path / "x.jsonl", tmp_path, tmp_path / "none.jsonl", Path("/dev/zero")):
        with pytest.raises(sz.UserError, match="no journal of a sorting"):
            sz.undo_sort(path)
