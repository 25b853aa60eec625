"""Run one method of a comparison, and measure what it returns.

The clock and the memory are read here and not by the method. Test and shifted images are evaluated when the method has
ended.

>>> measurements = yield from measure_method(variant, task, evaluation, features_bytes=0)  # doctest: +SKIP
"""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence

from sharpzo_mlx.comparison.methods.method import Predictor, Progress, Task
from sharpzo_mlx.comparison.results import Curve, Measurements, finite_or_none
from sharpzo_mlx.comparison.sources import EvaluationParts, compute_accuracy
from sharpzo_mlx.comparison.variants import MethodVariant
from sharpzo_mlx.objective.backend import allowed_memory
from sharpzo_mlx.runtime import limits, memory


def measure_method(
    variant: MethodVariant, task: Task, evaluation: EvaluationParts, *, features_bytes: int
) -> Generator[Progress, None, Measurements]:
    """Run a method to its end; yield its records, and return what it reached and its cost.

    Args:
        variant: the method and its options.
        task: what it is given.
        evaluation: the images that its result is measured on.
        features_bytes: memory of the features of those images; it is not counted as the method's.
    """
    memory.reset_mlx_peak()
    steps = variant.method.begin(task, variant.options, variant.variant)
    records: list[Progress] = []
    times: list[float] = []
    seconds = 0.0
    while True:
        started = time.monotonic()
        try:
            with limits.bounded(allowed_memory(task.config.memory_budget)):
                progress = next(steps)
        except StopIteration as end:
            predictor: Predictor = end.value
            break
        finally:
            seconds += time.monotonic() - started
        records.append(progress)
        times.append(seconds)
        yield progress
    peak = memory.mlx_peak() - features_bytes
    accuracies = {name: compute_accuracy(parts, predictor) for name, parts in evaluation.items()}
    last = records[-1]
    return Measurements(
        test=accuracies.get("test"),
        val=last.best.accuracy,
        val_loss=finite_or_none(last.best.loss),
        shift={name: accuracy for name, accuracy in accuracies.items() if name != "test"},
        queries=last.queries,
        image_passes=last.image_passes,
        backward_passes=last.backward_passes,
        seconds=round(seconds, 3),
        peak_memory_mb=round(peak / 2**20, 1),
        curve=_make_curve(records, times, _measure_kept(records, evaluation)),
    )


def _measure_kept(records: Sequence[Progress], evaluation: EvaluationParts) -> list[float | None]:
    """Return the test accuracy of the candidate kept at each record; each candidate is measured once."""
    found: list[float | None] = []
    for number, progress in enumerate(records):
        if number > 0 and progress.best == records[number - 1].best:
            found.append(found[-1])
        else:
            found.append(compute_accuracy(evaluation["test"], progress.kept()) if "test" in evaluation else None)
    return found


def _make_curve(records: Sequence[Progress], times: Sequence[float], tests: Sequence[float | None]) -> Curve:
    return Curve(
        queries=tuple(one.queries for one in records),
        backward_passes=tuple(one.backward_passes for one in records),
        seconds=tuple(round(seconds, 3) for seconds in times),
        accuracy=tuple(one.score.accuracy for one in records),
        loss=tuple(finite_or_none(one.score.loss) for one in records),
        best_accuracy=tuple(one.best.accuracy for one in records),
        best_loss=tuple(finite_or_none(one.best.loss) for one in records),
        test=tuple(tests),
    )
