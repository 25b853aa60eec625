"""Keep a study's results as JSON lines, so that a study that was interrupted continues where it stopped.

>>> append_lines(path, [{"set": "photos", "accuracy": 0.9}])  # doctest: +SKIP
>>> read_lines(path)[0]["accuracy"]  # doctest: +SKIP
0.9
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the results in a file, none if there is no file; a line that was cut off by an interruption is not one."""
    found = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return found


def append_lines(path: Path, results: Iterable[Mapping[str, Any]]) -> None:
    """Add results to a file, at once; a cut-off last line is ended first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file:
        if file.tell():
            file.seek(-1, 2)
            cut_off = file.read() != b"\n"
            file.write(b"\n" if cut_off else b"")
        file.write("".join(json.dumps(result) + "\n" for result in results).encode())
