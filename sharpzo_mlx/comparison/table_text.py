"""A comparison's tables as text: plain columns for a terminal, or Markdown; one a dataset, and their mean.

Accuracies are per cent, mean and standard deviation over seeds; gains are points above zero-shot. A method that needs
backpropagation has a star.

>>> print(as_text(comparison))  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sharpzo_mlx.comparison.record import Comparison, DatasetResult
from sharpzo_mlx.comparison.tables import Row, Spread
from sharpzo_mlx.comparison.variants import TUNED
from sharpzo_mlx.errors import escape
from sharpzo_mlx.report.formatting import aligned, duration

COLUMNS = ("method", "test, %", "gain", "validation, %", "queries", "image passes", "time", "peak MB")
STAR = "* needs backpropagation: a ceiling, not a competitor"


def as_text(comparison: Comparison, width: int | None = None, *, whole_names: bool = False) -> str:
    """Return all tables in aligned columns, in which methods are called as on the command line.

    They keep within the columns of a screen if `width` is given.

    Args:
        comparison: what was measured.
        width: columns of the screen; None: as wide as they are.
        whole_names: see `aligned`.
    """
    parts = [
        f"{escape(heading)}\n{aligned(table, width, whole_names=whole_names)}"
        for heading, table in _make_tables(comparison, titles=False)
    ]
    return "\n\n".join([*parts, *_remarks(comparison)])


def as_markdown(comparison: Comparison) -> str:
    """Return all tables as one Markdown file, with the methods' titles."""
    parts = [f"## {heading}\n\n{_piped(table)}" for heading, table in _make_tables(comparison, titles=True)]
    return "\n\n".join([*parts, *_remarks(comparison)]) + "\n"


def make_table(rows: Sequence[Row], seeds: int, *, titles: bool = True) -> list[list[str]]:
    """Return a table's cells as words, the heading first.

    Args:
        rows: of one dataset or of the mean.
        seeds: how many were run; a method that finished on fewer says so.
        titles: call methods by their titles, not by their names on the command line.
    """
    shifted = list(dict.fromkeys(name for row in rows for name in row.shift))
    table = [[*COLUMNS[:3], *(f"{name}, %" for name in shifted), *COLUMNS[3:]]]
    return table + [_make_cells(row, shifted, seeds, titles=titles) for row in rows]


def _make_tables(comparison: Comparison, *, titles: bool) -> Iterator[tuple[str, list[list[str]]]]:
    """Yield heading and table of each dataset, and of their mean if there are several."""
    for dataset in comparison.datasets:
        yield _heading(dataset, comparison), make_table(dataset.rows, dataset.seeds, titles=titles)
    if len(comparison.datasets) > 1:
        yield _mean_heading(comparison), make_table(comparison.mean, comparison.datasets[0].seeds, titles=titles)


def _heading(dataset: DatasetResult, comparison: Comparison) -> str:
    images = ", ".join(f"{count} {split}" for split, count in dataset.images.items())
    budget = comparison.config.query_budget
    return f"{dataset.name}: {dataset.classes} classes, {images} images, {budget} queries, {_counted(dataset.seeds)}"


def _mean_heading(comparison: Comparison) -> str:
    names = ", ".join(dataset.name for dataset in comparison.datasets)
    seeds = _counted(comparison.datasets[0].seeds)
    return f"mean over {names}, {comparison.config.query_budget} queries, {seeds}"


def _counted(seeds: int) -> str:
    return f"{seeds} seed{'s' if seeds > 1 else ''}"


def _make_cells(row: Row, shifted: Sequence[str], seeds: int, *, titles: bool) -> list[str]:
    name = (
        (row.title if titles else row.method)
        + ("*" if row.backpropagation else "")
        + ("" if row.variant == TUNED else f" ({row.variant})")
    )
    if failed := seeds - len(row.seeds):
        name += f" [{failed} failed]"
    return [
        name,
        _percent(row.test),
        _gain(row.gain),
        *(_percent(row.shift.get(folder)) for folder in shifted),
        _percent(row.val),
        _count(row, "queries"),
        _count(row, "image_passes"),
        duration(row.costs["seconds"]) if row.costs else "-",
        "-" if row.peak_memory_mb is None else f"{row.peak_memory_mb:.0f}",
    ]


def _percent(found: Spread | None) -> str:
    if found is None:
        return "-"
    return f"{100 * found.mean:.1f}" + ("" if found.sd is None else f" ± {100 * found.sd:.1f}")


def _gain(found: Spread | None) -> str:
    if found is None:
        return "-"
    return f"{100 * found.mean:+.1f}" + ("" if found.sd is None else f" ± {100 * found.sd:.1f}")


def _count(row: Row, name: str) -> str:
    return f"{row.costs[name]:.0f}" if row.costs else "-"


def _piped(table: Sequence[Sequence[str]]) -> str:
    rule = ["---", *("---:" for _ in table[0][1:])]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in (table[0], rule, *table[1:])
    )


def _remarks(comparison: Comparison) -> list[str]:
    rows = [row for dataset in comparison.datasets for row in dataset.rows]
    return [STAR] if any(row.backpropagation for row in rows) else []
