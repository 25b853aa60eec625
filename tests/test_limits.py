"""Little memory, few files, no home, other modes and many images: the usual result, or one line."""

from __future__ import annotations

import io
import json
import os
import resource
import shutil
import stat
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import pytest
from PIL import Image

from sharpzo_mlx.cli import main

PROGRAM = "import sys; from sharpzo_mlx.cli.main import run; sys.exit(run(sys.argv[1:]))"
LIMITED = "import resource; resource.setrlimit(resource.{0}, ({1}, {1}))\n"
SHORT = ["--shots", "2", "--views", "1", "--generations", "1", "--steps", "1", "--no-report"]
SMALL_SPACE = ["--set", "space.dimension=8", "--set", "stage1.population=6"]


def start(
    *words: str | Path,
    before: str = "",
    flags: tuple[str, ...] = (),
    settings: Mapping[str, str | None] = MappingProxyType({}),
) -> subprocess.CompletedProcess[str]:
    """Run a command line in a new process; settings are environment variables, None takes one away."""
    environment = {name: value for name, value in {**os.environ, **settings}.items() if value is not None}
    command = [sys.executable, *flags, "-c", before + PROGRAM, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def is_one_line(done: subprocess.CompletedProcess[str]) -> bool:
    return done.returncode == 2 and done.stderr.count("error: ") == 1 and "Traceback" not in done.stderr


@pytest.fixture
def run(finished_run: Path, tmp_path: Path) -> Path:
    return shutil.copytree(finished_run, tmp_path / "run")


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS does not keep to this limit")
@pytest.mark.parametrize("megabytes", [600, 1500])
def test_little_memory(megabytes: int, run: Path, photos: Path) -> None:
    before = "import sharpzo_mlx.cli.predict\n" + LIMITED.format("RLIMIT_AS", megabytes << 20)
    done = start("predict", run, photos / "cat" / "0.png", before=before)
    assert done.returncode == 0 or is_one_line(done), done.stderr


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS does not keep to this limit")
def test_a_prompt_that_claims_a_terabyte(run: Path, photos: Path) -> None:
    with (run / "prompt.safetensors").open("r+b") as file:
        file.truncate(1 << 40)
    done = start("evaluate", run, photos, before=LIMITED.format("RLIMIT_AS", 12 << 30))
    assert is_one_line(done), done.stderr
    assert "prompt.safetensors" in done.stderr


def test_memory_that_the_system_refuses_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(main.cli, "main", fail)
    assert main.run(["tune", "photos"]) == 2
    assert capsys.readouterr().err.startswith("error: the system gives no more memory; ")


def test_64_open_files(tiny_model: Path, photos: Path, tmp_path: Path) -> None:
    before = LIMITED.format("RLIMIT_NOFILE", 64)
    out = tmp_path / "r"
    done = start("tune", photos, "--model", tiny_model, "--output", out, *SHORT, *SMALL_SPACE, before=before)
    assert done.returncode == 0, done.stderr
    done = start("evaluate", out, photos, before=before)
    assert done.returncode == 0, done.stderr
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 64


@pytest.mark.parametrize("missing", ["HOME", "TMPDIR", "home that is not there", "temporary folder that is not there"])
def test_without_a_home_or_a_temporary_folder(missing: str, run: Path, photos: Path, tmp_path: Path) -> None:
    nowhere = str(tmp_path / "nowhere")
    every: dict[str, dict[str, str | None]] = {
        "HOME": {"HOME": None, "TMPDIR": None},
        "TMPDIR": {"TMPDIR": None},
        "home that is not there": {"HOME": nowhere, "XDG_CACHE_HOME": None},
        "temporary folder that is not there": {"TMPDIR": nowhere},
    }
    settings = every[missing]
    done = start("evaluate", run, photos, settings=settings)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "nowhere").exists()


def test_the_mode_of_new_files_is_the_users(tiny_model: Path, photos: Path, tmp_path: Path) -> None:
    before = "import os; os.umask(0o077)\n"
    out = tmp_path / "r"
    done = start("tune", photos, "--model", tiny_model, "--output", out, *SHORT, *SMALL_SPACE, before=before)
    assert done.returncode == 0, done.stderr
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (out, *out.iterdir())}
    assert set(modes.values()) == {0o700, 0o600}, modes


@pytest.mark.parametrize("flag", ["-O", "-OO"])
def test_without_assertions_and_docstrings(
    flag: str, run: Path, tiny_model: Path, photos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "r"
    done = start("tune", photos, "--model", tiny_model, "--output", out, *SHORT, *SMALL_SPACE, flags=(flag,))
    assert done.returncode == 0, done.stderr
    results = [start("predict", out, photos / "cat" / "0.png", "--json", flags=flags) for flags in ((), (flag,))]
    assert results[0].stdout == results[1].stdout
    assert start("tune", "--help", flags=(flag,)).returncode == 0


def test_names_with_line_breaks(tiny_model: Path, photos: Path, tmp_path: Path) -> None:
    data = tmp_path / "two\nlines"
    for name, new in (("cat", "a\ncat"), ("dog", "\x1b[31mdog")):
        shutil.copytree(photos / name, data / new)
    out = tmp_path / "r"
    done = start("tune", data, "--model", tiny_model, "--output", out, *SHORT[:-1], *SMALL_SPACE)
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout + done.stderr
    done = start("evaluate", out, data, "--json")
    assert json.loads(done.stdout)
    assert (out / "report.html").read_text().rstrip().endswith("</html>")


def paint(folder: Path, classes: int, each: int) -> None:
    """Make images of 2 x 2 pixels, all different, in many classes."""
    content = io.BytesIO()
    Image.new("RGB", (2, 2)).save(content, "bmp")
    whole = content.getvalue()
    for label in range(classes):
        (folder / f"class {label}").mkdir(parents=True)
        for number in range(each):
            colour = (label * each + number).to_bytes(3, "little")
            (folder / f"class {label}" / f"{number}.bmp").write_bytes(whole[:-3] + colour)


@pytest.mark.parametrize(("classes", "each"), [(4, 5000), (3000, 1)])
def test_many_images_and_many_classes(classes: int, each: int, tiny_model: Path, tmp_path: Path) -> None:
    data, out = tmp_path / "data", tmp_path / "r"
    paint(data / "train", classes, each)
    for split in ("val", "test"):
        paint(data / split, min(classes, 100), 1)
    settings = ["--shots", "1", "--head", "none", "--generations", "1", "--steps", "1", "--no-report", *SMALL_SPACE]
    peak = (
        "import atexit; from sharpzo_mlx.runtime.memory import process_peak; "
        "atexit.register(lambda: print(process_peak()))\n"
    )
    done = start("tune", data, "--model", tiny_model, "--output", out, *settings, before=peak)
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout.split()[-1]) < 1 << 30
    assert len(json.loads((out / "run.json").read_text())["images"]["train"]) == classes
