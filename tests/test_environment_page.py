"""The page of exit codes and environment variables has all that the code reads, and nothing that it does not."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from test_imports import MODULES

from sharpzo_mlx.cli import main

PAGE = (Path(__file__).parents[1] / "docs" / "reference" / "environment.md").read_text(encoding="utf-8")
READ_BY_OTHERS = {"COLUMNS", "TMPDIR", "OPENBLAS_NUM_THREADS", "HF_TOKEN", "HF_HOME"}
SPELLING = re.compile(r"\b_?(?:SHARPZO_MLX|HF|MLX|OPENBLAS|XDG)_[A-Z0-9_]+\b")
NOT_VARIABLES = {"HF_HUB_CACHE"}  # a name inside the hub's library
Call = Callable[..., str]


def documented(heading: str) -> set[str]:
    section = re.split(r"^## ", PAGE.partition(f"## {heading}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]
    return set(re.findall(r"^\| `([^`]+)` \|", section, re.MULTILINE))


def variables() -> set[str]:
    return documented("Variables of sharpzo-mlx") | documented("Variables of others that are read")


def read_in(path: Path) -> set[str]:
    """The variables that a file reads or sets through os.environ, whose names may be constants of modules."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        key = None
        if isinstance(node, ast.Subscript) and ast.unparse(node.value).endswith("environ"):
            key = node.slice
        elif isinstance(node, ast.Call) and node.args:
            called = ast.unparse(node.func)
            if called.endswith(("environ.get", "environ.setdefault", "environ.pop", "getenv")):
                key = node.args[0]
        if key is not None:
            found.add(_value(key))
    return found


def _constants() -> dict[str, str]:
    """The texts that modules give a name, such as CACHE_VARIABLE."""
    pattern = re.compile(r"^([A-Z0-9_]+)(?:, \w+)? = \"([A-Z_0-9]+)\"", re.MULTILINE)
    return dict(found for path in MODULES.values() for found in pattern.findall(path.read_text(encoding="utf-8")))


def _value(key: ast.expr) -> str:
    """A text, or the value of a constant such as `CACHE_VARIABLE` or `startup.TF32_SWITCH`."""
    if isinstance(key, ast.Constant):
        return str(key.value)
    return _constants()[ast.unparse(key).rpartition(".")[2]]


def test_every_variable_that_is_read_is_on_the_page() -> None:
    read = {variable for path in MODULES.values() for variable in read_in(path)}
    assert {"SHARPZO_MLX_CACHE", "SHARPZO_MLX_DEVICE", "MLX_ENABLE_TF32", "XDG_CACHE_HOME"} <= read
    assert read <= variables()


def test_every_variable_that_is_named_in_the_code_is_on_the_page_and_the_other_way_round() -> None:
    code = "\n".join(path.read_text(encoding="utf-8") for path in MODULES.values())
    assert set(SPELLING.findall(code)) - NOT_VARIABLES <= variables()
    assert variables() - READ_BY_OTHERS <= set(re.findall(r"\w+", code))


def test_the_exit_codes_are_those_of_the_page(refused: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    assert documented("Exit codes") == {"0", "1", str(main.USER_ERROR), str(main.INTERRUPTED)}
    assert main.run(["--version"]) == 0
    refused("predict", "runs/none", "x.png")

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(main.cli, "main", interrupt)
    assert main.run([]) == 130
