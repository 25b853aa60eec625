"""Running a method of a comparison, for tests: a small task, and a generator taken to its end."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from sharpzo_mlx.clip.handle import load
from sharpzo_mlx.comparison.methods.classifiers import CosineClassifier
from sharpzo_mlx.comparison.methods.method import Method, Predictor, Progress, Steps, Task
from sharpzo_mlx.comparison.methods.spsa_search import Descent, descend
from sharpzo_mlx.config import TuneConfig
from sharpzo_mlx.datasets.splits import draw_split
from sharpzo_mlx.features.extract import encode

SMALL: dict[str, Any] = {
    "head": "none", "shots": 4, "space.dimension": 16, "space.relative_scale": 20.0, "pruning.directions": 2,
}  # fmt: skip


def small_task(model: Path, photos: Path, *, query_budget: int, config: TuneConfig | None = None) -> Task:
    """Four shots a class, seed 0; features are encoded anew."""
    clip, split = load(model), draw_split(photos, shots=4, seed=0)
    train, val = (encode(clip, images, cache=False) for images in (split.train, split.val))
    return Task(clip, train, val, config or TuneConfig(shots=4, seed=0, head="none"), query_budget)


def finished(steps: Steps) -> tuple[list[Progress], Predictor]:
    """All records of a method and what it returns."""
    records: list[Progress] = []
    while True:
        try:
            records.append(next(steps))
        except StopIteration as end:
            predictor: Predictor = end.value
            return records, predictor


def run_method(method: Method, task: Task, options: Mapping[str, Any]) -> tuple[list[Progress], CosineClassifier]:
    """Run a method whose predictor has class features; return its records and the predictor."""
    records, result = finished(method.start(task, options))
    assert isinstance(result, CosineClassifier)
    return records, result


def spsa_search(home: ModuleType, task: Task, options: Mapping[str, object]) -> Descent:
    """The search that a module's method sets up, before its first step."""
    searches: list[Descent] = []

    def watched(task: Task, search: Descent) -> object:
        searches.append(search)
        return descend(task, search)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(home, "descend", watched)
        next(home.METHODS[0].start(task, options))
    (search,) = searches
    return search
