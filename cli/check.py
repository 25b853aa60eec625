"""`sharpzo-mlx check DATASET`: finds labels that the other images contradict, and pictures that are there twice.

A table on stdout, with `--json` one object, with `--page FILE.html` also a page on which a person accepts or corrects
each label; the page saves a plan for `sort --plan`.

>>> sharpzo-mlx check pets/ --page wrong.html  # doctest: +SKIP
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sharpzo_mlx.cli import review_text, wording
from sharpzo_mlx.cli.image_bar import ImageBar, open_bar
from sharpzo_mlx.cli.options import PATH
from sharpzo_mlx.cli.suggest import PAGE_HELP

if TYPE_CHECKING:
    from sharpzo_mlx.review.label_check import LabelCheck

ODDS_HELP = "List a label if another class is so many times as probable."
RUN_HELP = "Take the model and the templates of this run."


@click.command("check")
@click.argument("dataset", type=PATH)
@click.option("--model", type=PATH, help="Model folder or name  [the default of `convert`, or the run's]")
@click.option("--run", "run_folder", type=PATH, metavar="RUN", help=RUN_HELP)
@click.option("--odds", default=30.0, show_default=True, type=click.FloatRange(min=1), metavar="X", help=ODDS_HELP)
@click.option("--count", default=50, show_default=True, type=click.IntRange(min=1), help="Labels in the table.")
@click.option("--page", type=PATH, metavar="FILE.html", help=f"{PAGE_HELP}.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout, with all labels found.")
def check_command(
    dataset: Path,
    *,
    model: Path | None,
    run_folder: Path | None,
    odds: float,
    count: int,
    page: Path | None,
    as_json: bool,
) -> None:
    """Find labels of DATASET that look wrong, and pictures that are there twice.

    Each image is judged by a classifier of all the others, so no run is needed.
    """
    from sharpzo_mlx.datasets.folder import checked_folder
    from sharpzo_mlx.datasets.listed import has_list
    from sharpzo_mlx.review.page import check_page_path, no_page_error, write_page

    place = checked_folder(dataset)  # before the model is looked for
    if page is not None:
        check_page_path(page)
        if has_list(place):
            raise no_page_error(place)
    found = _check(dataset, model, run_folder, odds)
    written = None if page is None else write_page(found, page)
    if as_json:
        wording.echo_json({**review_text.record_check(found), "page": written and str(written)})
        return
    click.echo(review_text.format_check(found, count))
    if written is not None:
        click.echo(wording.escape(f"page: {written} (open it in a browser; it saves plans for `sort --plan`)"))


def _check(dataset: Path, model: Path | None, run_folder: Path | None, odds: float) -> LabelCheck:
    from sharpzo_mlx.clip import handle
    from sharpzo_mlx.review.label_check import LabelCheck, check_labels_steps
    from sharpzo_mlx.runs.run import Run

    run = None if run_folder is None else Run.load(run_folder)
    clip = handle.load(model) if run is None or model is not None else None
    source = run or clip
    assert source is not None, "there is a run or a model"
    bar: ImageBar | None = None
    with ExitStack() as stack:
        for event in check_labels_steps(source, dataset, odds=odds, clip=clip):
            if isinstance(event, LabelCheck):
                return event
            bar = bar or stack.enter_context(open_bar(event.total))
            bar.move(event.done)
    raise AssertionError("check_labels_steps ends with the check")
