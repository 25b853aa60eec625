"""`sharpzo-mlx classes DATASET`: shows the classes of a data set, their images and their prompts, before it is tuned.

>>> sharpzo-mlx classes photos/  # doctest: +SKIP
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sharpzo_mlx.cli import wording
from sharpzo_mlx.cli.options import PATH

if TYPE_CHECKING:
    from sharpzo_mlx.datasets.overview import Overview

NAME_WIDTH = 24  # columns of a folder and of a name
INDENT = "    "


@click.command("classes")
@click.argument("dataset", type=PATH)
@click.option("--template", help="Prompt with {} for the class name.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
def classes_command(dataset: Path, *, template: str | None, as_json: bool) -> None:
    """Show the classes of DATASET: folders, names, images of each split, and prompts.

    DATASET is what `tune` takes: class folders, or a list of images. No image is opened.
    """
    from sharpzo_mlx.config import TuneConfig
    from sharpzo_mlx.datasets.overview import list_classes

    found = list_classes(dataset, template=TuneConfig(template=template).template)
    if as_json:
        wording.echo_json(make_record(found))
    else:
        click.echo(format_classes(found, wording.screen_width()))


def make_record(found: Overview) -> dict[str, Any]:
    """Return the classes for JSON; the split of images that are not divided is `images`."""
    splits = [split or "images" for split in found.splits]
    return {
        "dataset": str(found.dataset),
        "images": dict(zip(splits, found.images, strict=True)),
        "classes": [
            {
                "folder": one.folder,
                "name": one.name,
                "images": dict(zip(splits, one.images, strict=True)),
                "prompt": one.prompt,
            }
            for one in found.classes
        ],
    }


def format_classes(found: Overview, width: int) -> str:
    """Return a table with a row a class, its prompt at the end or, where that is too long, in a line of its own."""
    named = any(one.name != one.folder for one in found.classes)
    rows = [("folder", *(["name"] if named else []), *(split or "images" for split in found.splits))]
    for one in found.classes:
        texts = (one.folder, one.name) if named else (one.folder,)
        short = [wording.shorten(text, NAME_WIDTH) for text in texts]
        rows.append((*short, *map(str, one.images)))
    lines = wording.aligned_whole(rows).splitlines()
    prompts = [wording.escape(one.prompt) for one in found.classes]
    room = width - max(map(wording.columns_of, lines)) - 2
    if all(wording.columns_of(prompt) <= room for prompt in prompts):
        lines = [f"{line}  {words}" for line, words in zip(lines, ["prompt", *prompts], strict=True)]
    else:
        heading, *body = lines
        lines = [heading, *(text for line, words in zip(body, prompts, strict=True) for text in (line, INDENT + words))]
    counts = ", ".join(f"{n} {split or 'images'}" for split, n in zip(found.splits, found.images, strict=True))
    return "\n".join([*lines, "", f"{len(found.classes)} classes; {counts}"])
