"""The examples in docstrings are run and give what they say; so do the scripts in examples/."""

from __future__ import annotations

import doctest
import importlib
import os
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import sharpzo_mlx

ROOT = Path(__file__).resolve().parents[1]
MODULES = sorted(item.name for item in pkgutil.walk_packages(sharpzo_mlx.__path__, "sharpzo_mlx."))
EXAMPLES = sorted(ROOT.glob("examples/*.py"))


@pytest.mark.parametrize("name", ["sharpzo_mlx", *MODULES])
def test_docstring_examples(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(name)
    failed, _ = doctest.testmod(module, optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert failed == 0, f"doctests of {name} failed: see the captured output"
    assert list(tmp_path.iterdir()) == [], "a doctest left files behind"


@pytest.mark.parametrize("script", EXAMPLES, ids=lambda path: path.name)
def test_example_script(script: Path, tmp_path: Path) -> None:
    """Every example runs as it stands, without network and without arguments."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    subprocess.run([sys.executable, str(script)], cwd=tmp_path, env=environment, check=True, timeout=300)
