"""`sharpzo-mlx predict RUN PATH...`: prints the most probable labels of each image, with their probabilities.

A path is an image, a folder of images, a file that lists or stores images, or `-` for a list on stdin. Lines, `--csv`
and `--jsonl` come batch by batch, on stdout or in `--output FILE`, so that Ctrl-C keeps what was done and `--resume`
goes on; `--json` is one object at the end. With `--reject` an image unlike the labelled ones is none of the classes;
with `--multi-label` each label of a SigLIP has a probability of its own. An image that cannot be read is named on
stderr (and in the records) and does not stop the others.

>>> sharpzo-mlx predict runs/pets-clip-0 holiday/ --output labels.csv --resume  # doctest: +SKIP
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import cloup

from sharpzo_mlx.cli import path_input, wording
from sharpzo_mlx.cli.cluster_options import cluster_options
from sharpzo_mlx.cli.image_bar import ImageBar, open_bar
from sharpzo_mlx.cli.options import PATH, at_most_one
from sharpzo_mlx.cli.prediction_file import PredictionFile, style_of
from sharpzo_mlx.cli.prediction_text import STYLES, as_record
from sharpzo_mlx.errors import UserError

if TYPE_CHECKING:
    from sharpzo_mlx.evaluation.prediction import Prediction

    Batches = Generator[list[Prediction], None, None]

REJECT_HELP = (
    "Say `none of them` of images unlike the labelled ones; about this share of the labelled kind is turned away too."
)
MULTI_LABEL_HELP = "All labels likelier than not, each by itself; --top does not count then. SigLIP models only."
COVERAGE_HELP = "Labels per image: as many as needed to hold the right one this often; --top does not count then."
OUTPUT_HELP = "Write CSV or JSON Lines to this file, as its ending says."


@cloup.command("predict")
@click.argument("run_folder", metavar="RUN", type=PATH)
@click.argument("paths", metavar="PATH...", nargs=-1, required=True, type=PATH)
@cloup.option("--recursive", is_flag=True, help="Read folders inside folders too.")
@cloup.option("-0", "--null", is_flag=True, help="The list on stdin is separated by NUL bytes, not by lines.")
@cloup.option("--top", default=1, show_default=True, type=click.IntRange(min=1), help="Labels per image.")
@cloup.option("--reject", type=float, metavar="RATE", help=REJECT_HELP)
@cloup.option("--set-coverage", "coverage", type=float, metavar="SHARE", help=COVERAGE_HELP)
@cloup.option("--multi-label", is_flag=True, help=MULTI_LABEL_HELP)
@cloup.option("--model", type=PATH, help="Model folder, if it has moved since tuning.")
@cloup.option("--output", type=PATH, metavar="FILE", help=OUTPUT_HELP)
@cloup.option("--resume", is_flag=True, help="Go on with the images that --output does not hold yet.")
@cloup.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout, at the end.")
@cloup.option("--jsonl", "as_jsonl", is_flag=True, help="One JSON object a line for each image, batch by batch.")
@cloup.option("--csv", "as_csv", is_flag=True, help="Rows of path,label,probability,error,rejected, batch by batch.")
@cluster_options
def predict_command(
    run_folder: Path,
    paths: tuple[Path, ...],
    *,
    null: bool,
    output: Path | None,
    resume: bool,
    as_json: bool,
    as_jsonl: bool,
    as_csv: bool,
    **settings: Any,
) -> None:
    """Label images with the run RUN, a folder or the name OWNER/NAME of a run on the hub.

    Each PATH is an image, a folder of images, a CSV, TSV, Parquet or tar file that lists or stores images, or - for a
    list on stdin, with one path a line.
    """
    style = at_most_one(json=as_json, csv=as_csv, jsonl=as_jsonl)
    _check_arguments(paths, null=null, output=output, resume=resume, style=style)
    count = _count(paths, settings["recursive"])

    def begin(skip: Callable[[Path], bool] | None) -> Batches:
        return _begin(run_folder, path_input.named_paths(paths, null=null), skip, **settings)

    with open_bar(count) as bar:
        if output is not None:
            _write_file(PredictionFile(output, style or style_of(output), resume=resume), begin, bar)
        elif style == "json":
            _print_object(begin(None), bar)
        else:
            _print_batches(begin(None), style or "lines", bar)


def _check_arguments(
    paths: tuple[Path, ...], *, null: bool, output: Path | None, resume: bool, style: str | None
) -> None:
    if null and path_input.STDIN not in paths:
        raise UserError("--null: is for the list on stdin; give - among the paths")
    if resume and output is None:
        raise UserError("--resume: goes on with a file; name it with --output FILE")
    if output is not None and style == "json":
        raise UserError("--output: is written batch by batch, and --json is one object; give --jsonl or --csv")


def _count(paths: tuple[Path, ...], recursive: bool) -> int | None:
    """Return the number of images, which a list on stdin does not tell."""
    from sharpzo_mlx.datasets.listing import ImageListing

    return None if path_input.STDIN in paths else sum(1 for _ in ImageListing(paths, recursive=recursive))


def _begin(
    run_folder: Path, paths: Any, skip: Callable[[Path], bool] | None, *, model: Path | None, **settings: Any
) -> Batches:
    from sharpzo_mlx.clip import handle
    from sharpzo_mlx.evaluation.prediction import predict_steps
    from sharpzo_mlx.hub.runs import load_run

    clip = None if model is None else handle.load(model)
    return predict_steps(load_run(run_folder, progress=sys.stderr.isatty()), paths, clip=clip, skip=skip, **settings)


def _note(line: str) -> None:
    """Write a line on the current stderr, which stands above a bar."""
    print(wording.escape(f"note: {line}"), file=sys.stderr, flush=True)


class _Tally:
    """Counts the images, moves the bar, and names those that cannot be read."""

    def __init__(self, bar: ImageBar) -> None:
        self.done = self.unreadable = self.passed_over = 0
        self._bar = bar

    def add(self, batch: list[Prediction]) -> None:
        for one in batch:
            if one.error:
                self.unreadable += 1
                _note(f"{one.path}: {one.error}")
        self.done += len(batch)
        self._bar.move(self.done + self.passed_over)

    def finish(self) -> None:
        if self.done and self.done == self.unreadable:
            raise UserError("no image could be read: give image files (JPEG, PNG, WebP, GIF, TIFF, BMP, HEIC, AVIF)")


def _print_batches(batches: Batches, style: str, bar: ImageBar) -> None:
    tally, header = _Tally(bar), STYLES[style].header
    with closing(batches):
        for batch in batches:
            bar.write(header + STYLES[style].write(batch))
            header = ""
            tally.add(batch)
    tally.finish()


def _print_object(batches: Batches, bar: ImageBar) -> None:
    tally, records = _Tally(bar), []
    with closing(batches):
        for batch in batches:
            records += [as_record(prediction) for prediction in batch]
            tally.add(batch)
    bar.write(wording.as_json({"predictions": records}) + "\n")
    tally.finish()


def _write_file(file: PredictionFile, begin: Callable[[Callable[[Path], bool]], Batches], bar: ImageBar) -> None:
    tally = _Tally(bar)

    def skip(path: Path) -> bool:
        tally.passed_over += (known := file.holds(path))
        return known

    try:
        with file, closing(begin(skip)) as batches:
            for batch in batches:
                file.append(STYLES[file.style].write(batch))
                tally.add(batch)
    except KeyboardInterrupt:
        _note("the same command with --resume goes on with the rest")
        raise
    known = f", {tally.passed_over} were there already" if tally.passed_over else ""
    unread = f", {tally.unreadable} could not be read" if tally.unreadable else ""
    bar.write(wording.escape(f"{file.path}: {tally.done} images written{unread}{known}") + "\n")
    tally.finish()
