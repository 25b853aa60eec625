"""Images and folders with bytes that are not UTF-8 and with emoji, on streams of every encoding: nothing is lost."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ODD = os.fsdecode(b"caf\xe9 \xf0\x9f\x98\x80.png")  # a Latin-1 letter and an emoji in one name


@pytest.fixture
def odd_set(photos: Path, tmp_path: Path) -> Path:
    """Class folders, with an odd name in each, in a folder with an odd name."""
    folder = tmp_path / os.fsdecode(b"set\xe9")
    for name in ("cat", "dog", "barn owl"):
        (folder / name).mkdir(parents=True)
        shutil.copy(photos / name / "1.png", folder / name / ODD)
        shutil.copy(photos / name / "2.png", folder / name / "z.png")
    return folder


def run(encoding: str, *words: str | Path) -> tuple[int, bytes, bytes]:
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    done = subprocess.run(
        [sys.executable, "-c", "from sharpzo_mlx.cli.main import main; main()", *map(str, words)],
        capture_output=True,
        env=environment,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("encoding", ["utf-8:strict", "ascii"])
def test_every_command_takes_them(encoding: str, finished_run: Path, odd_set: Path, tmp_path: Path) -> None:
    copied = shutil.copytree(finished_run, tmp_path / "run")
    for words, rows in (
        (("predict", copied, odd_set, "--recursive"), 6),
        (("predict", copied, odd_set, "--recursive", "--csv"), 7),
        (("predict", copied, odd_set, "--recursive", "--jsonl"), 6),
        (("evaluate", copied, odd_set, "--csv"), 2),
        (("evaluate", copied, odd_set, "--json"), 1),
        (("classes", odd_set, "--json"), 1),
    ):
        code, out, err = run(encoding, *words)
        assert (code, len(out.splitlines())) == (0, rows), err
        assert b"Traceback" not in err
        assert b"caf" in out or words[0] != "predict"
