"""Say in words what a record of progress holds.

>>> describe_plan(plan)  # doctest: +SKIP
'112 training and 28 validation images; zero-shot 30.0 % on them; at most 864 queries, about 8.0 s'
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sharpzo_mlx.cli.wording import amount, duration, percent
from sharpzo_mlx.runtime.helpers import describe_helpers

if TYPE_CHECKING:
    from sharpzo_mlx.comparison.dataset_runner import Finished, Working
    from sharpzo_mlx.evaluation.folders import FolderProgress
    from sharpzo_mlx.tuning.encoding import Encoding
    from sharpzo_mlx.tuning.pipeline import Drawn, Plan
    from sharpzo_mlx.tuning.search import TuneStep


def describe_step(step: TuneStep) -> str:
    """Return loss, validation accuracy, queries and memory of one step in words."""
    now = "" if step.val_accuracy is None else f"{percent(step.val_accuracy)}, "
    memory = amount(step.peak_memory_mb * 2**20)
    validation = f"validation {now}kept {percent(step.best_val)}"
    return f"loss {step.loss:.3f}, {validation}, {step.queries} queries, {memory}"


def describe_step_shortly(step: TuneStep) -> str:
    """Return the accuracies and queries of one step in few words, for a narrow screen."""
    now = "" if step.val_accuracy is None else f"val {percent(step.val_accuracy)}, "
    return f"{now}kept {percent(step.best_val)}, {step.queries} q"


def describe_drawn(drawn: Drawn) -> str:
    """Return in words how many classes there are, with a prompt that shows how the classes are called."""
    return f"{drawn.classes} classes, with prompts such as '{drawn.prompt}'"


def describe_plan(plan: Plan) -> str:
    """Return in words what a search will do, and how long it takes at most."""
    images = f"{plan.train_images} training images, none for validation"
    if plan.val_images:
        images = f"{plan.train_images} training and {plan.val_images} validation images"
    if plan.val_images or plan.head:
        images += f"; zero-shot {percent(plan.zero_shot_val)} on {'them' if plan.head else 'validation'}"
    return f"{images}; at most {plan.queries} queries, about {duration(plan.seconds)}"


def describe_result(finished: Finished) -> str:
    """Return in words what a method reached, and its cost."""
    result = finished.result
    variant = "" if result.variant == "tuned" else f" ({result.variant})"
    name = f"{result.dataset}, seed {result.seed}, {result.method}{variant}"
    if result.measurements is None:
        return f"{name}: failed: {result.error}"
    found = result.measurements
    test = "" if found.test is None else f"test {percent(found.test)}, "
    known = ", known already" if finished.found else ""
    return f"{name}: {test}validation {percent(found.val)}, {found.queries} queries, {duration(found.seconds)}{known}"


def describe_working(record: Working) -> str:
    """Return the accuracies and costs of a method that runs, in words."""
    now, best = record.progress.score, record.progress.best
    validation = f"validation {percent(now.accuracy)}, kept {percent(best.accuracy)}"
    backwards = record.progress.backward_passes
    return f"{validation}, {record.progress.queries} queries" + (f", {backwards} gradients" if backwards else "")


def describe_cached(progress: Encoding | FolderProgress) -> str:
    """Return how many images were known already, or looked up, behind a comma; empty if none."""
    known, looked_up = getattr(progress, "cached", 0), getattr(progress, "looked_up", 0)
    return f", {known} known already" if known else f", {looked_up} looked up" if looked_up else ""


def describe_images(progress: Encoding | FolderProgress) -> str:
    """Return how many images were known already and how many workers are there, behind commas; empty if none are."""
    return describe_cached(progress) + describe_helpers()


def cut_words(words: str, width: int) -> str:
    """Return as many of the parts between commas as fit into so many columns."""
    while len(words) > width and words:
        words = words.rpartition(", ")[0]
    return words
