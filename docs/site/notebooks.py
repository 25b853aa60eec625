"""Hooks of MkDocs that show the notebooks of examples/ as pages, with the outputs that they were saved with."""

from __future__ import annotations

import base64
import json
import posixpath
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

PICTURES = {"image/png": "png", "image/jpeg": "jpg"}
EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page for each notebook, and a file for each picture in it."""
    for path in sorted(EXAMPLES.glob("*.ipynb")):
        pictures: dict[str, bytes] = {}
        text = as_markdown(json.loads(path.read_text(encoding="utf-8")), path.stem, pictures)
        files.append(File.generated(config, f"examples/{path.stem}.md", content=text))
        for name, content in pictures.items():
            files.append(File.generated(config, posixpath.join("examples", name), content=content))
    return files


def as_markdown(notebook: dict[str, Any], name: str, pictures: dict[str, bytes]) -> str:
    """Return a notebook as Markdown.

    Args:
        notebook: the content of the file.
        name: how its pictures' names begin.
        pictures: takes up the PNG pictures of the outputs, by their names.
    """
    parts = []
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
        elif cell["cell_type"] == "code":
            parts.append(f"```python\n{source}\n```")
            parts += [_output_as_markdown(output, name, pictures) for output in cell["outputs"]]
    return "\n\n".join(part for part in parts if part) + "\n"


def _output_as_markdown(output: dict[str, Any], name: str, pictures: dict[str, bytes]) -> str:
    data = output.get("data", {})
    for kind, ending in PICTURES.items():
        if kind in data:
            file = f"{name}-{len(pictures)}.{ending}"
            pictures[file] = base64.b64decode("".join(data[kind]))
            return f"![what the cell shows]({file})"
    text = "".join(output.get("text", data.get("text/plain", "")))
    return f"```text\n{text.rstrip()}\n```" if text.strip() else ""
