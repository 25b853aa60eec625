"""A comparison's table: each method's mean and spread over seeds, its gain over zero-shot, what it cost.

The spread is the sample standard deviation over seeds, and is missing with one. Gains are taken seed by seed against
zero-shot on the same split. Over several data sets a seed's figure is the plain mean of its data sets, and only
methods that finished on all of them stand in that table.

>>> spread([0.5, 0.75])
Spread(mean=0.625, sd=0.1767766952966369)
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, stdev
from typing import Any

from sharpzo_mlx.comparison.methods import registry
from sharpzo_mlx.comparison.results import Cell, Figures

COSTS = ("queries", "image_passes", "backward_passes", "seconds")


@dataclass(frozen=True)
class Spread:
    """A mean over seeds and the standard deviation between them."""

    mean: float
    sd: float | None


@dataclass(frozen=True)
class Row:
    """One method with one variant of its options; accuracies are 0..1, costs are means over seeds.

    Attributes:
        seeds: those that finished.
        test, gain, val: None where there is nothing to tell.
        shift: accuracy on each further folder.
        peak_memory_mb: the highest of the seeds.
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

    def to_dict(self) -> dict[str, Any]:
        """The row as plain values."""
        return asdict(self)


def spread(values: Sequence[float]) -> Spread:
    """Mean and standard deviation."""
    return Spread(fmean(values), stdev(values) if len(values) > 1 else None)


def rows(cells: Sequence[Cell]) -> list[Row]:
    """The table of one data set, in the order of the cells."""
    by_row: dict[tuple[str, str], list[Cell]] = defaultdict(list)
    for cell in cells:
        by_row[cell.method, cell.variant].append(cell)
    zero = {cell.seed: cell.figures for cell in cells if cell.method == registry.REFERENCE and cell.figures}
    return [_row(found, zero) for found in by_row.values()]


def _row(cells: Sequence[Cell], zero: Mapping[int, Figures]) -> Row:
    method = registry.method(cells[0].method)
    done = {cell.seed: cell.figures for cell in cells if cell.figures}
    figures = list(done.values())
    tested = {seed: found.test for seed, found in done.items() if found.test is not None}
    reference = {seed: found.test for seed, found in zero.items() if found.test is not None}
    gains = [test - reference[seed] for seed, test in tested.items() if seed in reference]
    return Row(
        method=method.name,
        title=method.title,
        variant=cells[0].variant,
        backpropagation=method.backpropagation,
        seeds=tuple(done),
        test=_spread(list(tested.values())),
        gain=_spread(gains),
        val=_spread([found.val for found in figures]),
        shift={
            name: spread([found.shift[name] for found in figures]) for name in (figures[0].shift if figures else ())
        },
        costs={name: fmean(getattr(found, name) for found in figures) for name in COSTS if figures},
        peak_memory_mb=max((found.peak_memory_mb for found in figures), default=None),
        errors={cell.seed: cell.error for cell in cells if cell.error is not None},
    )


def _spread(values: Sequence[float]) -> Spread | None:
    return spread(values) if values else None


def mean_rows(datasets: Sequence[Sequence[Cell]]) -> list[Row]:
    """The table over several data sets, of the methods and seeds that finished on all of them.

    Args:
        datasets: the cells of each.
    """
    names = {(cell.method, cell.variant, cell.seed): None for cells in datasets for cell in cells}
    tables = [{(c.method, c.variant, c.seed): c for c in cells if c.figures} for cells in datasets]
    return rows(
        [_mean_cell([table[name] for table in tables]) for name in names if all(name in table for table in tables)]
    )


def _mean_cell(cells: Sequence[Cell]) -> Cell:
    figures = [cell.figures for cell in cells if cell.figures]
    tests = [found.test for found in figures if found.test is not None]
    places = [name for name in figures[0].shift if all(name in found.shift for found in figures)]
    mean = Figures(
        test=fmean(tests) if len(tests) == len(cells) else None,
        val=fmean(found.val for found in figures),
        val_loss=None,
        shift={name: fmean(found.shift[name] for found in figures) for name in places},
        queries=round(fmean(found.queries for found in figures)),
        image_passes=round(fmean(found.image_passes for found in figures)),
        backward_passes=round(fmean(found.backward_passes for found in figures)),
        seconds=fmean(found.seconds for found in figures),
        peak_memory_mb=max(found.peak_memory_mb for found in figures),
        curve={},
    )
    return Cell("mean", cells[0].method, cells[0].variant, cells[0].seed, mean)
