"""Scripts in the documentation exist and know the options that they are given; none is run: they measure for hours.

Other programs that the documentation names (pip, uv, pipx, curl, jupyter) install or wait for a server. What they talk
to is tested where it is: the wheel in `test_packaging.py`, the server in `test_serving.py`.
"""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

import documents
import pytest
from documents import DOCUMENTS, ROOT, Snippet

from sharpzo_mlx.config import TuneConfig
from sharpzo_mlx.runs.settings_file import read_settings

SCRIPTS = [
    snippet
    for path in DOCUMENTS
    for snippet in documents.commands(path, "python")
    if documents.calls(snippet.code, "python")[0][0] not in ("-", "-c")
]
RUN_ELSEWHERE = {
    "export.md": {"js": "test_export_bundle.py runs it in node", "swift": "needs a Mac: see not-run-on-a-mac.md"}
}


def check(words: list[str]) -> None:
    """Check the words after `python`: a module that can be found, or a script with its options."""
    if words[0] == "-m":
        assert find_spec(words[1]) is not None, words[1]
        return
    script = ROOT / words[0]
    assert script.is_file(), f"no script {words[0]}"
    source = script.read_text(encoding="utf-8")
    options = [word.partition("=")[0] for word in words if word.startswith("--")]
    assert [one for one in options if not re.search(rf"{re.escape(one)}\b", source)] == []


@pytest.mark.parametrize("snippet", SCRIPTS, ids=str)
def test_scripts_and_their_options_exist(snippet: Snippet) -> None:
    for words in documents.calls(snippet.code, "python"):
        check(words)


def test_there_are_scripts() -> None:
    assert {Path(documents.calls(one.code, "python")[0][0]).name for one in SCRIPTS} >= {"heads.py", "cost.py"}


@pytest.mark.parametrize("line", ["python benchmarks/head.py", "python benchmarks/cost.py --clases 1", "python -m no"])
def test_a_wrong_line_would_be_found(line: str) -> None:
    (words,) = documents.calls(line, "python")
    with pytest.raises(AssertionError):
        check(words)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_code_in_other_languages_is_accounted_for(path: Path, tmp_path: Path) -> None:
    """Settings are read; other code is run by a test that names its page, or is marked."""
    for block in documents.blocks(path.read_text(encoding="utf-8")):
        if block.language == "toml":
            settings = tmp_path / "settings.toml"
            settings.write_text("\n".join(block.lines))
            assert TuneConfig().with_settings(read_settings(settings)) != TuneConfig()
        elif block.language not in ("", "python", "text", "json", *documents.SHELL_FENCES):
            assert block.reason or block.language in RUN_ELSEWHERE.get(path.name, {}), f"{path}:{block.line}"
