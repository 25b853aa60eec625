"""`sharpzo-mlx demo`: tune, evaluate and predict on a bundled small model and painted images, without network.

The command paints photographs of animals and plants, tunes a prompt for them, and shows the accuracy on other pictures
and under three shifts, beside zero-shot. Without `--output`, only image features in the cache remain afterwards.

>>> sharpzo-mlx demo --output demo  # doctest: +SKIP
"""

from __future__ import annotations

import shlex
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sharpzo_mlx.cli import wording
from sharpzo_mlx.cli.options import PATH
from sharpzo_mlx.errors import UserError
from sharpzo_mlx.files import check_place

if TYPE_CHECKING:
    from sharpzo_mlx.demo import Finished, Shown

INTRODUCTION = """
A very small CLIP knows drawings of everything, and photographs of man-made
things by day. It was tuned on {shots} photographs each of {classes} animals and plants at
dusk, by forward passes alone. The pictures below are none of those photographs.
Pictures unlike them are left to the words "a photo of a {{}}." alone.
"""
WORDS = {
    "test": "photographs at dusk",
    "day": "photographs by day",
    "night": "photographs at night",
    "pencil": "pencil drawings",
}


@click.command("demo")
@click.option("--output", type=PATH, help="Keep images and run in this folder.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0), help="The seed of images and tuning.")
def demo_command(output: Path | None, seed: int) -> None:
    """Paint images, tune, evaluate and predict in under a minute.

    The bundled model is very small. It knows drawings of animals and plants, and photographs of things; the images
    are photographs of animals and plants. Nothing is downloaded.
    """
    started = time.monotonic()
    with _place(output, seed) as root:
        finished = _run(root, seed)
        click.echo(summary(finished))
        click.echo(f"\nall in {wording.duration(time.monotonic() - started)}")
        click.echo(_next_step(finished, kept=output is not None))


@contextmanager
def _place(output: Path | None, seed: int) -> Iterator[Path]:
    """Yield the folder for images and run: the user's own, or a temporary one."""
    if output is not None:
        from sharpzo_mlx import demo

        if output.is_file() or (output.is_dir() and not demo.can_continue(output, seed)):
            raise UserError(f"{output}: not empty; give a new folder to --output")
        check_place(output)
        yield output
        return
    with tempfile.TemporaryDirectory(prefix="sharpzo-mlx-demo-") as folder:
        yield Path(folder)


def _run(root: Path, seed: int) -> Finished:
    from sharpzo_mlx import demo
    from sharpzo_mlx.cli import progress
    from sharpzo_mlx.evaluation.folders import FolderProgress

    with progress.open_painter() as draw:
        for record in demo.show(root, seed=seed):
            if isinstance(record, demo.Finished):
                return record
            if isinstance(record, demo.Rendered):
                # shown like the progress in any other folder, without the temporary ones around it
                draw(FolderProgress(Path(record.folder.name), record.done, record.total))
            else:
                draw(record)
    raise AssertionError("show ends with Finished")


def summary(finished: Finished) -> str:
    """Return the text of the result: introduction, table of shifts, some pictures with labels, and cost."""
    classes = len(finished.run.prompt.class_names)
    introduction = INTRODUCTION.format(shots=finished.shots, classes=classes)
    rows = [("", "images", "zero-shot", "tuned", "change")]
    for row in finished.report.folders:
        shares = wording.percent(row.zero_shot), wording.percent(row.tuned), wording.points(row.zero_shot, row.tuned)
        rows.append((WORDS[row.path.name], str(row.images), *shares))
    results = finished.run.results
    cost = (
        f"{results.queries} queries in {wording.duration(results.seconds)}, "
        f"{wording.amount(results.peak_memory_mb * 2**20)} of memory, no gradient"
    )
    pictures = "\n".join(_labelled(shown) for shown in finished.shown)
    return f"{introduction}\n{wording.aligned(rows)}\n\n{pictures}\n\n{cost}"


def _labelled(shown: Shown) -> str:
    words = ", ".join(f"{label} {wording.percent(share)}" for label, share in shown.prediction.labels)
    return f"a {shown.truth} at dusk: {words}"


def _next_step(finished: Finished, *, kept: bool) -> str:
    """Say where the results are, and which command to run next."""
    if not kept:
        following = "sharpzo-mlx convert, then sharpzo-mlx tune FOLDER"
        return f"next: {following}\n(demo --output DIR keeps the images and the run)"
    folder = finished.run.folder
    example = finished.report.folders[-1].path
    following = shlex.join(["sharpzo-mlx", "evaluate", str(folder), str(example)])
    lines = (f"run: {folder}", f"images: {folder.parent / 'images'}", f"next: {following}")
    return "\n".join(map(wording.escape, lines))
