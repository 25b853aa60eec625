"""`sharpzo-mlx encode FOLDER...`: encodes images once, so that `tune`, `evaluate`, `predict` and `compare` find them.

>>> sharpzo-mlx encode photos/ --cluster local:2  # doctest: +SKIP
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click
import cloup

from sharpzo_mlx.cli import wording
from sharpzo_mlx.cli.cluster_options import cluster_options
from sharpzo_mlx.cli.image_bar import open_bar
from sharpzo_mlx.cli.options import PATH
from sharpzo_mlx.errors import UserError

if TYPE_CHECKING:
    from sharpzo_mlx.features.filling import Filled


@cloup.command("encode")
@click.argument("folders", metavar="FOLDER...", nargs=-1, required=True, type=PATH)
@cloup.option("--model", type=PATH, help="Model folder or name  [the default of `convert`]")
@cloup.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout at the end.")
@cluster_options
def encode_command(folders: tuple[Path, ...], *, model: Path | None, as_json: bool) -> None:
    """Encode the images in each FOLDER, and in folders inside, or in a list of images, into the feature cache.

    What is in the cache already is passed over: an interrupted command goes on where it stopped.
    """
    from sharpzo_mlx.clip import handle
    from sharpzo_mlx.datasets.listing import ImageListing
    from sharpzo_mlx.features.filling import Filled, fill_cache_steps

    clip = handle.load(model)
    found, named = Filled(), 0
    with open_bar(sum(1 for _ in ImageListing(folders, recursive=True))) as bar:
        for found in fill_cache_steps(clip, folders):
            for path, reason in found.unreadable[named:]:
                print(wording.escape(f"note: {path}: {reason}"), file=sys.stderr, flush=True)
            named = len(found.unreadable)
            bar.move(found.done)
        bar.write(f"{wording.as_json(_make_record(found)) if as_json else _describe(found)}\n")
    if found.done == len(found.unreadable):
        raise UserError("no image could be read: give folders of image files (JPEG, PNG, WebP, GIF, TIFF, BMP, HEIC)")


def _make_record(found: Filled) -> dict[str, int]:
    return {"encoded": found.encoded, "cached": found.cached, "unreadable": len(found.unreadable)}


def _describe(found: Filled) -> str:
    unread = f", {len(found.unreadable)} could not be read" if found.unreadable else ""
    return f"{found.encoded} images encoded, {found.cached} were in the cache{unread}"
