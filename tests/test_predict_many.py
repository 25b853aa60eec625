"""`predict` on folders, lists and many images: what is read, written, kept after Ctrl-C, resumed, cached and held."""

from __future__ import annotations

import csv
import gc
import io
import json
import os
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import mlx.core as mx
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
def album(photos: Path, tmp_path: Path) -> Path:
    """Make a folder of nine images in two depths, with other files between them."""
    folder = tmp_path / "album"
    (folder / "more" / "still more").mkdir(parents=True)
    for number, place in enumerate([folder, folder / "more", folder / "more" / "still more"] * 3):
        source = photos / ("cat", "dog", "barn owl")[number % 3] / f"{number}.png"
        (place / f"{number}.png").write_bytes(source.read_bytes())
    (folder / "clip.mov").touch()
    (folder / "more" / "notes.txt").touch()
    (folder / ".hidden").touch()
    return folder


@pytest.fixture
def give(monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes], None]:
    """Give the next command line a list on stdin."""
    return lambda content: monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))


@pytest.fixture
def interrupted(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Press Ctrl-C while the batch after some others is encoded, once."""
    encode = Clip.encode_pixels

    def press_after(batches: int) -> None:
        left = [batches]

        def encode_or_stop(self: Clip, pixels: np.ndarray) -> mx.array:
            left[0] -= 1
            if left[0] == -1:
                raise KeyboardInterrupt
            return encode(self, pixels)

        monkeypatch.setattr(Clip, "encode_pixels", encode_or_stop)
        monkeypatch.setattr(Clip, "image_batch", property(lambda _: 3))

    monkeypatch.setattr("sharpzo_mlx.clip.handle.on_cpu", lambda: True)
    monkeypatch.setattr("sharpzo_mlx.clip.batches.on_cpu", lambda: True)
    return press_after


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


# what is written and kept


def rows_of(path: Path) -> list[dict[str, str]]:
    text = path.read_text(encoding="utf-8", errors="surrogateescape")
    if path.suffix == ".csv":
        return list(csv.DictReader(io.StringIO(text, newline="")))
    return [json.loads(line, parse_float=lambda digits: f"{float(digits):.6f}") for line in text.splitlines()]


@pytest.mark.parametrize("name", ["labels.csv", "labels.jsonl"])
@pytest.mark.parametrize("options", [[], ["--top", "3"], ["--set-coverage", "0.9"], ["--reject", "0.2"]])
def test_ctrl_c_keeps_rows_and_resume_adds_the_others(
    name: str,
    options: list[str],
    finished_run: Path,
    album: Path,
    tmp_path: Path,
    interrupted: Callable[[int], None],
    capsys: Capture,
) -> None:
    output = tmp_path / name
    words = ["predict", str(finished_run), str(album), "--recursive", "--output", str(output), *options]
    interrupted(2)
    assert main.run(words) == 130
    assert "--resume" in capsys.readouterr().err
    assert len({row["path"] for row in rows_of(output)}) == 6
    assert main.run([*words, "--resume"]) == 0
    assert f"{output}: 3 images written, 6 were there already" in capsys.readouterr().out
    whole = tmp_path / f"whole{output.suffix}"
    assert main.run([*words[:5], str(whole), *options]) == 0
    assert rows_of(whole) == rows_of(output)


@pytest.mark.parametrize("style", [[], ["--csv"], ["--jsonl"]])
def test_ctrl_c_keeps_what_is_on_stdout(
    style: list[str], finished_run: Path, album: Path, interrupted: Callable[[int], None], capsys: Capture
) -> None:
    interrupted(1)
    assert main.run(["predict", str(finished_run), str(album), "--recursive", *style]) == 130
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 + (style == ["--csv"])
    assert all(".png" in line for line in lines[-3:])


@pytest.mark.parametrize("name", ["labels.csv", "labels.jsonl"])
def test_every_half_file_is_gone_on_with(name: str, finished_run: Path, album: Path, tmp_path: Path) -> None:
    """Cut off at every byte of the last rows, a file becomes whole again, also with ends of lines in a name."""
    (album / "6.png").rename(album / '6 "\r\n, last.png')
    output = tmp_path / name
    words = ["predict", str(finished_run), str(album), "--output", str(output), "--resume"]
    assert main.run(words) == 0
    whole = output.read_bytes()
    for size in {0, 1, 20, *range(len(whole) - 100, len(whole), 7), len(whole)}:
        output.write_bytes(whole[:size])
        assert main.run(words) == 0
        assert output.read_bytes() == whole, size


def test_rows_of_one_image_are_written_together_again(finished_run: Path, album: Path, tmp_path: Path) -> None:
    output = tmp_path / "labels.csv"
    words = ["predict", str(finished_run), str(album), "--top", "3", "--output", str(output), "--resume"]
    assert main.run(words) == 0
    whole = output.read_bytes()
    output.write_bytes(whole[: whole.rindex(b"\n", 0, -1) + 8])
    assert main.run(words) == 0
    assert output.read_bytes() == whole


def test_files_that_are_not_ours_are_left_as_they_are(
    finished_run: Path, album: Path, tmp_path: Path, refused: Callable[..., str]
) -> None:
    for name, content, reason in (
        ("a.csv", "name,age\nx,3\n", "line 1"),
        ("b.csv", "name", "line 1"),
        ("c.csv", "path,label,probability,error,rejected\nx,3\n", "line 2"),
        ("d.jsonl", '{"name": 1}\n', "line 1"),
        ("e.jsonl", "a diary", "the last line"),
    ):
        (tmp_path / name).write_text(content)
        line = refused("predict", finished_run, album, "--output", tmp_path / name, "--resume")
        assert f"{tmp_path / name}: " in line
        assert reason in line
        assert "add --resume" in refused("predict", finished_run, album, "--output", tmp_path / name)
        assert (tmp_path / name).read_text() == content


def test_what_is_no_file_is_not_gone_on_with(
    finished_run: Path, album: Path, tmp_path: Path, refused: Callable[..., str]
) -> None:
    os.mkfifo(tmp_path / "pipe.csv")
    (tmp_path / "folder.csv").mkdir()
    for name in ("pipe.csv", "folder.csv"):
        assert name in refused("predict", finished_run, album, "--output", tmp_path / name, "--resume")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--resume"], "--output"),
        (["--output", "labels.txt"], ".csv or .jsonl"),
        (["--output", "labels.csv", "--json"], "--jsonl"),
        (["--csv", "--jsonl"], "give one of them"),
        (["--output", "labels.csv", "--reject", "7"], "reject"),
    ],
)
def test_options_that_make_no_sense_write_nothing(
    options: list[str],
    reason: str,
    finished_run: Path,
    album: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    refused: Callable[..., str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert reason in refused("predict", finished_run, album, *options)
    assert list(tmp_path.iterdir()) == [album]


def test_output_takes_the_style_that_is_asked(finished_run: Path, album: Path, tmp_path: Path) -> None:
    (album / "3.png").write_bytes(b"no image")
    output = tmp_path / "labels"
    assert main.run(["predict", str(finished_run), str(album), "--output", str(output), "--jsonl"]) == 0
    records = [json.loads(line) for line in output.read_text().splitlines()]
    assert [bool(record["error"]) for record in records] == [False, True, False]


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
    assert held[5] < held[1] + 60 * 4 * CHUNK  # bytes: a path of each image would be 100 or more


def test_what_is_skipped_is_asked_once_and_not_read(finished_run: Path, album: Path) -> None:
    asked: list[Path] = []

    def skip(path: Path) -> bool:
        asked.append(path)
        return path.name != "3.png"

    batches = list(sz.predict_steps(finished_run, [album], skip=skip))
    assert [one.path.name for batch in batches for one in batch] == ["3.png"]
    assert [path.name for path in asked] == ["0.png", "3.png", "6.png"]
    assert list(sz.predict_steps(finished_run, [album], skip=lambda _: True)) == []
