"""Draw the folders of the package and their imports, `docs/how/architecture.svg`.

The order of the folders and the reader of imports are those of `tests/test_imports.py`, so the picture shows what is
tested. Run it again after an import between two folders has appeared or gone; a test compares the file with the
imports.

usage: python docs/how/draw_architecture.py [--check]     (--check: write nothing, exit 1 if the file is out of date)
"""

from __future__ import annotations

import html
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from test_imports import MODULES, ORDER, imported  # noqa: E402

PICTURE = Path(__file__).with_name("architecture.svg")
# group -> folder or file -> what it does; a folder that is missing here is an error
GROUPS: dict[str, dict[str, str]] = {
    "ground": {
        "errors": "the error that a user sees in one line",
        "options": "an option: its default, its range, its help",
        "files": "whole files, written beside their place",
        "reading": "text and JSON of strangers, bounded",
        "rng": "random numbers as a function of the seed",
    },
    "settings": {
        "config": "TuneConfig: all settings of a run",
        "presets": "named settings: the paper's tables",
    },
    "inputs": {
        "runtime": "the machine: BLAS, device, memory, threads",
        "images": "a file -> pixels",
        "clip": "the network, its tokenizer, its folder",
        "datasets": "folders -> which images, which classes",
        "features": "images -> Features, and their cache",
    },
    "search": {
        "prompts": "w -> context -> class features; Prompt",
        "objective": "Objective: many w -> losses",
        "optimisers": "vectors and losses only",
        "heads": "closed-form classifiers; Head",
    },
    "a run": {
        "runs": "a run on disk: record, results, step log",
        "hub": "a name on the hub -> files, a Run",
        "tuning": "budget -> search -> checkpoint -> Run",
    },
    "use of a run": {
        "evaluation": "a run and folders -> Report; predictions",
        "sorting": "labels -> files in folders, and back",
        "adding": "more images and classes -> a new version",
        "review": "images to label next, doubtful labels",
        "report": "a run -> one HTML page",
        "comparison": "methods x seeds -> tables and plots",
        "cluster": "work for other processes and machines",
        "exporting": "a run -> files of other programs",
        "serving": "a run -> a page and an HTTP API",
    },
    "doors": {
        "": "the public names",
        "demo": "the whole path with painted pictures",
        "doctor": "this machine: its setup, a full check",
        "convert": "foreign checkpoints -> a model folder",
        "sharing": "a run or a model -> a parcel on the hub",
        "cli": "the command line",
    },
}
TINTS = ("#eceff4", "#e8f0e4", "#e3eef8", "#fdf0db", "#f8e6e4", "#eee6f5", "#e4f2f1")
ROW, CELL, TOP, LEFT, NAMES, TEXT = 25, 20, 118, 14, 98, 320  # pixels


def folder_imports() -> dict[str, set[str]]:
    """Return the folders that each folder imports, itself left out."""
    found: dict[str, set[str]] = {folder: set() for folder in ORDER}
    for module, path in MODULES.items():
        folder = module.split(".")[0]
        found[folder] |= {other.split(".")[0] for other in imported(module, path)} - {folder}
    return found


def drawing() -> str:
    """Return the picture: one row a folder in the order of the imports, a dot in the column of each that it imports."""
    described = {name: (text, group) for group, members in GROUPS.items() for name, text in members.items()}
    if missing := set(ORDER) - set(described):
        raise SystemExit(f"{', '.join(sorted(missing))}: not described in GROUPS of {Path(__file__).name}")
    matrix = NAMES + TEXT
    width, height = matrix + CELL * len(ORDER) + 20, TOP + ROW * len(ORDER) + 16
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'font-family="Helvetica, Arial, sans-serif" font-size="12.5" fill="#222">',
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
        _text(LEFT, 24, "Folders of sharpzo_mlx in the order of their imports", weight="bold", size=15),
        _text(LEFT, 46, "Each row imports only rows above it:", colour="#555"),
        _text(LEFT, 63, "a dot marks a folder that the row imports.", colour="#555"),
    ]
    tints = dict(zip(GROUPS, TINTS, strict=True))
    imports = folder_imports()
    for row, name in enumerate(ORDER):
        text, group = described[name]
        parts += _row(row, name, text, tint=tints[group])
        parts += _column(row, name)
        parts += [_dot(row, ORDER.index(other)) for other in sorted(imports[name], key=ORDER.index)]
    return "\n".join([*parts, "</svg>", ""])


def _row(row: int, name: str, text: str, *, tint: str) -> list[str]:
    top, right = TOP + ROW * row, NAMES + TEXT + CELL * (row + 1)
    return [
        f'<rect x="6" y="{top + 1}" width="{right - 6}" height="{ROW - 2}" rx="4" fill="{tint}"/>',
        _text(LEFT, top + 17, _shown(name), weight="bold"),
        _text(LEFT + NAMES, top + 17, text),
    ]


def _column(column: int, name: str) -> list[str]:
    x, top = NAMES + TEXT + CELL * column + CELL // 2, TOP + ROW * column
    return [
        f'<line x1="{x}" y1="{TOP - 6}" x2="{x}" y2="{top}" stroke="#e4e4e4"/>',
        f'<text transform="translate({x + 4} {TOP - 10}) rotate(-60)" fill="#444">{_shown(name)}</text>',
        f'<rect x="{x - 5}" y="{top + 7}" width="11" height="11" rx="2" fill="#888"/>',
    ]


def _dot(row: int, column: int) -> str:
    x, y = NAMES + TEXT + CELL * column + CELL // 2, TOP + ROW * row + ROW // 2
    return f'<circle cx="{x}" cy="{y}" r="4.5" fill="#1f5fa8"/>'


def _shown(name: str) -> str:
    return name or "__init__"


def _text(x: int, y: int, words: str, *, weight: str = "normal", size: float = 12.5, colour: str = "#222") -> str:
    style = f'font-weight="{weight}" font-size="{size}" fill="{colour}"'
    return f'<text x="{x}" y="{y}" {style}>{html.escape(words)}</text>'


def main(arguments: list[str]) -> int:
    """Write the picture, or check it."""
    if set(arguments) - {"--check"}:
        print(__doc__)
        return 2
    drawn = drawing()
    if not arguments:
        PICTURE.write_text(drawn, encoding="utf-8")
    elif not PICTURE.is_file() or PICTURE.read_text(encoding="utf-8") != drawn:
        print("docs/how/architecture.svg is out of date: run python docs/how/draw_architecture.py")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
