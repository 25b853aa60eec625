"""`sharpzo-mlx suggest RUN FOLDER`: says which unlabelled images are worth labelling next, with the run's guess.

A table on stdout, with `--json` one object, with `--page FILE.html` also a page on which a person says what each image
shows; the page saves a plan for `sort --plan`, or labels for `add` where a file lists or stores the images.

>>> sharpzo-mlx suggest runs/pets-clip-0 new/ --count 20 --page next.html  # doctest: +SKIP
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from sharpzo_mlx.cli import review_text, wording
from sharpzo_mlx.cli.image_bar import open_bar
from sharpzo_mlx.cli.options import PATH

if TYPE_CHECKING:
    from sharpzo_mlx.review.suggestions import Suggestions

PAGE_HELP = "Write a page to decide by keyboard; it saves a plan for `sort --plan`"


@click.command("suggest")
@click.argument("run_folder", metavar="RUN", type=PATH)
@click.argument("folder", metavar="FOLDER", type=PATH)
@click.option("--count", default=50, show_default=True, type=click.IntRange(min=1), help="How many images.")
@click.option("--recursive", is_flag=True, help="Read folders inside FOLDER too.")
@click.option("--model", type=PATH, help="Model folder, if it has moved since tuning.")
@click.option("--page", type=PATH, metavar="FILE.html", help=f"{PAGE_HELP}, or labels for `add`.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
def suggest_command(
    run_folder: Path,
    folder: Path,
    *,
    count: int,
    recursive: bool,
    model: Path | None,
    page: Path | None,
    as_json: bool,
) -> None:
    """Say which images of FOLDER, or of a file that lists or stores images, to label next for the run RUN.

    First come images that the run is uncertain of, that are unlike those it knows, and that others are like.
    """
    from sharpzo_mlx.review.page import check_page_path, write_page

    if page is not None:
        check_page_path(page)
    found = _suggest(run_folder, folder, count, model=model, recursive=recursive)
    written = None if page is None else write_page(found, page)
    if as_json:
        wording.echo_json({**review_text.record_suggestions(found), "page": written and str(written)})
        return
    click.echo(review_text.format_suggestions(found))
    if written is not None:
        saved = "labels for `add`" if found.listed else "a plan for `sort --plan`"
        click.echo(wording.escape(f"page: {written} (open it in a browser; it saves {saved})"))


def _suggest(run_folder: Path, folder: Path, count: int, *, model: Path | None, recursive: bool) -> Suggestions:
    from sharpzo_mlx.clip import handle
    from sharpzo_mlx.datasets.folder import checked_folder
    from sharpzo_mlx.datasets.listing import ImageListing
    from sharpzo_mlx.review.suggestions import Suggestions, suggest_steps
    from sharpzo_mlx.runs.run import Run

    run, clip = Run.load(run_folder), None if model is None else handle.load(model)
    total = sum(1 for _ in ImageListing([checked_folder(folder)], recursive=recursive))
    with open_bar(total) as bar:
        for event in suggest_steps(run, folder, count, clip=clip, recursive=recursive):
            if isinstance(event, Suggestions):
                return event
            bar.move(event.done)
    raise AssertionError("suggest_steps ends with the suggestions")
