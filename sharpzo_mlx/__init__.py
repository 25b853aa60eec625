"""Adapt CLIP to a folder of images with forward passes only: SharpZO (arXiv 2506.20990) on MLX.

A few prompt vectors in front of the class names are learned, CLIP stays frozen, and no gradient is propagated.
Every public name is loaded when it is first used, so that importing the package takes milliseconds.

>>> import sharpzo_mlx as sz
>>> clip = sz.load("m")  # doctest: +SKIP
>>> run = sz.tune(clip, "dataset/", sz.TuneConfig(shots=16, seed=0))  # doctest: +SKIP
>>> sz.evaluate(run, ["shifted/"]).tuned, sz.predict(run, ["a.jpg"])  # doctest: +SKIP
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from sharpzo_mlx.runtime import helpers, startup

if TYPE_CHECKING:  # the same names for type checkers, which cannot follow `__getattr__`; a test compares the two
    from sharpzo_mlx.adding.pipeline import add as add
    from sharpzo_mlx.adding.pipeline import add_steps as add_steps
    from sharpzo_mlx.adding.pipeline import go_back as go_back
    from sharpzo_mlx.clip.handle import Clip as Clip
    from sharpzo_mlx.clip.handle import load as load
    from sharpzo_mlx.cluster.opening import open_cluster as open_cluster
    from sharpzo_mlx.comparison.record import Comparison as Comparison
    from sharpzo_mlx.comparison.runner import compare as compare
    from sharpzo_mlx.config import TuneConfig as TuneConfig
    from sharpzo_mlx.datasets.overview import list_classes as list_classes
    from sharpzo_mlx.errors import UserError as UserError
    from sharpzo_mlx.evaluation.folders import evaluate as evaluate
    from sharpzo_mlx.evaluation.prediction import Prediction as Prediction
    from sharpzo_mlx.evaluation.prediction import predict as predict
    from sharpzo_mlx.evaluation.prediction import predict_steps as predict_steps
    from sharpzo_mlx.evaluation.reports import Report as Report
    from sharpzo_mlx.exporting.formats import export as export
    from sharpzo_mlx.exporting.options import ExportOptions as ExportOptions
    from sharpzo_mlx.features.filling import Filled as Filled
    from sharpzo_mlx.features.filling import fill_cache as fill_cache
    from sharpzo_mlx.hub.runs import load_run as load_run
    from sharpzo_mlx.presets import preset as preset
    from sharpzo_mlx.prompts.prompt import Prompt as Prompt
    from sharpzo_mlx.report.page import write_report as write_report
    from sharpzo_mlx.report.tune_and_report import tune as tune
    from sharpzo_mlx.review.label_check import LabelCheck as LabelCheck
    from sharpzo_mlx.review.label_check import check_labels as check_labels
    from sharpzo_mlx.review.page import write_page as write_page
    from sharpzo_mlx.review.suggestions import Suggestions as Suggestions
    from sharpzo_mlx.review.suggestions import suggest as suggest
    from sharpzo_mlx.runs.run import Run as Run
    from sharpzo_mlx.serving.server import serve as serve
    from sharpzo_mlx.sorting.plan import SortPlan as SortPlan
    from sharpzo_mlx.sorting.plan import read_sort_plan as read_sort_plan
    from sharpzo_mlx.sorting.plan import sort_plan as sort_plan
    from sharpzo_mlx.sorting.undo import undo_sort as undo_sort
    from sharpzo_mlx.tuning.pipeline import tune_steps as tune_steps

startup.prepare()

_MODULES = {  # public name -> the module that defines it, below this package
    "Clip": "clip.handle",
    "Comparison": "comparison.record",
    "Filled": "features.filling",
    "LabelCheck": "review.label_check",
    "ExportOptions": "exporting.options",
    "Prediction": "evaluation.prediction",
    "Prompt": "prompts.prompt",
    "Report": "evaluation.reports",
    "Run": "runs.run",
    "SortPlan": "sorting.plan",
    "Suggestions": "review.suggestions",
    "TuneConfig": "config",
    "UserError": "errors",
    "add": "adding.pipeline",
    "add_steps": "adding.pipeline",
    "check_labels": "review.label_check",
    "compare": "comparison.runner",
    "evaluate": "evaluation.folders",
    "export": "exporting.formats",
    "fill_cache": "features.filling",
    "go_back": "adding.pipeline",
    "list_classes": "datasets.overview",
    "load": "clip.handle",
    "open_cluster": "cluster.opening",
    "load_run": "hub.runs",
    "predict": "evaluation.prediction",
    "predict_steps": "evaluation.prediction",
    "preset": "presets",
    "read_sort_plan": "sorting.plan",
    "serve": "serving.server",
    "sort_plan": "sorting.plan",
    "suggest": "review.suggestions",
    "tune": "report.tune_and_report",
    "tune_steps": "tuning.pipeline",
    "undo_sort": "sorting.undo",
    "write_page": "review.page",
    "write_report": "report.page",
}
_WITHOUT_MLX = ("config", "errors", "exporting.options", "presets")
__all__ = list(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if _MODULES[name] not in _WITHOUT_MLX:
        import_module(f"{__name__}.runtime.device")  # makes the device that the user names MLX's default
    value = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value  # the next use does not come here
    return value


def __dir__() -> list[str]:
    return __all__


helpers.open_by(lambda address: import_module(__name__).open_cluster(address))  # above those that ask for helpers
