"""Run the notebooks of examples/ and keep what their cells show: `python docs/site/execute.py`.

Needs `pip install "sharpzo-mlx[docs]"`, and no network. With `--check` nothing is written.
"""

from __future__ import annotations

import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
TIMEOUT = 120  # seconds a cell


def execute(path: Path) -> nbformat.NotebookNode:
    """Run a notebook in a kernel of its own and return it with its outputs."""
    notebook = nbformat.read(path, as_version=4)
    settings = {"record_timing": False, "timeout": TIMEOUT, "resources": {"metadata": {"path": str(path.parent)}}}
    done = NotebookClient(notebook, **settings).execute()
    for cell in done.cells:
        for output in cell.get("outputs", []):
            if "image/jpeg" in output.get("data", {}):  # of a photograph, a tenth of the PNG
                output.data.pop("image/png", None)
    return done


def main() -> None:
    """Run every notebook."""
    for path in sorted(EXAMPLES.glob("*.ipynb")):
        notebook = execute(path)
        if "--check" not in sys.argv[1:]:
            nbformat.write(notebook, path)
        print(f"{path.name}: {sum(cell.cell_type == 'code' for cell in notebook.cells)} cells run")


if __name__ == "__main__":
    main()
