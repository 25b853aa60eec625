"""The rows of a comparison's table: each method's mean and spread over seeds, its gain over zero-shot, its cost.

The spread is the sample standard deviation over seeds, and is missing with one seed. Gains are taken seed by seed
against zero-shot on the same split. Over several datasets a seed's value is the plain mean over the datasets, and only
methods and seeds that finished on all of them are in that table.

>>> compute_spread([0.5, 0.75])
Spread(mean=0.625, sd=0.1767766952966369)
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from sharpzo_mlx.comparison.methods import registry
from sharpzo_mlx.comparison.results import Curve, Measurements, MethodResult
from sharpzo_mlx.runs.json_record import JsonRecord

COSTS = ("queries", "image_passes", "backward_passes", "seconds")


@dataclass(frozen=True)
class Spread(JsonRecord):
    """A mean over seeds, and the standard deviation between them; None with one seed."""

    mean: float
    sd: float | None


@dataclass(frozen=True)
class Row(JsonRecord):
    """One method with one variant of its options; accuracies are 0..1.

    Attributes:
        method: its name on the command line.
        title: its name in tables.
        variant: which of its options.
        backpropagation: whether it needs gradients.
        seeds: the seeds that finished.
        test: accuracy on the test split; None where there is none, as the two below.
        gain: test accuracy above zero-shot.
        val: validation accuracy.
        shift: accuracy on each shifted folder, by name.
        costs: means over the seeds of queries, passes and seconds.
        peak_memory_mb: the highest of the seeds, MiB.
        errors: the messages of the seeds that failed, by seed.
    """

    method: str
    title: str
    variant: str
    backpropagation: bool
    seeds: tuple[int, ...]
    test: Spread | None
    gain: Spread | None
    val: Spread | None
    shift: dict[str, Spread]
    costs: dict[str, float]
    peak_memory_mb: float | None
    errors: dict[int, str]


def compute_spread(values: Sequence[float]) -> Spread:
    """Return mean and standard deviation of at least one value."""
    return Spread(fmean(values), stdev(values) if len(values) > 1 else None)


def make_rows(results: Sequence[MethodResult]) -> list[Row]:
    """Return the table of one dataset, in the order of the results."""
    by_row: dict[tuple[str, str], list[MethodResult]] = defaultdict(list)
    for result in results:
        by_row[result.method, result.variant].append(result)
    reference = [result for result in results if result.method == registry.REFERENCE]
    zero_shot = {one.seed: one.measurements.test for one in reference if one.measurements}
    return [_make_row(found, zero_shot) for found in by_row.values()]


def _make_row(results: Sequence[MethodResult], zero_shot: Mapping[int, float | None]) -> Row:
    """Return one row.

    Args:
        results: of one method and variant, one for each seed.
        zero_shot: test accuracy before tuning, by seed.
    """
    method = registry.method(results[0].method)
    done = {one.seed: one.measurements for one in results if one.measurements}
    found = list(done.values())
    tested = {seed: one.test for seed, one in done.items() if one.test is not None}
    pairs = [(test, zero_shot.get(seed)) for seed, test in tested.items()]
    return Row(
        method=method.name,
        title=method.title,
        variant=results[0].variant,
        backpropagation=method.backpropagation,
        seeds=tuple(done),
        test=_spread_if_any(list(tested.values())),
        gain=_spread_if_any([test - before for test, before in pairs if before is not None]),
        val=_spread_if_any([one.val for one in found]),
        shift={name: compute_spread([one.shift[name] for one in found]) for name in (found[0].shift if found else ())},
        costs={name: fmean(getattr(one, name) for one in found) for name in COSTS if found},
        peak_memory_mb=max((one.peak_memory_mb for one in found), default=None),
        errors={one.seed: one.error for one in results if one.error is not None},
    )


def _spread_if_any(values: Sequence[float]) -> Spread | None:
    return compute_spread(values) if values else None


def make_mean_rows(datasets: Sequence[Sequence[MethodResult]]) -> list[Row]:
    """Return the table over several datasets, of the methods and seeds that finished on all of them.

    Args:
        datasets: the results on each.
    """
    names = {(one.method, one.variant, one.seed): None for results in datasets for one in results}
    tables = [{(one.method, one.variant, one.seed): one for one in results if one.measurements} for results in datasets]
    common = [name for name in names if all(name in table for table in tables)]
    return make_rows([_average([table[name] for table in tables]) for name in common])


def _average(results: Sequence[MethodResult]) -> MethodResult:
    """Return the mean over datasets of one method, variant and seed."""
    found = [one.measurements for one in results if one.measurements]
    tests = [one.test for one in found if one.test is not None]
    names = [name for name in found[0].shift if all(name in one.shift for one in found)]
    mean = Measurements(
        test=fmean(tests) if len(tests) == len(results) else None,
        val=fmean(one.val for one in found),
        val_loss=None,
        shift={name: fmean(one.shift[name] for one in found) for name in names},
        queries=round(fmean(one.queries for one in found)),
        image_passes=round(fmean(one.image_passes for one in found)),
        backward_passes=round(fmean(one.backward_passes for one in found)),
        seconds=fmean(one.seconds for one in found),
        peak_memory_mb=max(one.peak_memory_mb for one in found),
        curve=Curve(),
    )
    return MethodResult("mean", results[0].method, results[0].variant, results[0].seed, mean, None)
