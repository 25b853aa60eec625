"""`sharpzo-mlx evaluate RUN... FOLDER...`: measures accuracy on each folder, tuned beside zero-shot.

Prints a table with one row a folder and their mean, or `--json`, or `--csv`. Folders in the run's own dataset come
first, and the mean is then that of the shifted ones. A folder on which tuning lowered the accuracy is marked. Several
runs (seeds) are measured on the same folders and shown with mean and spread. For a run with a head a second table says
how many images are called none of the classes, also of `--foreign` folders, and what sets of labels are worth.

>>> sharpzo-mlx evaluate runs/pets-clip-0 pets/test sketches/  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import cloup

from sharpzo_mlx.cli import shift_tables, wording
from sharpzo_mlx.cli.cluster_options import cluster_options
from sharpzo_mlx.cli.options import PATH, at_most_one
from sharpzo_mlx.errors import UserError

if TYPE_CHECKING:
    from sharpzo_mlx.evaluation.reports import Report
    from sharpzo_mlx.runs.run import Run

FOREIGN_HELP = "Folder or list of images of none of the classes; may be repeated."
SCOPES = {None: "auto", "own_classes": "own", "all_classes": "all"}


@cloup.command("evaluate")
@click.argument("run_folder", metavar="RUN", type=PATH)
@click.argument("folders", metavar="FOLDER...", nargs=-1, required=True, type=PATH)
@cloup.option("--model", type=PATH, help="Model folder, if it has moved since tuning.")
@cloup.option("--own-classes", is_flag=True, help="Only a folder's own classes compete.")
@cloup.option("--all-classes", is_flag=True, help="All tuned classes compete, also on ImageNet-A and -R.")
@cloup.option("--mapping", type=PATH, help="File that maps class folders to tuned classes.")
@cloup.option("--foreign", type=PATH, multiple=True, help=FOREIGN_HELP)
@cloup.option("--reject", type=float, metavar="RATE", help="Stated rate of wrong rejections.  [0.05]")
@cloup.option("--set-coverage", "coverage", type=float, metavar="SHARE", help="Stated coverage of label sets.  [0.95]")
@cloup.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
@cloup.option("--csv", "as_csv", is_flag=True, help="Print a line for each run and folder on stdout.")
@cluster_options
def evaluate_command(
    run_folder: Path,
    folders: tuple[Path, ...],
    *,
    model: Path | None,
    own_classes: bool,
    all_classes: bool,
    mapping: Path | None,
    foreign: tuple[Path, ...],
    reject: float | None,
    coverage: float | None,
    as_json: bool,
    as_csv: bool,
) -> None:
    """Measure the run RUN on each FOLDER of class folders, beside zero-shot; further runs may follow the first.

    RUN is a folder, or the name OWNER/NAME of a run on the hub, which only the first may be.

    The classes of a FOLDER may be a subset of those that were tuned; they are matched by name. ImageNet's variants
    are recognised: numbered folders (V2), the 200 classes of -A and -R, trees of corruptions (-C).
    """
    from sharpzo_mlx.hub.runs import load_run

    style = at_most_one(json=as_json, csv=as_csv)
    scope = SCOPES[at_most_one(own_classes=own_classes, all_classes=all_classes)]
    runs, places = _split_arguments(run_folder, folders)
    options = {"scope": scope, "mapping": mapping, "foreign": foreign, "reject": reject, "coverage": coverage}
    loaded = [load_run(run) for run in runs]
    reports = {run: _evaluate(one, places, model, options) for run, one in zip(runs, loaded, strict=True)}
    if style == "json":
        wording.echo_json(shift_tables.as_record(reports))
    elif style == "csv":
        click.echo(shift_tables.as_csv(reports), nl=False)
    else:
        click.echo(shift_tables.make_table(reports))
        click.echo("".join(f"{remark}\n" for remark in _describe_heads(loaded)), nl=False)


def _split_arguments(first: Path, others: tuple[Path, ...]) -> tuple[list[Path], list[Path]]:
    """Return the runs, which come first, and the folders of images."""
    from sharpzo_mlx.runs.run import Run

    count = next((place for place, path in enumerate(others) if not Run.exists(path)), len(others))
    if count == len(others):
        raise UserError("no folder to evaluate: name a folder of class folders behind the runs")
    return [first, *others[:count]], list(others[count:])


def _describe_heads(runs: list[Run]) -> list[str]:
    """Return lines for each run with a head: what its tuned column is made of."""
    found = [(run.name or run.folder, run.current_results) for run in runs]
    tuned = [(wording.escape(str(run)), results.head) for run, results in found if results and results.head]
    return [f"\n{name}\n{wording.head(head)}" for name, head in tuned]


def _evaluate(run: Run, folders: list[Path], model: Path | None, options: Mapping[str, Any]) -> Report:
    from sharpzo_mlx.cli import progress
    from sharpzo_mlx.clip.handle import load
    from sharpzo_mlx.evaluation.folders import FolderProgress, evaluate_steps
    from sharpzo_mlx.evaluation.reports import Report

    clip = None if model is None else load(model)
    with progress.open_painter() as draw:
        for record in evaluate_steps(run, folders, clip=clip, **options):
            if isinstance(record, Report):
                return record
            if isinstance(record, FolderProgress):
                draw(record)
    raise AssertionError("evaluate_steps ends with the report")
