"""What `compare` prints: a table a data set and, with several, one over all; plain for a terminal, or Markdown.

Accuracies are per cent, mean and standard deviation over seeds; gains are points above zero-shot. A method that needs
backpropagation has a star.

>>> print(text(comparison))  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from sharpzo_mlx.cli import wording

if TYPE_CHECKING:
    from sharpzo_mlx.comparison.dataset_runner import DatasetResult
    from sharpzo_mlx.comparison.runner import Comparison
    from sharpzo_mlx.comparison.tables import Row, Spread

COLUMNS = ("method", "test, %", "gain", "validation, %", "queries", "image passes", "time", "peak MB")
STAR = "* needs backpropagation: a ceiling, not a competitor"


def text(comparison: Comparison) -> str:
    """All tables in plain words."""
    parts = [f"{heading}\n{wording.aligned(table)}" for heading, table in _tables(comparison)]
    return "\n\n".join([*parts, *_remarks(comparison)])


def markdown(comparison: Comparison) -> str:
    """All tables as one Markdown file."""
    parts = [f"## {heading}\n\n{_pipes(table)}" for heading, table in _tables(comparison)]
    return "\n\n".join([*parts, *_remarks(comparison)]) + "\n"


def _tables(comparison: Comparison) -> Iterator[tuple[str, list[list[str]]]]:
    """Each data set's heading and table, and those of their mean where there are several."""
    for found in comparison.datasets:
        yield _heading(found, comparison), _table(found.rows, _seeds(found))
    if len(comparison.datasets) > 1:
        yield _mean_heading(comparison), _table(comparison.mean, _seeds(comparison.datasets[0]))


def _heading(found: DatasetResult, comparison: Comparison) -> str:
    images = ", ".join(f"{count} {split}" for split, count in found.images.items())
    budget = comparison.config.query_budget
    return f"{found.name}: {found.classes} classes, {images} images, {budget} queries, {_counted(_seeds(found))}"


def _mean_heading(comparison: Comparison) -> str:
    names = ", ".join(found.name for found in comparison.datasets)
    return f"mean over {names}, {comparison.config.query_budget} queries, {_counted(_seeds(comparison.datasets[0]))}"


def _seeds(found: DatasetResult) -> int:
    return len({cell.seed for cell in found.cells})


def _counted(seeds: int) -> str:
    return f"{seeds} seed{'s' if seeds > 1 else ''}"


def _table(rows: Sequence[Row], seeds: int) -> list[list[str]]:
    shifted = list(dict.fromkeys(name for row in rows for name in row.shift))
    table = [[*COLUMNS[:3], *(f"{name}, %" for name in shifted), *COLUMNS[3:]]]
    return table + [_cells(row, shifted, seeds) for row in rows]


def _cells(row: Row, shifted: Sequence[str], seeds: int) -> list[str]:
    name = row.title + ("*" if row.backpropagation else "") + ("" if row.variant == "tuned" else f" ({row.variant})")
    if failed := seeds - len(row.seeds):
        name += f" [{failed} failed]"
    return [
        name,
        _percent(row.test),
        _gain(row.gain),
        *(_percent(row.shift.get(place)) for place in shifted),
        _percent(row.val),
        _count(row, "queries"),
        _count(row, "image_passes"),
        wording.duration(row.costs["seconds"]) if row.costs else "-",
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


def _pipes(table: Sequence[Sequence[str]]) -> str:
    rule = ["---", *("---:" for _ in table[0][1:])]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in (table[0], rule, *table[1:])
    )


def _remarks(comparison: Comparison) -> list[str]:
    rows = [row for found in comparison.datasets for row in found.rows]
    return [STAR] if any(row.backpropagation for row in rows) else []
