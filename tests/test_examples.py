"""The examples in docstrings are run and give what they say; so do the scripts in examples/."""

from __future__ import annotations

import ast
import doctest
import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

import sharpzo_mlx

ROOT = Path(__file__).resolve().parents[1]
SOURCES = {
    "sharpzo_mlx": ROOT / "sharpzo_mlx",
    "sharpzo_mlx.cli": ROOT / "cli",
    "sharpzo_mlx.convert": ROOT / "convert",
}
MODULES = sorted(
    ".".join((prefix, *path.relative_to(folder).with_suffix("").parts)).removesuffix(".__init__")
    for prefix, folder in SOURCES.items()
    for path in folder.rglob("*.py")  # does not enter the two links
)
EXAMPLES = sorted(ROOT.glob("examples/*.py"))


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(name)
    failed, _ = doctest.testmod(module, optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert failed == 0, f"doctests of {name} failed: see the captured output"
    assert list(tmp_path.iterdir()) == [], "a doctest left files behind"


def test_the_package_shows_public_names_alone() -> None:
    assert dir(sharpzo_mlx) == sorted(sharpzo_mlx.__all__)
    assert {"load", "tune", "evaluate", "predict", "compare", "TuneConfig", "UserError"} <= set(dir(sharpzo_mlx))
    with pytest.raises(AttributeError, match="no attribute 'retune'"):
        _ = sharpzo_mlx.retune


def test_type_checkers_see_the_public_names_where_they_are() -> None:
    """The imports for type checkers and the lazy ones are two lists: they name the same things."""
    source = ast.parse(Path(sharpzo_mlx.__file__).read_text(encoding="utf-8"))
    block = next(node for node in source.body if isinstance(node, ast.If))
    typed = {alias.name: node.module for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert typed == {name: getattr(sharpzo_mlx, name).__module__ for name in sharpzo_mlx.__all__}


@pytest.mark.parametrize("script", EXAMPLES, ids=lambda path: path.name)
def test_example_script(script: Path, tmp_path: Path) -> None:
    """Every example runs as it stands, without network and without arguments."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, str(script)], cwd=tmp_path, env=environment, timeout=300)
    assert done.returncode == 0
