"""Adapt CLIP to a folder of images with forward passes only: SharpZO (arXiv 2506.20990) on MLX.

A few prompt vectors are learned in front of the class names, CLIP stays frozen, no gradient is ever propagated.
What is named here is loaded when it is first used, so that importing the package costs next to nothing.

>>> import sharpzo_mlx as sz
>>> clip = sz.load("m")  # doctest: +SKIP
>>> run = sz.tune(clip, "dataset/", sz.TuneConfig(shots=16, seed=0))  # doctest: +SKIP
>>> sz.evaluate(run, ["shifted/"]).tuned, sz.predict(run, ["a.jpg"])  # doctest: +SKIP
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from sharpzo_mlx.runtime import startup

if TYPE_CHECKING:
    from sharpzo_mlx.clip.handle import Clip, load
    from sharpzo_mlx.comparison.runner import Comparison, compare
    from sharpzo_mlx.config import TuneConfig
    from sharpzo_mlx.errors import UserError
    from sharpzo_mlx.evaluation.folders import evaluate
    from sharpzo_mlx.evaluation.prediction import Prediction, predict
    from sharpzo_mlx.evaluation.reports import Report
    from sharpzo_mlx.presets import preset
    from sharpzo_mlx.prompts.prompt import Prompt
    from sharpzo_mlx.report.page import write_report
    from sharpzo_mlx.runs.run import Run
    from sharpzo_mlx.tuning.pipeline import tune, tune_steps

startup.prepare()

_HOMES = {
    "Clip": "clip.handle",
    "Comparison": "comparison.runner",
    "Prediction": "evaluation.prediction",
    "Prompt": "prompts.prompt",
    "Report": "evaluation.reports",
    "Run": "runs.run",
    "TuneConfig": "config",
    "UserError": "errors",
    "compare": "comparison.runner",
    "evaluate": "evaluation.folders",
    "load": "clip.handle",
    "predict": "evaluation.prediction",
    "preset": "presets",
    "tune": "tuning.pipeline",
    "tune_steps": "tuning.pipeline",
    "write_report": "report.page",
}

__all__ = [
    "Clip",
    "Comparison",
    "Prediction",
    "Prompt",
    "Report",
    "Run",
    "TuneConfig",
    "UserError",
    "compare",
    "evaluate",
    "load",
    "predict",
    "preset",
    "tune",
    "tune_steps",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
