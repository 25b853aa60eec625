"""The part of `evaluate`'s output on "none of them" and sets of labels: a table for a reader, and columns of the CSV.

>>> print(make_answer_table({Path("runs/a"): report}))  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING

from sharpzo_mlx.cli import wording

if TYPE_CHECKING:
    from sharpzo_mlx.evaluation.foreign import ForeignResult
    from sharpzo_mlx.evaluation.reports import FolderResult, Report

FIELDS = ("rejected", "stated_rejection", "coverage", "stated_coverage", "set_size", "opening")  # of AnswerMetrics
COLUMNS = (*FIELDS, "auroc")  # of the CSV
HEADING = ("none of them, sets", "turned away", "label in set", "set size", "guard open", "AUROC")
SHIFT = (
    "stated rates hold for images of the labelled kind alone: under shift more are\n"
    "turned away, and sets hold the right label less often"
)


def make_answer_table(reports: Mapping[Path, Report]) -> str:
    """Return the stated rates and a row for each folder, foreign or not; nothing where no run has a head."""
    found = [report for report in reports.values() if any(result.answers for result in report.folders)]
    if not found:
        return ""
    first = found[0]
    stated = next(result.answers for result in first.folders if result.answers)
    rates = (f"{100 * rate:.4g} %" for rate in (stated.stated_rejection, stated.stated_coverage))
    rows = [_make_row([report.folders[place] for report in found]) for place in range(len(first.folders))]
    rows += [_make_foreign_row([report.foreign[place] for report in found]) for place in range(len(first.foreign))]
    shown = len(HEADING) if first.foreign else len(HEADING) - 1
    table = wording.aligned([row[:shown] for row in (HEADING, ("stated", *rates, "", "", ""), *rows)])
    return f"{table}\n\n{SHIFT}" if first.shifted else table


def _make_row(results: Sequence[FolderResult]) -> tuple[str, ...]:
    """Return the cells of one folder; one result for each run."""
    found = [result.answers for result in results if result.answers]
    rejected, coverage = share([one.rejected for one in found]), share([one.coverage for one in found])
    size, opening = f"{fmean(one.set_size for one in found):.1f}", share([one.opening for one in found])
    return str(results[0].path), rejected, coverage, size, opening, "-"


def _make_foreign_row(results: Sequence[ForeignResult]) -> tuple[str, ...]:
    spread = f" ± {stdev(one.auroc for one in results):.3f}" if len(results) > 1 else ""
    auroc = f"{fmean(one.auroc for one in results):.3f}{spread}"
    rejected, opening = share([one.rejected for one in results]), share([one.opening for one in results])
    return f"{results[0].path} (foreign)", rejected, "-", "-", opening, auroc


def share(values: Sequence[float]) -> str:
    """Return the mean over runs in per cent, with the standard deviation if there are several."""
    spread = f" ± {100 * stdev(values):.1f}" if len(values) > 1 else ""
    return wording.percent(fmean(values)) + spread


def mean_answers(results: Sequence[FolderResult]) -> dict[str, float | None]:
    """Return the means over several runs on one folder by field; None where no run has a head."""
    found = [result.answers for result in results if result.answers]
    return {name: fmean(getattr(one, name) for one in found) if found else None for name in FIELDS}


def answer_cells(result: FolderResult | ForeignResult) -> tuple[object, ...]:
    """Return the cells of `COLUMNS`; empty where there is no figure."""
    figures = getattr(result, "answers", result)
    return tuple(getattr(figures, name, "") for name in COLUMNS)
