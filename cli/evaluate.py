"""`sharpzo-mlx evaluate RUN FOLDER...`: accuracy on each folder, tuned beside zero-shot.

One row a folder and their mean in a table, or one object with `--json`; images that could not be read are
counted in a column of their own where there are any.

>>> sharpzo-mlx evaluate runs/pets-clip-0 pets/test sketches/  # doctest: +SKIP
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sharpzo_mlx.cli import wording

if TYPE_CHECKING:
    from sharpzo_mlx.evaluation import Report


@click.command("evaluate")
@click.argument("run_folder", metavar="RUN", type=click.Path(path_type=Path))
@click.argument("folders", metavar="FOLDER...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--model", type=click.Path(path_type=Path), help="Model folder, if it has moved since tuning.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
def evaluate_command(run_folder: Path, folders: tuple[Path, ...], model: Path | None, as_json: bool) -> None:
    """Measure the run RUN on each FOLDER of class folders, beside zero-shot.

    The classes of a FOLDER may be a subset of those that were tuned; they are matched by name.
    """
    report = _measured(run_folder, folders, model)
    if as_json:
        wording.echo_json(as_record(report))
    else:
        click.echo(table(report))


def _measured(run_folder: Path, folders: tuple[Path, ...], model: Path | None) -> Report:
    from sharpzo_mlx import encoder, evaluation, run
    from sharpzo_mlx.cli import progress

    tuned = run.Run.load(run_folder)
    clip = None if model is None else encoder.load(model)
    with progress.drawing() as draw:
        for record in evaluation.evaluate_steps(tuned, folders, clip=clip):
            if isinstance(record, evaluation.Report):
                return record
            if isinstance(record, evaluation.FolderProgress):
                draw(record)
    raise AssertionError("evaluate_steps ends with the report")


def as_record(report: Report) -> dict[str, Any]:
    """The report for a script: accuracies 0..1."""
    folders = [
        {"path": str(row.path), "images": row.images, "zero_shot": row.zero_shot, "tuned": row.tuned}
        for row in report.folders
    ]
    return {"folders": folders, "mean": {"zero_shot": report.zero_shot, "tuned": report.tuned}}


def table(report: Report) -> str:
    """The report for a reader: one row a folder, and the mean where there are several."""
    rows = [("folder", "images", "zero-shot", "tuned", "change", "unreadable")]
    rows += [
        (str(row.path), str(row.images), *_shares(row.zero_shot, row.tuned), str(row.skipped)) for row in report.folders
    ]
    if len(report.folders) > 1:
        rows.append(("mean", "", *_shares(report.zero_shot, report.tuned), ""))
    shown = rows if any(row.skipped for row in report.folders) else [row[:-1] for row in rows]
    return wording.aligned(shown)


def _shares(zero_shot: float, tuned: float) -> tuple[str, str, str]:
    return wording.percent(zero_shot), wording.percent(tuned), wording.points(zero_shot, tuned)
