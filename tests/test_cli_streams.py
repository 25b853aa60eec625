"""The command line with closed streams, poor encodings, hostile names, noisy images and a folder that has gone."""

from __future__ import annotations

import csv
import io
import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from painted_data import QUICK, paint_photos, save_random_clip
from pictures import jpeg, picture
from PIL import Image

from sharpzo_mlx.cli import main, progress
from sharpzo_mlx.errors import UserError, escape
from sharpzo_mlx.evaluation.folders import FolderProgress
from sharpzo_mlx.files import cache_folder, expand
from sharpzo_mlx.report.formatting import aligned

Capture = pytest.CaptureFixture[str]
COMMAND = (sys.executable, "-c", "from sharpzo_mlx.cli.main import main; main()")
FORGED = "a\nerror: all images were deleted\x1b[31m.jpg"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("streams")
    photos, model = paint_photos(root / "photos"), save_random_clip(root / "m")
    words = ["tune", str(photos), "--model", str(model), "--output", str(root / "run"), *QUICK]
    assert main.run(words) == 0
    return root / "run"


@pytest.fixture(autouse=True)
def _quiet_logger() -> Iterator[None]:
    """The notices of a command line in this process end with the test."""
    yield
    logging.getLogger("sharpzo_mlx").handlers.clear()


def call(*words: object, shell: str = "", **settings: Any) -> subprocess.CompletedProcess[bytes]:
    """Run the command in a process of its own, through a shell that closes streams."""
    line = ["sh", "-c", f'exec "$@" {shell}', "sh", *COMMAND, *map(str, words)]
    environment = {**os.environ, **settings.pop("env", {})}
    return subprocess.run(line, capture_output=True, env=environment, check=False, **settings)


@pytest.mark.parametrize("shell", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_change_nothing_else(shell: str, run: Path, tmp_path: Path) -> None:
    image = jpeg(tmp_path / "a.jpg")
    done = call("predict", run, image, "--csv", shell=shell)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.startswith(b"" if " >&-" in f" {shell}" else b"path,label,probability")
    broken = call("predict", tmp_path / "none", image, shell=shell)
    assert broken.returncode == 2
    assert broken.stderr.startswith(b"" if "2>&-" in shell else b"error: ")


@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "utf-8"])
def test_every_name_can_be_printed_in_every_encoding(encoding: str, run: Path, tmp_path: Path) -> None:
    names = ["中é😀.jpg"] if sys.platform == "darwin" else ["中é😀.jpg", os.fsdecode(b"bad\xff.jpg")]
    for name in names:
        jpeg(tmp_path / name)
    words = [tmp_path / name for name in names]
    settings = {"PYTHONIOENCODING": encoding}
    lines = call("predict", run, *words, env=settings)
    assert (lines.returncode, lines.stderr, len(lines.stdout.splitlines())) == (0, b"", len(names))
    assert lines.stdout.decode(encoding, "replace").count("jpg: ") == len(names)
    record = call("predict", run, *words, "--json", env=settings)
    paths = [Path(one["path"]).name for one in json.loads(record.stdout.decode(encoding))["predictions"]]
    assert paths == names


def test_names_are_escaped_in_lines_and_exact_in_records(run: Path, tmp_path: Path, capsys: Capture) -> None:
    good, bad = jpeg(tmp_path / FORGED), tmp_path / f"{FORGED}.png"
    bad.write_bytes(b"no image")
    assert main.run(["predict", str(run), str(good), str(bad)]) == 0
    shown = capsys.readouterr()
    assert shown.out.startswith(f"{tmp_path}/a\\nerror: all images were deleted\\x1b[31m.jpg: ")
    assert shown.err.startswith(f"note: {tmp_path}/a\\nerror: ")
    assert (shown.out + shown.err).count("\n") == 2
    assert main.run(["predict", str(run), str(tmp_path / f"{FORGED}.none"), "--model", FORGED]) == 2
    assert "\x1b" not in (error := capsys.readouterr().err)
    assert error.count("\n") == 1
    main.run(["predict", str(run), str(good), "--json"])
    assert json.loads(capsys.readouterr().out)["predictions"][0]["path"] == str(good)
    main.run(["predict", str(run), str(good), "--csv"])
    assert next(csv.DictReader(io.StringIO(capsys.readouterr().out)))["path"] == str(good)


def test_tables_progress_and_notices_escape_names(capsys: Capture) -> None:
    assert aligned([("folder", "images"), (FORGED, "3")]).count("\n") == 1
    stream = io.StringIO()
    progress.Lines(stream).draw(FolderProgress(Path(FORGED), 3, 3))
    assert stream.getvalue().count("\n") == 1
    assert "\x1b" not in stream.getvalue()
    assert escape("Äpfel \u200d 中 \\n") == "Äpfel \u200d 中 \\n"
    assert escape("\u202egpj.exe\x85") == "\\u202egpj.exe\\x85"


def test_decoders_write_nothing_of_their_own(run: Path, tmp_path: Path) -> None:
    """libjpeg and libtiff write to descriptor 2, Pillow warns of large files; what matters names the image."""
    data = bytearray(jpeg(tmp_path / "noise.jpg").read_bytes())
    data[-200:-190] = b"\xff\xd3\xff\x42\xff\xd7\x00\xff\x00\xff"
    (tmp_path / "noise.jpg").write_bytes(data)
    Image.fromarray(picture(300, 300)).save(tmp_path / "cut.tif", compression="tiff_adobe_deflate")
    data = bytearray((tmp_path / "cut.tif").read_bytes())
    data[2000:2400] = bytes(400)
    (tmp_path / "cut.tif").write_bytes(data)
    Image.new("1", (9600, 9600)).save(tmp_path / "large.tif", compression="group4")
    done = call("predict", run, *sorted(tmp_path.iterdir()))
    assert done.returncode == 0
    lines = done.stderr.decode().splitlines()
    assert [line for line in lines if not line.startswith(f"note: {tmp_path}/")] == []
    assert any("cut.tif" in line for line in lines)


def test_a_tilde_is_a_home_or_a_folder_or_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert expand("~/a") == tmp_path / "a"
    with pytest.raises(UserError, match="no user and no folder is called ~nobody-here"):
        expand("~nobody-here/photos")
    Path("~nobody-here").mkdir()
    assert expand("~nobody-here/photos") == Path("~nobody-here/photos")
    for words in (
        ["tune", "~unknown-user"],
        ["tune", ".", "--output", "~unknown-user/r"],
        ["tune", ".", "--model", "~unknown-user"],
        ["compare", "~unknown-user"],
        ["convert", ".", "--output", "~unknown-user"],
    ):
        assert main.run(words) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert error.count("\n") == 1
    monkeypatch.setenv("SHARPZO_MLX_CACHE", "~unknown-user/cache")
    with pytest.raises(UserError, match="~unknown-user"):
        cache_folder()


def test_a_removed_current_folder_is_one_line(run: Path, tmp_path: Path) -> None:
    image = jpeg(tmp_path / "a.jpg")
    (tmp_path / "gone").mkdir()
    leave = 'cd gone && rmdir ../gone && exec "$@"'
    for words, code in ((["predict", run, image], 0), (["convert", "x", "--output", "m"], 2)):
        (tmp_path / "gone").mkdir(exist_ok=True)
        line = ["sh", "-c", leave, "sh", *COMMAND, *map(str, words)]
        done = subprocess.run(line, capture_output=True, cwd=tmp_path, check=False, text=True)
        assert (done.returncode, done.stderr.count("\n")) == (code, code // 2)
    assert done.stderr == "error: the current folder has been removed; go to another one\n"
