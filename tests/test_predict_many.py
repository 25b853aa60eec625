"""`predict` on folders, lists and many images: what is read, shown, cached and held in memory."""

from __future__ import annotations

import gc
import io
import os
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import sharpzo_mlx as sz
from sharpzo_mlx.cli import main
from sharpzo_mlx.clip.handle import Clip
from sharpzo_mlx.datasets.listing import ImageListing
from sharpzo_mlx.features.streaming import CHUNK, encode_stream

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def give(monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes], None]:
    """Give the next command line a list on stdin."""
    return lambda content: monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))


def lines_of(capsys: Capture, *words: str | Path) -> tuple[list[str], str]:
    """Run `predict`, which must succeed; return the lines on stdout and what is on stderr."""
    capsys.readouterr()
    assert main.run(["predict", *map(str, words)]) == 0
    out, err = capsys.readouterr()
    return out.splitlines(), err


def names(lines: list[str]) -> list[str]:
    return [Path(line.split(": ")[0]).name for line in lines]


# what is read


def test_folders_and_files_are_read_in_order_and_the_rest_is_said(
    finished_run: Path, album: Path, photos: Path, capsys: Capture
) -> None:
    lines, err = lines_of(capsys, finished_run, photos / "cat" / "11.png", album)
    assert names(lines) == ["11.png", "0.png", "3.png", "6.png"]
    assert err == "note: left out of folders: 1 .mov, 1 folders inside (--recursive reads them)\n"
    lines, err = lines_of(capsys, finished_run, album, "--recursive")
    assert names(lines) == [f"{n}.png" for n in (0, 3, 6, 1, 4, 7, 2, 5, 8)]
    assert err == "note: left out of folders: 1 .mov, 1 .txt\n"


def test_labels_are_the_same_as_one_by_one(finished_run: Path, album: Path, capsys: Capture) -> None:
    lines, _ = lines_of(capsys, finished_run, album, "--top", "2")
    for line in lines:
        assert lines_of(capsys, finished_run, line.split(": ")[0], "--top", "2")[0] == [line]


def test_folders_without_images_are_an_error(finished_run: Path, tmp_path: Path, refused: Callable[..., str]) -> None:
    (tmp_path / "none" / "inside").mkdir(parents=True)
    (tmp_path / "none" / "a.txt").touch()
    line = refused("predict", finished_run, tmp_path / "none")
    assert "no image to predict" in line
    assert "1 .txt, 1 folders inside (--recursive reads them)" in line


def test_links_to_folders_end(album: Path) -> None:
    (album / "more" / "back").symlink_to(album, target_is_directory=True)
    listing = ImageListing([album], recursive=True)
    assert len(list(listing)) == listing.count == 9
    assert "1 links to folders that are read already" in listing.describe_left_out()


def test_links_to_folders_are_followed_once(album: Path, tmp_path: Path) -> None:
    album.rename(tmp_path / "elsewhere")
    (tmp_path / "here").mkdir()
    for name in ("one", "two"):
        (tmp_path / "here" / name).symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    listing = ImageListing([tmp_path / "here"], recursive=True)
    assert len(list(listing)) == 9
    assert "1 links to folders that are read already" in listing.describe_left_out()


def test_folders_of_our_own_are_passed_over(finished_run: Path, album: Path) -> None:
    (album / "run").mkdir()
    (album / "run" / "run.json").touch()
    (album / "run" / "plot.png").touch()
    listing = ImageListing([album], recursive=True)
    assert all(path.parent.name != "run" for path in listing)
    assert "1 folders that this program wrote" in listing.describe_left_out()


@pytest.mark.parametrize("flags", [[], ["--null"], ["-0"]])
def test_a_list_on_stdin(
    flags: list[str], finished_run: Path, album: Path, give: Callable[[bytes], None], capsys: Capture
) -> None:
    listed = [album / "6.png", album / "more", album / "0.png"]
    separator = b"\0" if flags else b"\r\n"
    give(separator.join(os.fsencode(path) for path in listed))
    lines, _ = lines_of(capsys, finished_run, album / "3.png", "-", *flags)
    assert names(lines) == ["3.png", "6.png", "1.png", "4.png", "7.png", "0.png"]


def test_lists_that_are_none_are_refused(
    finished_run: Path, album: Path, give: Callable[[bytes], None], refused: Callable[..., str]
) -> None:
    give(b"a.png\0b.png")
    assert "add --null" in refused("predict", finished_run, "-")
    give(b"x" * 200_000)
    assert "a path of more than" in refused("predict", finished_run, "-")
    give(b"")
    assert "no image to predict" in refused("predict", finished_run, "-")
    assert "--null" in refused("predict", finished_run, album, "--null")


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS has no names that are not UTF-8")
@pytest.mark.parametrize("style", ["--csv", "--jsonl", "--json", None])
def test_names_that_are_not_utf8_stop_nothing(
    style: str | None, finished_run: Path, album: Path, give: Callable[[bytes], None], capsys: Capture
) -> None:
    odd = album / os.fsdecode(b'bad\xff\n,".png')
    odd.write_bytes((album / "0.png").read_bytes())
    give(os.fsencode(album) + b"\0" + os.fsencode(odd))
    capsys.readouterr()
    with pytest.MonkeyPatch.context() as patch:
        out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="surrogateescape")
        patch.setattr(sys, "stdout", out)
        assert main.run(["predict", str(finished_run), "-", "-0", *([style] if style else [])]) == 0
        out.flush()
        written = out.buffer.getvalue()
    assert (b"bad\\udcff" if style in ("--json", "--jsonl") else b"bad\xff") in written
    assert written.count(b".png") == 5


