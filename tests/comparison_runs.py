"""What the tests of comparisons share: a small configuration, short methods, and a method that fails."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import mlx.core as mx
import pytest

import sharpzo_mlx as sz
from sharpzo_mlx.comparison.methods import coop, registry
from sharpzo_mlx.comparison.methods.classifiers import CosineClassifier
from sharpzo_mlx.comparison.methods.method import Method, Progress, Steps, Task
from sharpzo_mlx.comparison.results import Curve, Measurements, MethodResult

CONFIG = sz.TuneConfig(shots=4, head="none", query_budget=40).with_settings(
    {"space.dimension": 8, "space.relative_scale": 20.0, "stage1.population": 6}
)


def shorten_coop(monkeypatch: pytest.MonkeyPatch) -> None:
    """CoOp has its own length, whatever the budget; here it is a few steps."""
    quick = {"optimiser": "adam", "learning_rate": 1e-3, "steps": 3, "batch": None, "averaging": 0.9}
    methods = tuple(replace(method, published=quick, tuned={**quick, "steps": 4}) for method in coop.METHODS)
    monkeypatch.setattr(coop, "METHODS", methods)


def break_method(monkeypatch: pytest.MonkeyPatch, name: str, error: BaseException) -> None:
    """Let a method fail after its first record."""
    plain = registry.method

    def start(task: Task, options: Mapping[str, Any]) -> Steps:
        score = task.problem({"space.dimension": 8}).validate(mx.zeros(8))
        yield Progress(0, score, score, lambda: CosineClassifier(mx.zeros((3, 24)), 1.0))
        raise error

    def found(asked: str) -> Method:
        return replace(plain(asked), start=start) if asked == name else plain(asked)

    monkeypatch.setattr(registry, "method", found)


def result(method: str, seed: int, test: float | None, **changes: Any) -> MethodResult:
    """A result with some measurements, for tables."""
    values: dict[str, Any] = {
        "val": 0.5, "val_loss": 1.0, "shift": {}, "queries": 100 + seed, "image_passes": 0, "backward_passes": 0,
        "seconds": 2.0 + seed, "peak_memory_mb": 60.0 + seed, "curve": Curve(),
    }  # fmt: skip
    return MethodResult("d", method, "tuned", seed, Measurements(test=test, **{**values, **changes}), None)


def failure(method: str, seed: int, error: str) -> MethodResult:
    """The result of a method that failed."""
    return MethodResult("d", method, "tuned", seed, None, error)
