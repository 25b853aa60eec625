"""The notebooks of examples/ run without a network, and what they were saved with is whole."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from documents import ROOT

NOTEBOOKS = sorted(ROOT.glob("examples/*.ipynb"))


def test_there_are_notebooks_on_both_subjects() -> None:
    assert {path.stem for path in NOTEBOOKS} >= {"photos_to_classifier", "robustness_under_shift"}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_saved_outputs(path: Path) -> None:
    """Every cell was run in order, without errors and notices, and nothing names the machine."""
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"/(tmp|home|Users|root|private)/", text)
    cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert all(one["output_type"] != "error" and one.get("name") != "stderr" for one in outputs)
    assert len(text) < 100_000


def test_notebooks_run() -> None:
    command = [sys.executable, str(ROOT / "docs" / "site" / "execute.py"), "--check"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [line.split(":")[0] for line in done.stdout.splitlines()] == [path.name for path in NOTEBOOKS]
