"""Print the tables of docs/results/accuracy.md from a comparison: accuracy, mean gain, spread, a method's leads.

A lead is the difference of test accuracies on the same draw. The table shows its mean and standard error over the draws
of each data set, and over all data sets (after averaging the draws of a seed, as in the last table of `compare`). The
mean gain is relative to zero-shot. The spread is the standard deviation over seeds, averaged over the data sets.

    python benchmarks/leads.py comparisons/FOLDER/comparison.json --of sharpzo
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

Tests = dict[tuple[str, str], dict[int, float]]  # (method, variant) -> seed -> per cent


def read_tests(dataset: dict[str, Any]) -> Tests:
    """Return the test accuracies of the methods that finished."""
    found: Tests = {}
    for one in dataset["results"]:
        measured = one["measurements"]
        if measured and measured["test"] is not None:
            found.setdefault((one["method"], one["variant"]), {})[one["seed"]] = 100 * measured["test"]
    return found


def format_spread(values: list[float]) -> str:
    """Return mean and standard deviation."""
    return f"{np.mean(values):.1f}" + (f" ± {np.std(values, ddof=1):.1f}" if len(values) > 1 else "")


def subtract(mine: dict[int, float], other: dict[int, float]) -> np.ndarray:
    """Return the differences on the seeds that both methods have."""
    return np.array([mine[seed] - other[seed] for seed in mine if seed in other])


def format_with_error(values: np.ndarray) -> str:
    """Return mean and standard error."""
    if not len(values):
        return "-"
    return f"{values.mean():+.1f}" + (f" ± {values.std(ddof=1) / np.sqrt(len(values)):.1f}" if len(values) > 1 else "")


def average_over_sets(tables: list[Tests], row: tuple[str, str]) -> dict[int, float]:
    """Return the mean over the data sets by seed, for the seeds that all data sets have."""
    parts = [table.get(row, {}) for table in tables]
    return {seed: float(np.mean([part[seed] for part in parts])) for seed in parts[0] if all(seed in p for p in parts)}


def format_tables(comparison: dict[str, Any], of: str) -> Iterator[str]:
    """Yield the lines of both tables in Markdown."""
    datasets = comparison["datasets"]
    tables = [read_tests(dataset) for dataset in datasets]
    names = [dataset["name"] for dataset in datasets]
    titles = {(row["method"], row["variant"]): row["title"] for dataset in datasets for row in dataset["rows"]}
    zero = average_over_sets(tables, ("zero-shot", "tuned"))
    yield f"| method | variant | {' | '.join(names)} | mean gain | spread |"
    yield "|---" * (len(names) + 4) + "|"
    for row, title in titles.items():
        cells = [format_spread(list(table[row].values())) if row in table else "-" for table in tables]
        means = average_over_sets(tables, row)
        gain = f"{subtract(means, zero).mean():.1f}" if means else "-"
        spreads = [np.std(list(t[row].values()), ddof=1) for t in tables if len(t.get(row, {})) > 1]
        yield f"| {title} | {row[1]} | {' | '.join(cells)} | {gain} | {np.mean(spreads) if spreads else 0:.1f} |"
    yield f"\n| {of} against | variant | {' | '.join(names)} | mean |"
    yield "|---" * (len(names) + 3) + "|"
    mine = (of, "tuned")
    for row, title in titles.items():
        if row != mine:
            cells = [format_with_error(subtract(table.get(mine, {}), table.get(row, {}))) for table in tables]
            total = format_with_error(subtract(average_over_sets(tables, mine), average_over_sets(tables, row)))
            yield f"| {title} | {row[1]} | {' | '.join(cells)} | {total} |"


def main() -> None:
    """Print the tables of one comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("comparison", type=Path, help="a comparison.json")
    parser.add_argument("--of", default="sharpzo", help="the method whose leads are shown")
    given = parser.parse_args()
    print("\n".join(format_tables(json.loads(given.comparison.read_text()), given.of)))


if __name__ == "__main__":
    main()
