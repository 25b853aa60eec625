"""`sharpzo-mlx add RUN FOLDER...`: adds images and classes to a finished run, without a new search.

Prints what that changed, or `--json`. The run keeps its earlier versions: `--list` shows them, and `--back` makes one
of them the present one.

>>> sharpzo-mlx add runs/pets-clip-0 more/ --class "red panda"  # doctest: +SKIP
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sharpzo_mlx.cli import wording
from sharpzo_mlx.cli.options import PATH, at_most_one
from sharpzo_mlx.errors import UserError

if TYPE_CHECKING:
    from sharpzo_mlx.runs.record import RunResults
    from sharpzo_mlx.runs.run import Run
    from sharpzo_mlx.runs.version_record import AccuracyChange, Version

BEFORE = -1  # --back without a number
BACK_HELP = "Make version N the present one; without N the one that this one adds to. It can be undone likewise."
CLASS_HELP = "Add a class by its name alone, without images; may be repeated."
WIDEST = 38  # columns of a first cell, so that tables fit 80


@click.command("add")
@click.argument("run_folder", metavar="RUN", type=PATH)
@click.argument("folders", metavar="FOLDER...", nargs=-1, type=PATH)
@click.option("--class", "classes", metavar="NAME", multiple=True, help=CLASS_HELP)
@click.option("--list", "listing", is_flag=True, help="Show the versions of the run.")
@click.option("--back", type=int, is_flag=False, flag_value=BEFORE, metavar="[N]", help=BACK_HELP)
@click.option("--model", type=PATH, help="Model folder, if it has moved since tuning.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
def add_command(
    run_folder: Path,
    folders: tuple[Path, ...],
    *,
    classes: tuple[str, ...],
    listing: bool,
    back: int | None,
    model: Path | None,
    as_json: bool,
) -> None:
    """Add to the run RUN the images of each FOLDER of class folders, or list of images, of known classes or new ones.

    The words stay, and the rest is computed anew in closed form. The run's test images are never learned from.
    """
    from sharpzo_mlx.runs.run import Run

    chosen = at_most_one(list=listing, back=back is not None)
    if chosen and (folders or classes):
        raise UserError(f"--{chosen}: goes without FOLDER and --class; give it alone")
    if chosen == "list":
        _show_versions(Run.load(run_folder), as_json=as_json)
    elif chosen == "back":
        _go_back(run_folder, back, as_json=as_json)
    else:
        before = Run.load(run_folder)
        run = _add(run_folder, folders, classes, model)
        _show_addition(run, changed=run.record.version != before.record.version, as_json=as_json)


def _add(run_folder: Path, folders: Sequence[Path], classes: Sequence[str], model: Path | None) -> Run:
    from sharpzo_mlx.adding.pipeline import add_steps
    from sharpzo_mlx.cli import progress
    from sharpzo_mlx.clip.handle import load

    clip = None if model is None else load(model)
    return progress.follow(add_steps(run_folder, folders, classes=classes, clip=clip))


def _show_addition(run: Run, *, changed: bool, as_json: bool) -> None:
    from sharpzo_mlx.runs.history import present_version

    version = present_version(run)
    if as_json:
        wording.echo_json({"run": str(run.folder), "changed": changed, **version.to_json()})
        return
    if not changed:
        click.echo(wording.escape(f"{run.folder}: still version {version.number}, nothing was new"))
        return
    click.echo(wording.escape(f"version {version.number}: {version.describe()}, {wording.duration(version.seconds)}"))
    if version.accuracies:
        click.echo(f"\n{_make_table(version.accuracies)}")
    if version.by_class:
        click.echo(f"\n{_make_table(version.by_class, 'labelled before, by class')}")
    if run.results.head is not None:
        click.echo(f"\n{wording.head(run.results.head).partition(chr(10))[0]}")
    _show_place(run)


def _show_place(run: Run) -> None:
    undo = shlex.join(["sharpzo-mlx", "add", str(run.folder), "--back"])
    click.echo(f"run: {wording.escape(str(run.folder))}\nundo: {wording.escape(undo)}")


def _make_table(rows: Sequence[AccuracyChange], heading: str = "") -> str:
    cells = [(heading, "images", "before", "after", "change")]
    for row in rows:
        before, after = wording.percent(row.before), wording.percent(row.after)
        name = wording.shorten(row.images, WIDEST, keep="beginning")
        cells.append((name, f"{row.count}", before, after, wording.points(row.before, row.after)))
    return wording.aligned(cells)


def _go_back(folder: Path, number: int | None, *, as_json: bool) -> None:
    from sharpzo_mlx.adding.pipeline import go_back

    run = go_back(folder, None if number == BEFORE else number)
    version = run.record.version
    assert version is not None, "it has several"
    if as_json:
        wording.echo_json({"run": str(run.folder), **version.to_json()})
    else:
        click.echo(wording.escape(f"{run.folder}: version {version.number} is the present one ({version.describe()})"))


def _show_versions(run: Run, *, as_json: bool) -> None:
    from sharpzo_mlx.runs.history import present_version, read_versions

    present, versions = present_version(run).number, read_versions(run)
    if as_json:
        rows = [_make_record(version, results) for version, results in versions]
        wording.echo_json({"run": str(run.folder), "present": present, "versions": rows})
        return
    cells = [("", "date", "left out", "test")]
    for version, results in versions:
        mark = "*" if version.number == present else " "
        accuracies = wording.percent(results.val), wording.percent(results.test)
        name = wording.shorten(version.describe(), WIDEST, keep="beginning")
        cells.append((f"{mark} {version.number} {name}", version.date or "-", *accuracies))
    click.echo(wording.aligned(cells))


def _make_record(version: Version, results: RunResults) -> dict[str, Any]:
    return {**version.to_json(), "val": results.val, "test": results.test}
