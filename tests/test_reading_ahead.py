"""Files are digested a chunk at a time, with helpers one chunk ahead, and no further once somebody stops."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from sharpzo_mlx.features import digests
from sharpzo_mlx.features.cache import digest
from sharpzo_mlx.features.digests import read_in_chunks
from sharpzo_mlx.features.extract import finish


def make_files(folder: Path, count: int) -> list[Path]:
    """Files whose content is their number."""
    paths = [folder / f"{number:02}.jpg" for number in range(count)]
    for number, path in enumerate(paths):
        path.write_bytes(str(number).encode())
    return paths


@pytest.mark.parametrize("ahead", [False, True])
def test_every_file_is_digested_once_in_chunks(tmp_path: Path, ahead: bool) -> None:
    paths, sizes = make_files(tmp_path, 10), iter([3, 4, 5, 6, 7])
    seen: list[Path] = []
    for reading in read_in_chunks(iter([*paths, tmp_path / "absent.jpg"]), lambda: next(sizes), ahead=ahead):
        failed: dict[int, str] = {}
        found = finish(reading.steps(failed))
        assert sorted([*found, *failed]) == list(range(len(reading.paths)))
        for index, one in found.items():
            assert one == hashlib.sha256(reading.paths[index].read_bytes()).digest()
        assert [reading.paths[index].name for index in failed] == ["absent.jpg"][: len(failed)]
        seen += reading.paths
    assert seen == [*paths, tmp_path / "absent.jpg"]


def test_without_ahead_nothing_beyond_the_chunk_is_taken(tmp_path: Path) -> None:
    files, taken = make_files(tmp_path, 9), list[Path]()

    def listed() -> Iterator[Path]:
        for path in files:
            taken.append(path)
            yield path

    chunks = read_in_chunks(listed(), lambda: 3, ahead=False)
    next(chunks)
    assert taken == files[:3]
    chunks = read_in_chunks(listed(), lambda: 3, ahead=True)
    next(chunks)
    assert taken == [*files[:3], *files[:6]]


def test_the_next_chunk_is_read_while_one_is_in_use_and_not_after_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    second, go_on, read, plain = threading.Event(), threading.Event(), list[str](), digest

    def slow(path: Path) -> bytes:
        read.append(path.name)
        if path.name == "02.jpg":
            second.set()
            assert go_on.wait(20)
        return plain(path)

    monkeypatch.setattr("sharpzo_mlx.features.digests.digest", slow)
    monkeypatch.setattr(digests, "THREADS", 1)
    chunks = read_in_chunks(iter(make_files(tmp_path, 6)), lambda: 2, ahead=True)
    next(chunks)
    assert second.wait(20)  # nobody has asked for it
    chunks.close()  # type: ignore[attr-defined]
    go_on.set()
    assert "03.jpg" not in read


@pytest.mark.parametrize("ahead", [False, True])
def test_files_before_a_listing_fails_are_read(tmp_path: Path, ahead: bool) -> None:
    paths, seen = make_files(tmp_path, 4), list[Path]()

    def listed() -> Iterator[Path]:
        yield from paths
        raise OSError("the disk is gone")

    def use() -> None:
        for reading in read_in_chunks(listed(), lambda: 2, ahead=ahead):
            seen.extend(reading.paths)

    with pytest.raises(OSError, match="the disk is gone"):
        use()
    assert seen == paths
