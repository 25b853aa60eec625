"""The documents: their links resolve, the architecture page describes every folder, and its picture is current."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from documents import DOCUMENTS, ROOT

from sharpzo_mlx.cli import commands_page

ARCHITECTURE = ROOT / "docs" / "how" / "architecture.md"
INDEX = ROOT / "docs" / "README.md"
TOP_LEVEL = sorted(
    path.name
    for path in (ROOT / "sharpzo_mlx").iterdir()
    if (path / "__init__.py").is_file() or (path.suffix == ".py" and path.name != "__init__.py")
)


def prose(path: Path) -> str:
    """Return the text of a document without its code blocks."""
    text = re.sub(r"^```.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"^    .*$", "", text, flags=re.MULTILINE)


def links(path: Path) -> list[str]:
    """Return the targets of a document's links and pictures that lie in this repository."""
    return [target for target in re.findall(r"\]\(([^)\s]+)\)", prose(path)) if "://" not in target]


def anchors(path: Path) -> set[str]:
    """Return the anchors of a document's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", prose(path), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_resolve(path: Path) -> None:
    broken = []
    for target in links(path):
        name, _, anchor = target.partition("#")
        linked = (path.parent / name).resolve() if name else path
        if not linked.exists() or (anchor and anchor not in anchors(linked)):
            broken.append(target)
    assert broken == []


def test_every_page_is_in_the_index() -> None:
    pages = {path.resolve() for path in ROOT.glob("docs/**/*.md")} - {INDEX}
    assert pages <= {(INDEX.parent / target).resolve() for target in links(INDEX)}


def test_no_document_names_a_path_outside_the_repository() -> None:
    for path in DOCUMENTS:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"(?<![\w/])\.\./shared|(?<!\w)/(work|home|Users|root)/", text), path


@pytest.mark.parametrize("name", TOP_LEVEL)
def test_architecture_describes(name: str) -> None:
    """A folder has a heading of its own, a file is named."""
    text = ARCHITECTURE.read_text(encoding="utf-8")
    assert f"`{name}`" in text if name.endswith(".py") else f"\n### {name}\n" in text


@pytest.mark.parametrize("path", [ARCHITECTURE, ROOT / "CONTRIBUTING.md"], ids=lambda path: path.name)
def test_named_files_exist(path: Path) -> None:
    """Every `folder/file.py` is there; in the paragraph of a folder, `file.py` is that folder's."""
    missing, folder = [], ""
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            folder = line.removeprefix("### ") if line.startswith("### ") else ""
        for name in re.findall(r"`([\w./]+\.(?:py|j2))`", line):
            homes = (ROOT, ROOT / "sharpzo_mlx", ROOT / "sharpzo_mlx" / folder, ARCHITECTURE.parent)
            if "NAME" not in name and not any((home / name).is_file() for home in homes):
                missing.append(f"{folder}: {name}")
    assert missing == []


def test_page_of_commands_is_that_of_the_code() -> None:
    page = ROOT / "docs" / "reference" / "commands.md"
    assert page.read_text(encoding="utf-8") == commands_page.page(), (
        "run: python -m sharpzo_mlx.cli.commands_page > docs/reference/commands.md"
    )


def test_picture_of_the_architecture_is_current() -> None:
    command = [sys.executable, "docs/how/draw_architecture.py", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
