"""Format the output of `evaluate`: a table for a reader, and the same figures as JSON and CSV for a script.

Reports are given by run. With several runs a row is the mean over them, followed by the standard deviation.

>>> print(make_table({Path("runs/a"): report}))  # doctest: +SKIP
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

from sharpzo_mlx.cli import wording
from sharpzo_mlx.cli.answer_tables import COLUMNS, answer_cells, make_answer_table, mean_answers
from sharpzo_mlx.cli.answer_tables import share as _share

if TYPE_CHECKING:
    from sharpzo_mlx.evaluation.reports import FolderResult, Report

    Reports = Mapping[Path, Report]

WORST = 3  # classes named under the table
MARK, UNREADABLE = "", "unreadable"  # headings of columns that are shown only if one of their cells says something
HEADING = ("folder", "images", "zero-shot", "tuned", "change", "95 % interval", "top-5", "per class", "ECE", MARK,
           UNREADABLE)  # fmt: skip
BELOW = "below zero-shot"
FOREIGN = ("images", "rejected", "stated_rejection", "opening", "auroc")  # of the JSON of several runs
CSV_HEADING = (
    "run", "path", "corruption", "severity", "kind", "in_distribution", "images", "unreadable", "zero_shot", "tuned",
    "low", "high", "zero_shot_top5", "tuned_top5", "zero_shot_per_class", "tuned_per_class", "zero_shot_ece",
    "tuned_ece", *COLUMNS,
)  # fmt: skip


def make_table(reports: Reports) -> str:
    """Return one row a folder, their mean, remarks, and the answers; folders in distribution come first."""
    first = next(iter(reports.values()))
    rows = [_make_row([report.folders[place] for report in reports.values()]) for place in range(len(first.folders))]
    body = [row for row, result in zip(rows, first.folders, strict=True) if result.in_distribution]
    body += [row for row, result in zip(rows, first.folders, strict=True) if not result.in_distribution]
    if len(body) > 1:
        body.append(_make_mean_row(reports))
    hidden = set()
    if not any(row[HEADING.index(MARK)] for row in body):
        hidden.add(MARK)
    if not any(result.unreadable for report in reports.values() for result in report.folders):
        hidden.add(UNREADABLE)
    shown = [place for place, name in enumerate(HEADING) if name not in hidden]
    table = wording.aligned([[row[place] for place in shown] for row in (HEADING, *body)])
    answers = make_answer_table(reports)
    return "\n".join([table, *_make_remarks(reports), *(["", answers] if answers else [])])


def _make_row(results: Sequence[FolderResult]) -> tuple[str, ...]:
    """Return the cells of one folder; one result for each run."""
    result = results[0]
    before, after = [r.zero_shot for r in results], [r.tuned for r in results]
    metrics = [r.tuned_metrics for r in results]
    ece = fmean(r.zero_shot_metrics.ece for r in results)
    return (
        str(result.path),
        str(result.images),
        _share(before),
        _share(after),
        wording.points(fmean(before), fmean(after)),
        _between(_interval(results)),
        _share([one.top5 for one in metrics]),
        _share([one.per_class for one in metrics]),
        f"{100 * ece:.1f} -> {_share([one.ece for one in metrics])}",
        BELOW if fmean(after) < fmean(before) else "",
        str(result.unreadable),
    )


def _make_mean_row(reports: Reports) -> tuple[str, ...]:
    """Return the mean over the shifted folders if there are others beside them, else over all."""
    first = next(iter(reports.values()))
    apart = 0 < len(first.shifted) < len(first.folders)
    found = [
        (report.shifted_mean if apart else None) or (report.zero_shot, report.tuned) for report in reports.values()
    ]
    before, after = [pair[0] for pair in found], [pair[1] for pair in found]
    below = BELOW if fmean(after) < fmean(before) else ""
    change = wording.points(fmean(before), fmean(after))
    name = "mean of shifted" if apart else "mean"
    return (name, "", _share(before), _share(after), change, "", "", "", "", below, "")


def _interval(results: Sequence[FolderResult]) -> tuple[float, float]:
    """Return the interval of the change of one run, or of the mean change of several runs."""
    from sharpzo_mlx.evaluation.metrics import pooled_interval

    if len(results) == 1:
        return results[0].interval
    return pooled_interval([result.changes for result in results if result.changes is not None])


def _between(interval: tuple[float, float]) -> str:
    return f"{100 * interval[0]:+.1f} to {100 * interval[1]:+.1f}"


def _make_remarks(reports: Reports) -> list[str]:
    """Return lines on the kind of each folder, the worst classes, the gain under shift, and corruptions.

    With several runs they are about the first one.
    """
    first = next(iter(reports.values()))
    lines = [""]
    for result in first.folders:
        lines += _describe_folder(result)
    if first.shift_per_point is not None and len(reports) == 1:
        gain = f"{first.shift_per_point:.2f}"
        lines.append(f"points gained on shifted folders for each point gained in distribution: {gain}")
    if len(reports) > 1:
        lines += [
            f"{len(reports)} runs: mean ± standard deviation over runs; the interval is that of",
            wording.fitted("the mean change over images; classes are those of ", [str(next(iter(reports)))], [""]),
        ]
    for result in first.folders:
        if result.parts:
            lines += ["", _make_corruption_table(result)]
    return lines


def _describe_folder(result: FolderResult) -> list[str]:
    """Return a line on the kind of a folder, and one on the classes that are found worst."""
    place = "in distribution" if result.in_distribution else "shifted"
    worst = result.classes[:WORST]
    shares = [f" {wording.percent(one.tuned)}" for one in worst]
    return [
        wording.fitted("", [str(result.path), result.kind], [f": {place}", ""]),
        wording.fitted("  worst: ", [one.name for one in worst], shares, keep="beginning"),
    ]


def _make_corruption_table(result: FolderResult) -> str:
    """Return tuned accuracy and its change for each corruption (rows) and severity (columns)."""
    severities = sorted({part.severity for part in result.parts})
    parts = {(part.corruption, part.severity): part for part in result.parts}
    rows = [[str(result.path), *(f"severity {severity}" for severity in severities)]]
    for corruption in dict.fromkeys(part.corruption for part in result.parts):
        found = [parts.get((corruption, severity)) for severity in severities]
        words = [f"{wording.percent(p.tuned)} ({wording.points(p.zero_shot, p.tuned)})" if p else "-" for p in found]
        rows.append([corruption, *words])
    return wording.aligned(rows)


def as_record(reports: Reports) -> dict[str, Any]:
    """Return the reports for a script: one run's report as it is, or the means of several with each under `runs`."""
    if len(reports) == 1:
        return next(iter(reports.values())).to_json()
    by_folder = list(zip(*(report.folders for report in reports.values()), strict=True))
    found = list(reports.values())
    return {
        "folders": [_mean_entry(results) for results in by_folder],
        "mean": {"zero_shot": fmean(one.zero_shot for one in found), "tuned": fmean(one.tuned for one in found)},
        "foreign": [
            {"path": str(results[0].path), **{name: fmean(getattr(one, name) for one in results) for name in FOREIGN}}
            for results in zip(*(report.foreign for report in found), strict=True)
        ],
        "runs": [{"run": str(run), **report.to_json()} for run, report in reports.items()],
    }


