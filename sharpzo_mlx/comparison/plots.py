"""The curves of a comparison: accuracy against queries and against seconds, with bands over seeds.

The upper panel shows the test accuracy of the candidate that would be kept (SharpZO, arXiv 2506.20990, figure 1a; its
validation accuracy if there is no test split), the lower panel the validation accuracy of the candidate that was
validated. A line is the mean over seeds, its band one standard deviation to each side. Methods that make no query, or
only one validation, are level dashed lines.

>>> write_curves(comparison)  # doctest: +SKIP
[PosixPath('comparisons/photos-m/photos-queries.svg'), ...]
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sharpzo_mlx.comparison.methods import registry
from sharpzo_mlx.comparison.record import Comparison, DatasetResult
from sharpzo_mlx.comparison.results import Curve, Measurements, MethodResult, file_name
from sharpzo_mlx.comparison.variants import TUNED
from sharpzo_mlx.files import atomic_write
from sharpzo_mlx.report.plots import STYLE, as_svg, save_png

AXES = ("queries", "seconds")
KEPT = {"test": "test, kept, %"}
KEPT_UNTESTED = {"best_accuracy": "validation, kept, %"}
NOW = {"accuracy": "validation, now, %"}
POINTS = 200  # of a line
OWN = registry.method("sharpzo").title  # this tool's method: its line is stronger and lies above the others
COLOURS = [matplotlib.colormaps["tab20"](place) for place in (*range(0, 20, 2), *range(1, 20, 2))]  # strong ones first
COLOURS += [matplotlib.colormaps["tab20b"](place) for place in range(0, 20, 4)]


def write_curves(comparison: Comparison) -> list[Path]:
    """Write both plots of each dataset as SVG and PNG into the comparison's folder; return the files."""
    paths = []
    for dataset in comparison.datasets:
        figures = {f"{file_name(dataset.name)}-{axis}": draw_curves(dataset, axis) for axis in AXES}
        for name, figure in figures.items():
            paths.append(comparison.folder / f"{name}.svg")
            atomic_write(paths[-1], as_svg(figure))
        paths += save_png(figures, comparison.folder)
    return paths


def draw_curves(dataset: DatasetResult, axis: str) -> Figure:
    """Draw every method of a dataset against "queries" or "seconds"."""
    lines = _group_by_line(dataset.results)
    tested = all(found.test is not None for line in lines.values() for found in line)
    columns = {**(KEPT if tested else KEPT_UNTESTED), **NOW}
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9, 7), layout="constrained")
        panels = figure.subplots(len(columns), 1, sharex=True)
        for panel, (column, words) in zip(panels, columns.items(), strict=True):
            panel.set_ylabel(words)
            for place, (label, found) in enumerate(lines.items()):
                colour = COLOURS[place % len(COLOURS)]
                _draw_line(panel, found, (axis, column), label=label, colour=colour, own=label == OWN)
        panels[-1].set_xlabel(axis)
        panels[0].set_title(dataset.name)
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right upper", frameon=False)
    return figure


def compute_band(curves: Sequence[Curve], axis: str, column: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return points along an axis, and there the mean over seeds and the standard deviation: [POINTS] each.

    Between two validations the earlier one counts; a curve that has ended keeps its last value.

    Args:
        curves: one for each seed.
        axis: the column of the curves along which.
        column: the column that is averaged.
    """
    end = max(float(getattr(curve, axis)[-1]) for curve in curves)
    grid = np.linspace(0.0, end, POINTS)
    rows = np.stack([_sample(curve, axis, column, grid) for curve in curves])
    return grid, rows.mean(axis=0), rows.std(axis=0, ddof=1) if len(rows) > 1 else np.zeros(POINTS)


def _sample(curve: Curve, axis: str, column: str, grid: np.ndarray) -> np.ndarray:
    """Return the values of one curve at the points of a grid."""
    x, y = np.array(getattr(curve, axis), float), np.array(getattr(curve, column), float)
    values: np.ndarray = y[np.maximum(np.searchsorted(x, grid, side="right") - 1, 0)]
    return values


def _draw_line(
    panel: Axes, found: Sequence[Measurements], names: tuple[str, str], *, label: str, colour: Any, own: bool
) -> None:
    """Draw one method: the mean over seeds and its band."""
    grid, mean, sd = compute_band([one.curve for one in found], *names)
    if grid[-1] == 0 or len(found[0].curve.seconds) < 2:
        panel.axhline(100 * mean[-1], color=colour, linestyle="--", linewidth=1, label=label)
        return
    width, alpha, order = (2.4, 0.25, 3) if own else (1.2, 0.12, 2)
    panel.plot(grid, 100 * mean, color=colour, linewidth=width, label=label, zorder=order)
    low, high = 100 * (mean - sd), 100 * (mean + sd)
    panel.fill_between(grid, low, high, color=colour, alpha=alpha, linewidth=0, zorder=order - 1)


def _group_by_line(results: Sequence[MethodResult]) -> dict[str, list[Measurements]]:
    """Return the measurements of each line, by its label."""
    lines: dict[str, list[Measurements]] = defaultdict(list)
    for result in results:
        if result.measurements:
            title = registry.method(result.method).title
            lines[title if result.variant == TUNED else f"{title}, {result.variant}"].append(result.measurements)
    return lines
