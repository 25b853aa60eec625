"""Settings of a search that is small enough for tests: a few coordinates, a few candidates."""

from __future__ import annotations

from typing import Any

TINY: dict[str, Any] = {"space.dimension": 16, "space.relative_scale": 20.0, "stage1.population": 6}
EIGHT: dict[str, Any] = {**TINY, "space.dimension": 8}
EIGHT_FLAGS = ["--set", "stage1.population=6", "--set", "space.dimension=8"]
SMALL: dict[str, Any] = {
    **TINY, "head": "none", "shots": 4, "generations": 5, "stage1.patience": 100, "steps": 30, "pruning.interval": 10,
    "pruning.directions": 2, "pruning.keep": 0.5, "selection.every": 5, "stage2.draws": 1,
}  # fmt: skip