def _mean_entry(results: Sequence[FolderResult]) -> dict[str, Any]:
    """Return the mean over several runs on one folder."""
    return {
        "path": str(results[0].path),
        "images": results[0].images,
        "zero_shot": fmean(one.zero_shot for one in results),
        "tuned": fmean(one.tuned for one in results),
        "tuned_sd": stdev(one.tuned for one in results),
        "interval": _interval(results),
        **mean_answers(results),
    }


def as_csv(reports: Reports) -> str:
    """Return one line for each run and folder, foreign or not, and one for each corruption and severity of a tree."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(CSV_HEADING)
    for run, report in reports.items():
        for r in report.folders:
            both = (r.zero_shot_metrics, r.tuned_metrics)
            figures = [getattr(one, name) for name in ("top5", "per_class", "ece") for one in both]
            head = (run, r.path, "", "", r.kind, int(r.in_distribution), r.images, r.unreadable, r.zero_shot, r.tuned)
            writer.writerow((*head, *r.interval, *figures, *answer_cells(r)))
            for p in r.parts:
                part = (run, r.path, p.corruption, p.severity, "", int(r.in_distribution), p.images, "")
                writer.writerow((*part, p.zero_shot, p.tuned))
        for f in report.foreign:
            blank = ("",) * (len(CSV_HEADING) - len(COLUMNS) - 8)
            writer.writerow((run, f.path, "", "", "foreign", 0, f.images, f.unreadable, *blank, *answer_cells(f)))
    return out.getvalue()
