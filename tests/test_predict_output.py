"""What `predict` writes to a file or a pipe, what Ctrl-C leaves of it, and how it goes on."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from sharpzo_mlx.cli import main
from sharpzo_mlx.clip.handle import Clip

Capture = pytest.CaptureFixture[str]


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
