"""Shell completion: the script of each shell, and what the program answers to it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sharpzo_mlx.cli import main

MAIN = "from sharpzo_mlx.cli.main import main; main()"


@pytest.mark.parametrize("shell", ["zsh", "bash", "fish"])
def test_each_shell_gets_its_script(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert "_SHARPZO_MLX_COMPLETE" in script
    assert f"{shell}_complete" in script
    if interpreter := shutil.which(shell):
        assert subprocess.run([interpreter, "-n"], input=script, text=True, timeout=30).returncode == 0


def test_another_shell_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["completion", "tcsh"]) == 2
    assert "'tcsh' is not one of" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "expected"),
    [("sharpzo-mlx up", "upload"), ("sharpzo-mlx upload --licence", "--licence-file"), ("sharpzo-mlx ", "tune")],
)
def test_words_are_completed(words: str, expected: str, tmp_path: Path) -> None:
    """The program is asked as bash asks it."""
    typed = words.split(" ")
    asked = {"_SHARPZO_MLX_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(len(typed) - 1)}
    path = os.pathsep.join(filter(None, sys.path))
    done = subprocess.run(
        [sys.executable, "-c", MAIN],
        cwd=tmp_path,
        env={**os.environ, **asked, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert f"plain,{expected}" in done.stdout.splitlines()
