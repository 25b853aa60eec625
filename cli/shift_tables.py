"""What `evaluate` prints: the table for a reader, and the same figures as JSON and CSV for a script.

Reports come by run; with several of them a row is the mean over runs, with the standard deviation behind it.

>>> print(table({Path("runs/a"): report}))  # doctest: +SKIP
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

from sharpzo_mlx.cli import wording

if TYPE_CHECKING:
    from sharpzo_mlx.evaluation.reports import FolderResult, Report

    Reports = Mapping[Path, Report]

WORST = 3  # classes named under the table
HEADING = (
    "folder",
    "images",
    "zero-shot",
    "tuned",
    "change",
    "95 % interval",
    "top-5",
    "per class",
    "ECE",
    "",
    "unreadable",
)
CSV_HEADING = (
    "run", "path", "corruption", "severity", "kind", "in_distribution", "images", "unreadable", "zero_shot", "tuned",
    "low", "high", "zero_shot_top5", "tuned_top5", "zero_shot_per_class", "tuned_per_class", "zero_shot_ece",
    "tuned_ece",
)  # fmt: skip


def table(reports: Reports) -> str:
    """One row a folder, the mean, and lines on what deserves words."""
    first = next(iter(reports.values()))
    rows = [_row([report.folders[place] for report in reports.values()]) for place in range(len(first.folders))]
    body = [row for row, result in zip(rows, first.folders, strict=True) if result.in_distribution]
    body += [row for row, result in zip(rows, first.folders, strict=True) if not result.in_distribution]
    if len(body) > 1:
        body.append(_mean_row(reports))
    marked = any(row[9] for row in body)
    unreadable = any(result.unreadable for report in reports.values() for result in report.folders)
    kept = [place for place in range(len(HEADING)) if (place != 9 or marked) and (place != 10 or unreadable)]
    lines = [wording.aligned([[row[place] for place in kept] for row in (HEADING, *body)])]
    return "\n".join([*lines, *_remarks(reports)])


def _row(results: Sequence[FolderResult]) -> tuple[str, ...]:
    result = results[0]
    before, after = [r.zero_shot for r in results], [r.tuned for r in results]
    pairs = [(r.zero_shot_metrics, r.tuned_metrics) for r in results]
    return (
        str(result.path),
        str(result.images),
        _share(before),
        _share(after),
        _change(before, after),
        _between(_interval(results)),
        _share([tuned.top5 for _, tuned in pairs]),
        _share([tuned.per_class for _, tuned in pairs]),
        f"{100 * fmean(zero_shot.ece for zero_shot, _ in pairs):.1f} -> {_share([tuned.ece for _, tuned in pairs])}",
        "below zero-shot" if fmean(after) < fmean(before) else "",
        str(result.unreadable),
    )


def _mean_row(reports: Reports) -> tuple[str, ...]:
    """The mean of the shifted folders where others stand beside them, else of all."""
    first = next(iter(reports.values()))
    apart = 0 < len(first.shifted) < len(first.folders)
    found = [
        (report.shifted_mean if apart else None) or (report.zero_shot, report.tuned) for report in reports.values()
    ]
    before, after = [pair[0] for pair in found], [pair[1] for pair in found]
    below = "below zero-shot" if fmean(after) < fmean(before) else ""
    name = "mean of shifted" if apart else "mean"
    return (name, "", _share(before), _share(after), _change(before, after), "", "", "", "", below, "")


def _share(values: Sequence[float]) -> str:
    spread = f" ± {100 * stdev(values):.1f}" if len(values) > 1 else ""
    return wording.percent(fmean(values)) + spread


def _change(before: Sequence[float], after: Sequence[float]) -> str:
    return wording.points(fmean(before), fmean(after))


def _interval(results: Sequence[FolderResult]) -> tuple[float, float]:
    """That of the one run, or of the mean change of several."""
    from sharpzo_mlx.evaluation.metrics import pooled_interval

    if len(results) == 1:
        return results[0].interval
    return pooled_interval([result.changes for result in results if result.changes is not None])


def _between(interval: tuple[float, float]) -> str:
    return f"{100 * interval[0]:+.1f} to {100 * interval[1]:+.1f}"


def _remarks(reports: Reports) -> list[str]:
    """What was recognised, the worst classes, shift against gain, corruptions; of several runs, of the first."""
    first = next(iter(reports.values()))
    lines = [""]
    for result in first.folders:
        place = "in distribution" if result.in_distribution else "shifted"
        worst = ", ".join(f"{one.name} {wording.percent(one.tuned)}" for one in result.classes[:WORST])
        lines.append(f"{result.path}: {place}, {result.kind}; worst: {worst}")
    if first.shift_per_point is not None and len(reports) == 1:
        lines.append(
            f"points gained on the shifted folders for each gained in distribution: {first.shift_per_point:.2f}"
        )
    if len(reports) > 1:
        lines.append(
            f"{len(reports)} runs: mean ± standard deviation over runs; the interval is that of the mean change over "
            f"images; classes are those of {next(iter(reports))}"
        )
    for result in first.folders:
        if result.parts:
            lines += ["", _corruptions(result)]
    return lines


def _corruptions(result: FolderResult) -> str:
    """Tuned accuracy and its change for each corruption (rows) and severity (columns)."""
    severities = sorted({part.severity for part in result.parts})
    cells = {(part.corruption, part.severity): part for part in result.parts}
    rows = [[str(result.path), *(f"severity {severity}" for severity in severities)]]
    for corruption in dict.fromkeys(part.corruption for part in result.parts):
        found = [cells.get((corruption, severity)) for severity in severities]
        words = [f"{wording.percent(p.tuned)} ({wording.points(p.zero_shot, p.tuned)})" if p else "-" for p in found]
        rows.append([corruption, *words])
    return wording.aligned(rows)


def as_record(reports: Reports) -> dict[str, Any]:
    """The reports for a script: of one run as it is, of several their means and each of them under `runs`."""
    records = [_record(report) for report in reports.values()]
    if len(records) == 1:
        return records[0]
    places = range(len(records[0]["folders"]))
    found = [[report.folders[place] for report in reports.values()] for place in places]
    folders = [
        {
            "path": rows[0]["path"],
            "images": rows[0]["images"],
            **{name: fmean(row[name] for row in rows) for name in ("zero_shot", "tuned")},
            "tuned_sd": stdev(row["tuned"] for row in rows),
            "interval": _interval(results),
        }
        for rows, results in zip(zip(*(record["folders"] for record in records), strict=True), found, strict=True)
    ]
    mean = {name: fmean(record["mean"][name] for record in records) for name in ("zero_shot", "tuned")}
    runs = [{"run": str(run), **record} for run, record in zip(reports, records, strict=True)]
    return {"folders": folders, "mean": mean, "runs": runs}


def _record(report: Report) -> dict[str, Any]:
    mean = report.shifted_mean
    return {
        "folders": [result.to_entry().to_json() for result in report.folders],
        "mean": {"zero_shot": report.zero_shot, "tuned": report.tuned},
        "shifted_mean": {"zero_shot": mean[0], "tuned": mean[1]} if mean else None,
        "shift_per_point": report.shift_per_point,
    }


def as_csv(reports: Reports) -> str:
    """One line for each run and folder, and one for each corruption and severity of a tree."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(CSV_HEADING)
    for run, report in reports.items():
        for r in report.folders:
            figures = [
                f
                for name in ("top5", "per_class", "ece")
                for f in (getattr(r.zero_shot_metrics, name), getattr(r.tuned_metrics, name))
            ]
            head = (run, r.path, "", "", r.kind, int(r.in_distribution), r.images, r.unreadable, r.zero_shot, r.tuned)
            writer.writerow((*head, *r.interval, *figures))
            for p in r.parts:
                part = (run, r.path, p.corruption, p.severity, "", int(r.in_distribution), p.images, "")
                writer.writerow((*part, p.zero_shot, p.tuned))
    return out.getvalue()