# the bar


class Terminal(io.TextIOWrapper):
    """A stream of bytes that says it is a terminal."""

    def __init__(self) -> None:
        self._bytes = io.BytesIO()
        super().__init__(self._bytes, encoding="utf-8", write_through=True)

    def isatty(self) -> bool:
        return True

    def getvalue(self) -> str:
        return self._bytes.getvalue().decode()


@pytest.mark.parametrize("both", [False, True])
def test_a_bar_is_on_stderr_and_never_among_results(
    both: bool, finished_run: Path, album: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    screen, monkey = Terminal(), monkeypatch
    monkey.setattr(sys, "stderr", screen)
    monkey.setenv("TERM", "xterm")
    if both:
        monkey.setattr(sys, "stdout", screen)
    assert main.run(["predict", str(finished_run), str(album)]) == 0
    shown, out = screen.getvalue(), capsys.readouterr().out
    assert "3/3" in shown
    assert [line for line in (shown if both else out).splitlines() if ".png: " in line]
    assert "images ━" not in out
    assert (".png" in shown) == both


def test_notes_stand_above_the_bar(finished_run: Path, album: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    (album / "3.png").write_bytes(b"no image")
    monkeypatch.chdir(album)
    assert main.run(["predict", str(finished_run), "0.png", "3.png"]) == 0
    (note,) = [line for line in screen.getvalue().splitlines() if "note: 3.png: " in line]
    assert "images" not in note


# the cache


def test_images_seen_before_need_no_tower(
    finished_run: Path, album: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    first, _ = lines_of(capsys, finished_run, album)
    (album / "0.png").rename(album / "another name.png")

    def refuse(self: Clip) -> None:
        raise AssertionError("the image tower was asked for")

    monkeypatch.setattr(Clip, "vision", refuse)
    second, _ = lines_of(capsys, finished_run, album)
    assert sorted(line.split(": ")[1] for line in first) == sorted(line.split(": ")[1] for line in second)
    assert names(second) == ["3.png", "6.png", "another name.png"]


def test_copies_are_encoded_once(tiny_model: Path, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded = []
    encode = Clip.encode_batches

    def count(self: Clip, batches: object, size: int) -> Iterator[object]:
        for batch, features in encode(self, batches, size):  # type: ignore[arg-type]
            encoded.append(len(batch.indices))
            yield batch, features

    monkeypatch.setattr(Clip, "encode_batches", count)
    paths = [photos / "cat" / "0.png", photos / "dog" / "0.png"] * (CHUNK // 2 + 40)
    found = [item for batch in encode_stream(sz.load(tiny_model), paths) for item in batch]
    assert [path for path, _ in found] == paths
    assert sum(encoded) == 2
    np.testing.assert_array_equal(found[0][1], found[-2][1])


# memory


def test_batches_come_before_the_list_ends(finished_run: Path, photos: Path) -> None:
    taken = 0

    def endless() -> Iterator[Path]:
        nonlocal taken
        while True:
            taken += 1
            yield photos / "cat" / "0.png"

    steps = sz.predict_steps(finished_run, endless())
    assert next(steps)[0].labels
    assert taken <= CHUNK
    steps.close()


def test_memory_does_not_grow_with_the_images(finished_run: Path, tmp_path: Path) -> None:
    """After the first chunk nothing more is held: with a path kept of each image, the sum would show it."""
    rng = np.random.default_rng(0)
    (tmp_path / "many").mkdir()
    for number in range(6 * CHUNK):
        Image.fromarray(rng.integers(0, 255, (2, 2, 3), dtype=np.uint8)).save(tmp_path / "many" / f"{number:05}.bmp")
    run, held, done = sz.Run.load(finished_run), [], 0
    tracemalloc.start()
    try:
        for batch in sz.predict_steps(run, [tmp_path / "many"]):
            done += len(batch)
            if done % CHUNK == 0:
                gc.collect()
                held.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    assert done == 6 * CHUNK
    assert len(held) == 6
    # the median, since Python's own table of interned names doubles once in a while
    assert np.median(np.diff(held)) < 60 * CHUNK  # bytes: a path of each image would be 100 or more


def test_what_is_skipped_is_asked_once_and_not_read(finished_run: Path, album: Path) -> None:
    asked: list[Path] = []

    def skip(path: Path) -> bool:
        asked.append(path)
        return path.name != "3.png"

    batches = list(sz.predict_steps(finished_run, [album], skip=skip))
    assert [one.path.name for batch in batches for one in batch] == ["3.png"]
    assert [path.name for path in asked] == ["0.png", "3.png", "6.png"]
    assert list(sz.predict_steps(finished_run, [album], skip=lambda _: True)) == []
